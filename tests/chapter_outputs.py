"""An nbval plugin (``-p chapter_outputs``): a chapter must show a picture and must not print to stderr."""

import pytest

PICTURES = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a cell that writes to stderr, and count its pictures."""
    outcome = yield
    outputs = item.test_outputs or []
    said = [output["text"] for output in outputs if output.get("name") == "stderr"]
    # This worker may wait for a stage that another one computes.
    strange = [line for line in "".join(said).splitlines() if not line.startswith("dedt: waiting for")]
    assert not strange, strange
    shown = sum("image/png" in output.get("data", {}) for output in outputs)
    item.config.stash[PICTURES] = item.config.stash.get(PICTURES, 0) + shown
    return outcome


def pytest_sessionfinish(session):
    """Fail a chapter without a picture."""
    if not session.config.stash.get(PICTURES, 0):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("The chapter shows no picture.")
