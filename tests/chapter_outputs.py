"""An nbval plugin (``-p chapter_outputs``): what a chapter that runs has to show, and what it must not say."""

import pytest

PICTURES = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Let a cell fail that warns, and count its pictures."""
    outcome = yield
    outputs = item.test_outputs or []
    said = [output["text"] for output in outputs if output.get("name") == "stderr"]
    # Another worker may be at the stage that this one needs.
    strange = [line for line in "".join(said).splitlines() if not line.startswith("dedt: waiting for")]
    assert not strange, strange
    shown = sum("image/png" in output.get("data", {}) for output in outputs)
    item.config.stash[PICTURES] = item.config.stash.get(PICTURES, 0) + shown
    return outcome


def pytest_sessionfinish(session):
    """Let a chapter fail that has no picture."""
    if not session.config.stash.get(PICTURES, 0):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("The chapter shows no picture.")
