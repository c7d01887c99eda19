"""Two routers, of two networks even, that share one store of keys: a file, or a database that stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from patience import until
from postgres import PASSWORD, QUOTED, Postgres, served

from capamesh.cli.__main__ import run
from capamesh.cli.local_cluster import LocalCluster

PROMISED_S = 2.0
PATIENCE_S = 10 * PROMISED_S
"""Far more than is promised, for machines with much else to do."""
UNKNOWN = "cm_unknown0_" + 32 * "0"


@pytest.fixture(params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres | None]:
    """Yield the server of the database; None: the keys are in a file."""
    if request.param == "sqlite":
        yield None
        return
    with served() as server:
        yield server


@pytest.fixture
def place(server: Postgres | None, tmp_path: Path) -> str:
    """Return the place of the keys."""
    return str(tmp_path / "keys.db") if server is None else server.new_database()


@pytest.fixture
def keys(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Return what runs `capamesh keys`."""
    monkeypatch.setenv("CAPAMESH_KEYS", place)

    def call(*words: str) -> Any:
        capsys.readouterr()
        assert run(["keys", *words, "--json"] if words[0] != "revoke" else ["keys", *words]) == 0
        shown = capsys.readouterr().out
        return shown if words[0] == "revoke" else json.loads(shown)

    return call


@pytest.fixture
async def routers(
    place: str, built_models: Path, tmp_path: Path
) -> AsyncIterator[list[LocalCluster]]:
    options = ("--keys", place)
    async with AsyncExitStack() as stack:
        clusters = [
            LocalCluster(tmp_path / name, built_models, 0, router_options=options)
            for name in ("one", "two")
        ]
        await asyncio.gather(*map(stack.enter_async_context, clusters))
        yield clusters


async def statuses(routers: list[LocalCluster], text: str) -> list[int]:
    """Return what each router answers to one with a key, on a new connection."""
    found: list[int] = []
    headers = {"Authorization": f"Bearer {text}"} if text else {}
    for router in routers:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{router.http_url}/v2", headers=headers) as response,
        ):
            found.append(response.status)
    return found


async def wait_until(status: int, routers: list[LocalCluster], text: str) -> None:
    """Return once all routers answer so."""

    async def is_so() -> bool:
        return set(await statuses(routers, text)) == {status}

    await until(is_so, limit_s=PATIENCE_S)


@pytest.mark.smoke
async def test_key_is_made_and_revoked_for_all_routers_of_a_store(
    routers: list[LocalCluster], keys: Callable[..., Any], server: Postgres | None
) -> None:
    assert await statuses(routers, "") == [200, 200]
    made, other = (keys("create", name) for name in ("lab", "shop"))
    await wait_until(401, routers, "")
    await wait_until(200, routers, made["key"])
    await wait_until(200, routers, other["key"])
    keys("revoke", made["id"])
    await wait_until(401, routers, made["key"])
    assert await statuses(routers, other["key"]) == [200, 200]
    if server is not None:
        server.freeze()
        await wait_until(503, routers, UNKNOWN)
        assert await statuses(routers, other["key"]) == [200, 200]
        server.thaw()
        await wait_until(401, routers, UNKNOWN)
        server.stop()
        await wait_until(503, routers, UNKNOWN)
        assert await statuses(routers, other["key"]) == [200, 200]
        server.start()
        await wait_until(401, routers, UNKNOWN)
        last = keys("create", "late")
        await wait_until(200, routers, last["key"])
    for router in routers:
        log = router.router.log_file.read_text()
        for secret in (made["key"][12:], other["key"][12:], PASSWORD, QUOTED):
            assert secret not in log
