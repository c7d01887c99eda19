"""A Ctrl-C or a `kill` that reaches a child process: when it stops is its owner's to say."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
from capamesh.protocol.identity import Identity
from capamesh.protocol.mesh.messages import Ready, Start, to_wire
from capamesh.protocol.network import Membership, NetworkOwner, Role

LIMIT_S = 120.0
NOW = dt.datetime.now(dt.UTC)


def mesh_start() -> Mapping[str, Any]:
    """Return what a sidecar is told first."""
    token = NetworkOwner.create("home", NOW).invite(
        Role.NODE, expires_at=NOW + dt.timedelta(hours=1), bootstrap=(), now=NOW
    )
    member = Membership.join(Identity.generate(), token, NOW)
    return to_wire(
        Start(
            private_key=member.identity.private_bytes,
            chain=list(member.chain),
            ca_der=member.ca_der,
            revocations=b"",
            drains=b"",
            listen=[],
            bootstrap=[],
            use_mdns=False,
            subscribe=[],
        )
    )


async def next_of(messages: AsyncIterator[Mapping[str, Any]], kind: str) -> None:
    """Read on until a message of this kind comes; fail when the process ends first."""
    async with asyncio.timeout(LIMIT_S):
        async for message in messages:
            if message["type"] == kind:
                return
    pytest.fail(f"the process ended before {kind!r}")


@pytest.mark.parametrize("module", ["capamesh.node.worker", "capamesh.protocol.mesh"])
async def test_child_process_that_gets_stray_signals_goes_on_and_ends_with_its_owner(
    module: str,
) -> None:
    ours, theirs = socket.socketpair()
    channel = await AsyncioChannel.connect(ours)
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module, "--channel-fd", str(theirs.fileno())),
            pass_fds=(theirs.fileno(),),
        )
    try:
        messages = channel.messages()
        if module == "capamesh.protocol.mesh":  # it answers from its start on
            channel.send(mesh_start())
            await next_of(messages, Ready.TYPE)
        for number in (None, signal.SIGINT, signal.SIGTERM):
            if number is not None:
                os.kill(process.pid, number)
            channel.send({"type": "ping"})
            await next_of(messages, "pong")
        if module == "capamesh.protocol.mesh":
            channel.send({"type": "stop"})
        else:
            await channel.close()
        assert await asyncio.wait_for(process.wait(), LIMIT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await channel.close()
