"""However a link ends, every request under way hears of it at once; and it does not end without cause."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from awaited_calls import probe, request
from link_sockets import (
    HOST,
    LIMIT_S,
    WATCHFUL,
    Members,
    RawPeer,
    Side,
    message,
    raw_listener,
    town,
    within,
)
from patience import until

from capamesh.protocol.errors import LinkLost
from capamesh.protocol.links.frames import FrameKind
from capamesh.protocol.links.liveness import LinkTimes
from capamesh.protocol.network import Role

MB = 1_000_000


@pytest.mark.parametrize("how", ["closed", "cut", "reset"])
async def test_every_request_fails_when_the_peer_ends_in_the_middle_of_an_answer(
    members: Members, how: str
) -> None:
    async def break_off(peer: RawPeer) -> None:
        await peer.greet(initial_credit_bytes=1 << 28)
        stream = (await peer.frame_of(FrameKind.REQUEST)).stream
        await peer.send(message(FrameKind.RESPONSE, stream, b"", b"x" * 1000, 0, total=MB))
        await go.wait()
        if how == "closed":
            await peer.hang_up()
        elif how == "cut":
            peer.writer.transport.abort()
        else:
            await peer.reset()

    go = asyncio.Event()
    async with town(members) as here, raw_listener(members, break_off) as (_, address):
        owner = Side(members.trust(), Role.NODE)
        link = await here.router_endpoint.dial(address, owner)
        asking = [asyncio.create_task(request(link, b"m", [bytes(200_000)])) for _ in range(20)]
        probing = asyncio.create_task(probe(link))
        await until(lambda: link._core._streams.reserved_bytes == MB, "no answer began")
        go.set()
        for waiting in (*asking, probing):
            with pytest.raises(
                LinkLost, match=r"ended: (the peer closed it|the connection was lost)"
            ):
                await within(waiting)
        assert (await owner.reason()).startswith(("the peer closed it", "the connection was lost"))
        with pytest.raises(LinkLost, match="the link has ended: "):
            await request(link, b"m")
        with pytest.raises(LinkLost, match="the link has ended: "):
            await probe(link)


NODE = """
import asyncio, sys
from pathlib import Path
from datetime import UTC, datetime
sys.path.insert(0, sys.argv[1])
from link_sockets import HOST, Side
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.network import Membership, Role

async def main():
    folder = Path(sys.argv[2])
    membership = Membership.load(folder, datetime.now(UTC))
    side = Side(membership.trust(), Role.ROUTER)
    server = await LinkTransport(membership, folder, agent_version="child").listen(HOST, 0, lambda: side)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def node_process(members: Members) -> AsyncIterator[tuple[int, str]]:
    """A node in a process of its own; yields its process id and its address."""
    folder = members.folder()
    members.join(Role.NODE).save(folder)
    support = str(Path(__file__).parents[2] / "support")
    process = subprocess.Popen(  # noqa: ASYNC220 - only started here, read once
        [sys.executable, "-c", NODE, support, str(folder)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(await asyncio.to_thread(process.stdout.readline))
        yield process.pid, f"{HOST}:{port}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP])
async def test_requests_to_a_process_that_is_killed_or_stopped_fail(
    members: Members, kind: signal.Signals
) -> None:
    async with town(members) as here, node_process(members) as (pid, address):
        # The other process may have to wait for a core: it is not to be missed for that before it is stopped.
        times = LinkTimes(hello_s=LIMIT_S, ping_every_s=0.1, silent_s=LIMIT_S)
        transport = members.transport(here.router_member, None, times)
        link = await transport.dial(address, Side(members.trust(), Role.NODE))
        asking = [asyncio.create_task(request(link, b"hold")) for _ in range(10)]
        asking.append(asyncio.create_task(request(link, b"give 200000000")))
        await until(lambda: link._core._streams.reserved_bytes > 0, "no answer began")
        os.kill(pid, kind)
        if kind == signal.SIGSTOP:  # what is killed need not be silent to be missed
            link._liveness._times = dataclasses.replace(times, silent_s=2.0)
        reason = (
            r"silent for \d" if kind == signal.SIGSTOP else "the peer closed it|connection was lost"
        )
        for waiting in asking:
            with pytest.raises(LinkLost, match=reason):
                await within(waiting)


async def test_process_that_was_stopped_itself_does_not_blame_its_peers(members: Members) -> None:
    async with town(members, times=WATCHFUL) as here:
        asking = asyncio.create_task(request(here.link, b"hold"))
        node_link, stream = (await here.node.until(lambda: here.node.held))[0]
        for _ in range(2):
            time.sleep(1.5 * WATCHFUL.silent_s)  # noqa: ASYNC251 - the very thing: a loop that stands still
            await within(probe(here.link))
            await within(probe(node_link))
        assert node_link.respond(stream, b"", [b"after all"])
        assert (await within(asking)).body == b"after all"
        assert not here.node.reasons
        assert not here.router.reasons


# a slow line


@asynccontextmanager
async def slow_line(port: int, bytes_per_s: int) -> AsyncIterator[str]:
    """A relay to `port` that carries so much each way, with a long buffer in front; yields its address."""
    loop = asyncio.get_running_loop()
    step_s = 0.01

    async def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := await loop.sock_recv(source, int(bytes_per_s * step_s)):
                await loop.sock_sendall(target, data)
                await asyncio.sleep(step_s * len(data) / (bytes_per_s * step_s))
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    async def relay() -> None:
        near, _ = await loop.sock_accept(listener)
        far = socket.create_connection((HOST, port))
        far.setblocking(False)
        with near, far:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(carry(near, far))
                tasks.create_task(carry(far, near))

    with socket.create_server((HOST, 0)) as listener:
        listener.setblocking(False)
        relaying = asyncio.create_task(relay())
        try:
            yield f"{HOST}:{listener.getsockname()[1]}"
        finally:
            relaying.cancel()
            with suppress(asyncio.CancelledError):
                await relaying


@pytest.mark.parametrize(("there", "back"), [(12 * MB, 1), (0, 12 * MB)])
async def test_slow_line_that_is_busy_one_way_is_not_taken_for_a_silent_peer(
    members: Members, there: int, back: int
) -> None:
    async with town(members, times=WATCHFUL) as here, slow_line(here.port, 16 * MB) as address:
        owner = Side(members.trust(), Role.NODE)
        link = await here.router_endpoint.dial(address, owner)
        answer = await within(request(link, b"give %d" % back, [bytes(there)]))
        assert len(answer.body) == back
        link.close("done")
        await within(link.wait_ended())
