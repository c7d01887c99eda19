from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from router_http import Http
from tidy_router import tidy


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with tidy() as http:
        yield http
