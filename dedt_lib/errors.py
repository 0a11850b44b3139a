"""The one exception that this library raises for input it cannot use."""


class DedtError(Exception):
    """An input, a parameter or a stored file cannot be used; the message says what to do about it."""
