from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from router_http import Http, serving


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with serving() as http:
        yield http
