"""Requests wait in virtual time alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from virtual_time import VirtualLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    del config, item
    return {"virtual": VirtualLoop}
