"""Both event loops, because links are served by uvloop in production and by asyncio where it is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from link_sockets import Members

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return LOOPS


@pytest.fixture
def members(tmp_path: Path) -> Members:
    return Members(tmp_path / "home")


@pytest.fixture
def strangers(tmp_path: Path) -> Members:
    """Another network that calls itself by the same name."""
    return Members(tmp_path / "elsewhere")
