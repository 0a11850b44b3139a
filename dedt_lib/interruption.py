"""Signals that stop a run: at once or, where work would be lost, at the next point where nothing is lost.

The command line handles signals all the time.  Elsewhere, as in a notebook, only SIGINT is handled, and only
while work could be lost.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME = 1.0
"""Seconds in which a second signal counts as the first: timeout(1), schedulers and launchers send two."""


class Stopped(KeyboardInterrupt):
    """Raised where a run ends because of signal number ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of the traceback."""
        return [f"Stopped by signal {self.signum}; run the cell again to continue from the last step."]


class _Wish:
    """State of the signal handlers: the signal received, its time, and how many blocks postpone it."""

    signum, when, postponed = None, 0.0, 0


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Within the block the first signal raises :class:`Stopped`; a later one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A signal that is ignored, as under nohup, stays ignored.
    before = {s: signal.getsignal(s) for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
    _Wish.signum = None
    for signum in before:
        signal.signal(signum, _handle)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _Wish.signum = None


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Within the block a signal only makes :func:`asked` true; Stopped is raised at the end at the latest.

    Outside :func:`handled` this holds for the first SIGINT only, such as that of a notebook's stop button.
    """
    in_main = threading.current_thread() is threading.main_thread()
    alone = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if alone:
        signal.signal(signal.SIGINT, _note)
    _Wish.postponed += 1
    try:
        yield
    finally:
        _Wish.postponed -= 1
        wish = _Wish.signum
        if alone:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _Wish.signum = None
    if wish is not None and not _Wish.postponed:
        raise Stopped(wish)


def asked() -> bool:
    """Whether a signal has asked this process to stop."""
    return _Wish.signum is not None


def stop() -> NoReturn:
    """Raise :class:`Stopped`; in a process that the signal has not reached, as if by SIGTERM."""
    raise Stopped(_Wish.signum or signal.SIGTERM)


def _note(signum, frame):
    if asked():
        signal.default_int_handler(signum, frame)
    _Wish.signum = signum


def _handle(signum, frame):
    if asked() and time.monotonic() - _Wish.when > SAME:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    elif not asked():
        _Wish.signum, _Wish.when = signum, time.monotonic()
        if not _Wish.postponed:
            stop()
