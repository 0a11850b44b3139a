"""What people see of results: tables, findings, figures, and the words of the paper."""
