"""A real Prometheus with the alerts of this repository. IO: its process, files, HTTP."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from clusters import get
from free_ports import free_port
from generate_observability import FOLDER, scraping
from patience import until

PROMETHEUS = shutil.which("prometheus")


class Prometheus:
    """A Prometheus that runs, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def get(self, path: str) -> Any:
        """Return what a path of its API has."""
        body = await get(f"{self._url}/api/v1/{path}")
        assert body["status"] == "success", body
        return body["data"]

    async def has_data(self, query: str) -> bool:
        """Return whether a query finds a number."""
        found = await self.get(f"query?query={quote(query)}")
        return any(not math.isnan(float(each["value"][1])) for each in found["result"])

    async def firing(self, alert: str) -> list[dict[str, Any]]:
        """Return the alerts of this name that fire."""
        found = (await self.get("alerts"))["alerts"]
        return [
            each
            for each in found
            if each["labels"]["alertname"] == alert and each["state"] == "firing"
        ]


def configure(folder: Path, configuration: str) -> None:
    """Make a folder with a configuration that scrapes every second, and the alerts."""
    folder.mkdir()
    shutil.copy(FOLDER / "alerts.yml", folder)
    quick = configuration.replace("interval: 5s", "interval: 1s")
    (folder / "prometheus.yml").write_text(quick)


@asynccontextmanager
async def prometheus(
    folder: Path, routers: list[str], nodes: list[str]
) -> AsyncIterator[Prometheus]:
    """Run one that scrapes these members every second and knows the alerts."""
    configure(folder, scraping(routers, nodes))
    url = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(PROMETHEUS),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={url}",
            stdout=log,
            stderr=log,
        )

    async def is_ready() -> bool:
        assert process.returncode is None, (folder / "log").read_text()
        with suppress(aiohttp.ClientConnectionError):
            async with aiohttp.ClientSession() as session:
                return (await session.get(f"http://{url}/-/ready")).status == 200
        return False

    try:
        await until(is_ready)
        yield Prometheus(f"http://{url}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
