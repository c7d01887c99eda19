"""The check that `make lint` makes of tests: no real clock, no chosen port."""

from __future__ import annotations

import pytest
from check_tests import faults_of, waits

UNIT, INTEGRATION, WHOLE = (f"tests/{name}/test_a.py" for name in ("unit", "integration", "e2e"))
SLEEP, PAUSE, CLOCK = "time.sleep(1)", "await asyncio.sleep(0.1)", "time.monotonic()"
POLL = "from patience import until\nawait until(lambda: 1, 'never')"
PORT = "from free_ports import free_port"


@pytest.mark.parametrize(
    ("text", "unit", "integration", "whole"),
    [
        (SLEEP, True, True, False),
        (CLOCK, True, True, False),
        (PAUSE, True, False, False),
        (POLL, True, False, False),
        (PORT, True, True, True),
        (f"pytestmark = pytest.mark.real_loop('why')\n{PAUSE}", True, True, False),
        (f"from virtual_time import run\n{PAUSE}", False, False, False),
        (f"from virtual_time import run\n{CLOCK}", True, True, False),
        ("await asyncio.sleep(0)", False, False, False),
        ("clock = time.monotonic", False, False, False),
        ("def until(): ...\nuntil()", False, False, False),
    ],
)
def test_waits_are_found_where_a_loop_is_real(
    text: str, unit: bool, integration: bool, whole: bool
) -> None:
    found = [bool(waits(path, text)) for path in (UNIT, INTEGRATION, WHOLE)]
    assert found == [unit, integration, whole]
    # folders of the real loop are those of their conftest
    assert waits("tests/integration/links/test_a.py", PAUSE)


def test_count_may_only_be_what_is_found() -> None:
    (wait,) = waits(UNIT, SLEEP)
    assert list(faults_of(UNIT, [wait], 1)) == []
    assert next(faults_of(UNIT, [wait], 0)).startswith(f"{UNIT}:1: sleeps: wait for an event")
    (fault,) = faults_of(UNIT, [wait], 2)
    said = "1 such places, tests/waits.txt says 2: run scripts/check_tests.py --write"
    assert fault == f"{UNIT}: {said}"
