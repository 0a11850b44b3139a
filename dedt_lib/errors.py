"""The exception that this library raises for input it cannot use."""


class DedtError(Exception):
    """An input, a parameter or a stored file cannot be used; the message says what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message, without the traceback, which would not help the user."""
        return [f"{type(self).__name__}: {self}"]
