"""The loop of these tests: a simulated one, unless a test, or who runs it, asks for the system's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import pytest

from capamesh.simulation.sim_loop import SimLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if config.getoption("real_loop") or item.get_closest_marker("real_loop"):
        return {"real": asyncio.SelectorEventLoop}
    return {"sim": partial(SimLoop, config.getoption("loop_seed"))}
