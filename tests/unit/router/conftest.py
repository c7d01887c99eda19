"""The tests of a router wait in virtual time, but for those that wait for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from virtual_time import VirtualLoop

THREADED = {
    "test_answers.py",
    "test_group_commit.py",
    "test_job_parts.py",
    "test_key_watch.py",
    "test_planner.py",
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    del config
    if item.path.name in THREADED:
        return {"real": asyncio.SelectorEventLoop}
    return {"virtual": VirtualLoop}
