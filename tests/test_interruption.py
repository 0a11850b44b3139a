"""Stopping a run by signals."""

import signal
import threading

import pytest
import tiny

from dedt_lib import interruption
from dedt_lib.interruption import Stopped, asked, handled, postponed


@pytest.fixture(params=interruption.SIGNALS)
def signum(request):
    """A signal with its default handler; where tests run in the background it may be ignored."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_stops_at_once_where_nothing_is_lost(signum):
    before = signal.getsignal(signum)
    with pytest.raises(Stopped) as stopped, handled():
        signal.raise_signal(signum)
        pytest.fail("not stopped")
    assert stopped.value.signum == signum and isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(signum) == before and not asked()


def test_a_postponed_signal_is_told_and_stops_at_the_end_at_the_latest():
    reached = []
    with pytest.raises(Stopped), handled():
        with postponed():
            assert not asked()
            signal.raise_signal(signal.SIGTERM)
            reached.append(asked())
        reached.append("behind")
    assert reached == [True]


def test_a_notebook_is_stopped_at_the_next_good_place_and_asked_twice_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Stopped), postponed():
            signal.raise_signal(signal.SIGINT)
            assert asked()
        with pytest.raises(KeyboardInterrupt) as at_once, postponed():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("not stopped")
        assert not isinstance(at_once.value, Stopped) and not asked()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_in_a_postponed_block_stays_what_it_is():
    with pytest.raises(ValueError), handled(), postponed():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handled():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_the_main_thread_has_handlers():
    def work():
        with handled():
            done.append(1)

    done = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


CHILD = """
import os, signal, sys, time
from dedt_lib import interruption

interruption.SAME = 0.2
with interruption.handled(), interruption.postponed():
    for wait in map(float, sys.argv[1:]):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(wait)
    os._exit(7)
"""


@pytest.mark.parametrize("waits, status", [(("0", "0"), 7), (("0.3", "0"), -signal.SIGTERM)])
def test_a_second_signal_ends_at_once_unless_it_is_the_first_sent_twice(waits, status):
    assert tiny.python("-c", CHILD, *waits).returncode == status


def test_ipython_shows_what_to_do_and_not_the_way_there():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    for error, told in (
        ("DedtError('do this')", "DedtError: do this"),
        ("Stopped(2)", "continue from the last step"),
    ):
        with capture_output() as shown:
            InteractiveShell.instance().run_cell(
                "from dedt_lib.errors import DedtError\nfrom dedt_lib.interruption import Stopped\n"
                f"raise {error}"
            )
        assert told in shown.stdout + shown.stderr and "Traceback" not in shown.stdout + shown.stderr
