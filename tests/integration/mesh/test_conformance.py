"""js-libp2p, which shares no code with the sidecar, joins the mesh by what the docstrings say of the wire."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from capamesh.protocol.adverts import open_envelope
from capamesh.protocol.network import Membership, Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Fleet

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(
        shutil.which("npm") is None, reason="npm, which installs js-libp2p, is not here"
    ),
]

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "js"
INSTALL_LIMIT_S = 300.0
LIMIT_S = 40.0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def peer_program() -> tuple[str, ...]:
    """Install the packages of the lock file once, and return the command that runs the peer."""
    CACHE.mkdir(parents=True, exist_ok=True)
    lock = (HERE / "js" / "package-lock.json").read_text(encoding="utf-8")
    installed = CACHE / "installed-lock.json"
    if not installed.exists() or installed.read_text(encoding="utf-8") != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "js" / name, CACHE)
        npm = await asyncio.create_subprocess_exec(
            "npm",
            "ci",
            "--no-audit",
            "--no-fund",
            cwd=CACHE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(INSTALL_LIMIT_S):
            output, _ = await npm.communicate()
        if npm.returncode:
            pytest.skip(
                f"npm could not install js-libp2p: {output.decode(errors='replace')[-300:]}"
            )
        installed.write_text(lock, encoding="utf-8")
    shutil.copy(HERE / "js" / "peer.mjs", CACHE)
    return str(CACHE / "node_modules" / ".bin" / "node"), str(CACHE / "peer.mjs")


@asynccontextmanager
async def js_peer(
    program: tuple[str, ...], fleet: Fleet, membership: Membership
) -> AsyncIterator[asyncio.StreamReader]:
    process = await asyncio.create_subprocess_exec(
        *program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    settings = {
        "key": membership.identity.private_bytes.hex(),
        "chain": [one.hex() for one in membership.chain],
        "ca": membership.ca_der.hex(),
        "network": fleet.network.owner.network_id,
        "target": fleet.routers[0].client.addrs[0],
        "topic": fleet.network.adverts,
        "bootNs": str(time.time_ns()),
        "body": {"said": "by js-libp2p"},
    }
    process.stdin.write(json.dumps(settings).encode() + b"\n")
    try:
        yield process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(output: asyncio.StreamReader) -> dict[str, object]:
    async with asyncio.timeout(LIMIT_S):
        return json.loads(await output.readline())


async def test_an_independent_implementation_proves_membership_is_heard_and_hears(
    fleet: Fleet, peer_program: tuple[str, ...]
) -> None:
    first, node = fleet.routers[0], fleet.nodes[0]
    membership = fleet.network.join(Role.ROUTER)
    peer = membership.identity.peer_id
    async with js_peer(peer_program, fleet, membership) as output:
        assert await told(output) == {
            "proved": first.peer,
            "muxer": "/yamux/1.0.0",
            "security": "/noise",
        }
        await first.until(lambda: first.client.members.get(peer) is Role.ROUTER, "let in")
        assert (await told(output))["published"] >= 1
        for router in fleet.routers:
            await router.until(lambda router=router: any(who == peer for _, _, who in router.heard))
        envelope = next(data for _, data, who in first.heard if who == peer)
        opened = open_envelope(envelope, first.membership.trust(), time.time_ns() // 10**6)
        assert opened.body == {"said": "by js-libp2p"}
        sent = node.say({"said": "by a node"})
        await first.until(partial(first.has_heard, sent))
        heard = (await told(output))["heard"]
        assert (heard["sender"], heard["kind"], heard["body"]) == (
            node.peer,
            "test",
            {"said": "by a node"},
        )


async def test_an_independent_implementation_without_membership_is_told_why(
    fleet: Fleet, peer_program: tuple[str, ...]
) -> None:
    expired = fleet.network.join(Role.ROUTER, lasts_s=60, joined_ago_s=120)
    async with js_peer(peer_program, fleet, expired) as output:
        failed = (await told(output))["failed"]
        assert failed.startswith(
            f"refused: expired: router {expired.identity.peer_id} was a member"
        )
