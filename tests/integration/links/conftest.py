"""Links are served by uvloop in production, and by asyncio where it is missing: what meets the loop itself is tried on both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from link_sockets import Members

ON_BOTH = {"test_honest_links.py", "test_tls_transport.py"}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    uv = {"uvloop": uvloop.new_event_loop}
    return uv | ({"asyncio": asyncio.new_event_loop} if item.path.name in ON_BOTH else {})


@pytest.fixture
def members(tmp_path: Path) -> Members:
    return Members(tmp_path / "home")


@pytest.fixture
def strangers(tmp_path: Path) -> Members:
    """Another network that calls itself by the same name."""
    return Members(tmp_path / "elsewhere")
