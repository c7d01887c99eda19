from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fleet_fakes import offer
from job_pages import JobClients, make_place
from router_http import serving


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[JobClients]:
    """Clients of batch jobs, whose router has a real store and a place with an input."""
    place = make_place(tmp_path / "place")
    async with serving(jobs_places=(str(place),)) as http:
        http.node("A", models=(offer(), offer("n", "2")))
        yield JobClients(http, place)
