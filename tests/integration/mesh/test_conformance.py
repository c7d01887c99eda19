"""js-libp2p, which shares no code with the sidecar, joins the mesh by what the docstrings say of the wire."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from capamesh.protocol.adverts import (
    KIND_ADVERT,
    Device,
    ModelOffer,
    ModelState,
    NodeAdvert,
    Sequence,
    advert_to_body,
    open_envelope,
    seal,
)
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.network import Membership, Role
from capamesh.protocol.tensors import Datatype, TensorSpec

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
LIMIT_S = 120.0


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
    program: tuple[str, ...], fleet: Fleet, membership: Membership, *, awaits: str = "test"
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
        "awaits": awaits,
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


async def reported(output: asyncio.StreamReader) -> dict[str, object]:
    async with asyncio.timeout(LIMIT_S):
        return json.loads(await output.readline())


async def test_independent_implementation_proves_membership_is_heard_and_hears(
    fleet: Fleet, peer_program: tuple[str, ...]
) -> None:
    first, node = fleet.routers[0], fleet.nodes[0]
    membership = fleet.network.join(Role.ROUTER)
    peer = membership.identity.peer_id
    async with js_peer(peer_program, fleet, membership) as output:
        assert await reported(output) == {
            "proved": first.peer,
            "muxer": "/yamux/1.0.0",
            "security": "/noise",
        }
        await first.until(lambda: first.client.members.get(peer) is Role.ROUTER, "let in")
        assert (await reported(output))["published"] >= 1
        for router in fleet.routers:
            await router.until(lambda router=router: any(who == peer for _, _, who in router.heard))
        envelope = next(data for _, data, who in first.heard if who == peer)
        opened = open_envelope(envelope, first.membership.trust(), time.time_ns() // 10**6)
        assert opened.body == {"said": "by js-libp2p"}
        sent = node.say({"said": "by a node"})
        await first.until(partial(first.has_heard, sent))
        heard = (await reported(output))["heard"]
        assert (heard["sender"], heard["kind"], heard["body"]) == (
            node.peer,
            "test",
            {"said": "by a node"},
        )


REAL = NodeAdvert(
    peer=PeerId(""),
    sequence=Sequence(0, 0),
    devices=(
        Device(
            0,
            "cuda",
            "NVIDIA H100",
            "CUDAExecutionProvider",
            2**53 + 1,  # what a number of JavaScript cannot hold
            2**40,
            ("192.0.2.7:4100", "[2001:db8::7]:4100"),
            runtime="onnxruntime 1.31.1",
            driver="570.1",
        ),
        Device(1, "cpu", "cpu", "CPUExecutionProvider", 2**62, 0, ()),
    ),
    models=(
        ModelOffer(
            ModelName("größe"),
            ModelVersion("999999999999999999"),
            "sha256-chunks:" + "a0" * 32,
            ModelState.READY,
            "",
            (TensorSpec("x", Datatype.FP32, (-1, 2**40)),),
            (TensorSpec("", Datatype.BYTES, ()),),
            provider="CUDAExecutionProvider",
            best_rows=64,
            row_us=2**33,
            max_rows=2**63 - 1,
            memory_bytes=2**34,
        ),
        ModelOffer(
            ModelName("broken"), ModelVersion("1"), "", ModelState.FAILED, "no such file", (), ()
        ),
    ),
    region="eu",
    price_per_million=0.25,
    agent_version="1.2.3",
    is_draining=False,
    interval_s=120,
    name="GPU_1.lab-2",
)


async def test_independent_implementation_reads_a_nodes_advert_field_by_field(
    fleet: Fleet, peer_program: tuple[str, ...]
) -> None:
    first, node = fleet.routers[0], fleet.nodes[0]
    membership = fleet.network.join(Role.ROUTER)
    peer = membership.identity.peer_id
    async with js_peer(peer_program, fleet, membership, awaits="advert") as output:
        assert "proved" in await reported(output)
        assert (await reported(output))["published"] >= 1
        await first.until(lambda: any(who == peer for _, _, who in first.heard), "its message")
        sequence = node.sequences.next()
        body = advert_to_body(dataclasses.replace(REAL, peer=node.peer, sequence=sequence))
        sent = seal(KIND_ADVERT, body, node.membership, sequence, time.time_ns() // 10**6)
        assert node.client.publish(fleet.network.adverts, sent)
        await first.until(partial(first.has_heard, sent))
        heard = (await reported(output))["heard"]
        assert (heard["sender"], heard["kind"]) == (node.peer, "advert")
        assert heard["seq"] == [str(sequence.boot_ns), str(sequence.counter)]
        assert same_but_for_text(heard["body"], body)


def same_but_for_text(found: object, expected: object) -> bool:
    """Whether JSON says the same, an integer that JSON does not know being its digits."""
    match expected:
        case dict():
            return found.keys() == expected.keys() and all(
                same_but_for_text(found[key], value) for key, value in expected.items()
            )
        case list():
            return len(found) == len(expected) and all(
                same_but_for_text(*pair) for pair in zip(found, expected, strict=True)
            )
        case bool() | str() | float():
            return found == expected
        case _:
            return str(found) == str(expected)


async def test_independent_implementation_without_membership_is_reported_why(
    fleet: Fleet, peer_program: tuple[str, ...]
) -> None:
    expired = fleet.network.join(Role.ROUTER, lasts_s=60, joined_ago_s=120)
    async with js_peer(peer_program, fleet, expired) as output:
        failed = (await reported(output))["failed"]
        assert failed.startswith(
            f"refused: expired: router {expired.identity.peer_id} was a member"
        )
