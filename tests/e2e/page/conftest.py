"""A router that knows a fleet with something of everything wrong, and a browser that looks at its pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browser import Tab, browser, chromium_path
from page_fleets import troubled
from router_http import Http, serving

HERE = Path(__file__).parent
NewTab = Callable[[], Coroutine[Any, Any, Tab]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the tests of this folder out where there is no browser."""
    reason = "no Chromium is installed (Debian: chromium-headless-shell)"
    for item in items:
        if HERE in item.path.parents and chromium_path() is None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[Http]:
    async with serving() as http:
        troubled(http.fleet)
        http.unreachable("10.0.0.7:4100", "the connection was refused")
        yield http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def new_tab() -> AsyncIterator[NewTab]:
    """Run a browser, and return what opens a tab in it."""
    async with browser(chromium_path() or "") as new_tab:
        yield new_tab


@pytest_asyncio.fixture(loop_scope="module")
async def opened(new_tab: NewTab) -> AsyncIterator[Callable[..., Coroutine[Any, Any, Tab]]]:
    """Return what opens a page of a router, and waits until something is so of it."""
    tabs: list[Tab] = []

    async def opened(http: Http, path: str, until: str, width: int = 1280) -> Tab:
        tabs.append(tab := await new_tab())
        await tab.resize(width, 900, is_phone=width < 500)
        await tab.open(f"http://{http.client.host}:{http.client.port}/{path}")
        await tab.wait_for(until)
        return tab

    yield opened
    for tab in tabs:
        await tab.close()
