"""Pages to look at: self-contained HTML, which opens without a network and asks no host."""
