"""Self-contained HTML pages, which open without a network and contact no server."""
