"""The tests of a router wait in virtual time, but for those that wait for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from virtual_time import new_loop

HERE = Path(__file__).parent
REAL = {
    "http/test_answers.py": "answers are packed in threads",
    "jobs/store/test_group_commit.py": "a store has a thread of its own",
    "jobs/test_planner.py": "a store has a thread of its own",
    "process/test_job_parts.py": "a store has a thread of its own",
    "process/test_key_watch.py": "keys are read in threads",
}
"""Files, and what of the system they need."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    del config
    if str(item.path.relative_to(HERE)) in REAL:
        return {"real": asyncio.SelectorEventLoop}
    return {"virtual": new_loop}
