"""Settings of all tests."""

from __future__ import annotations

import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from capamesh.protocol import implementation

# A property is tried 30 times where it is tested on every run, on the same examples each time; where there is time
# (`HYPOTHESIS_PROFILE=thorough make test-unit`), more often and on new ones. Tests that set their own number keep it.
# How long an example takes, to draw or to try, says only how busy the machine is.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", UNTIMED, max_examples=30, derandomize=True)
settings.register_profile("thorough", UNTIMED, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# A shell that starts tests in the background has them ignore Ctrl-C, and with them all that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The modules and tests that are read in live until the end: the collector need not look through them, neither
# while they are (a fifth of that time) nor in each test that calls it (a quarter of a second each time).
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("capamesh")
    group.addoption(
        "--real-loop", action="store_true", help="run integration tests on the system's loop"
    )
    group.addoption(
        "--again", action="store_true", help="ask tests again that failed, but none in virtual time"
    )
    group.addoption(
        "--loop-seed", type=int, help="have the simulated loop draw the order of what is ready"
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    # Some examples are constants of our modules that are read in. Those that a test reads in later do not count:
    # which these are differs with what ran before in the same process, and the examples would differ with it.
    if any(item.get_closest_marker("hypothesis") for item in session.items):
        constants = providers._get_local_constants()
        providers._get_local_constants = lambda: constants
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests that need the sources where the compiled modules run; mark all but the first case of a test with seeds."""
    seen: set[str] = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if item.get_closest_marker("seeds") is not None and test in seen:
            item.add_marker(pytest.mark.full)
        seen.add(test)
    if implementation.RUNNING == "compiled":
        skip = pytest.mark.skip(reason="what it replaces cannot be replaced in compiled modules")
        for item in items:
            if item.get_closest_marker("pure") is not None:
                item.add_marker(skip)
