"""Measures what a sidecar pays for a node's message: without sockets, and among sidecars on this machine.

Run as a program it is a sidecar that also counts what it receives.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from machine import cpu_s, memory_bytes
from samples import spread, timed
from scale_fleet import admit, sealed

from capamesh.protocol import adverts as wire
from capamesh.protocol.adverts import SequenceSource
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import PeerId
from capamesh.protocol.mesh.client import MeshClient
from capamesh.protocol.mesh.gossip import PayloadKind, adverts_topic, demand_topic, wrap
from capamesh.protocol.mesh.messages import Heard, to_wire
from capamesh.protocol.mesh.validator import Validator, Verdict
from capamesh.protocol.msgpack_codec import pack
from capamesh.protocol.network import Membership, NetworkOwner, NetworkTrust, Role

COUNTS_FILE = "SCALE_COUNTS_FILE"


def measure_sidecar(count: int) -> dict[str, Any]:
    """Return what the judge, and all that the sidecar does with a message but for sockets, cost; and its bytes."""
    import trio  # noqa: PLC0415 - libp2p takes 100 MB, which the other parts' memory must not have
    from libp2p.peer.id import ID  # noqa: PLC0415
    from libp2p.pubsub.pb import rpc_pb2  # noqa: PLC0415

    from capamesh.protocol.mesh.gossipsub import MeshGossipSub  # noqa: PLC0415
    from capamesh.protocol.mesh.host import make_host  # noqa: PLC0415
    from capamesh.protocol.mesh.port import MeshPort, limits_for_mesh  # noqa: PLC0415
    from capamesh.protocol.mesh.pubsub import MemberPubsub  # noqa: PLC0415

    owner = NetworkOwner.create("scale", datetime.now(UTC))
    topic = adverts_topic(owner.network_id)
    published: list[list[bytes]] = [[], [], []]
    payloads: list[tuple[bytes, PeerId]] = []
    trust = NetworkTrust(owner.ca_der)
    judge = Validator(owner.ca_der, trust)
    now_ms = time.time_ns() // 10**6
    reported: list[bytes] = []

    def pubsub_of(key: bytes, sent: list[bytes]) -> MemberPubsub:
        async def always(_: object) -> bool:
            return True

        pubsub = MemberPubsub(
            make_host(key, lambda *_: None, MeshPort(limits_for_mesh(1024))),
            MeshGossipSub((topic,)),
            topics=(topic,),
            wait_member=always,
            judge=lambda payload, who: judge.judge(payload, who, now_ms),
            deliver=lambda t, j, who, via: reported.append(
                pack(to_wire(Heard(t, j.body, who, via)))
            ),
            on_reachable=lambda *_: None,
            warn=lambda *_: None,
        )

        async def catch(_: object, message: rpc_pb2.Message) -> None:
            sent.append(rpc_pb2.RPC(publish=[message]).SerializeToString())

        if sent is not reported:
            pubsub.router.publish = catch  # type: ignore[method-assign, assignment]
        return pubsub

    async def main() -> dict[str, Any]:
        for index in range(count):
            member = admit(owner, Role.NODE)
            sequences = SequenceSource(time.time_ns())
            for envelopes in published:
                raw = sealed(member, index, sequences.next(), is_changed=False)
                sender = pubsub_of(member.identity.private_bytes, envelopes)
                await sender.announce(topic, wrap(PayloadKind.ENVELOPE, raw))
                payloads.append((wrap(PayloadKind.ENVELOPE, raw), member.identity.peer_id))
        receiver = pubsub_of(Identity.generate().private_bytes, reported)
        await receiver.subscribe(topic)
        via = ID(b"\x00\x24\x08\x01\x12\x20" + bytes(32))

        async def hear(messages: list[bytes]) -> float:
            began = time.process_time()
            for raw in messages:
                rpc = rpc_pb2.RPC()
                rpc.ParseFromString(raw)
                await receiver.push_msg(via, rpc.publish[0])
            return (time.process_time() - began) / len(messages) * 1e6

        first = await hear(published[0])
        known = [await hear(published[1]), await hear(published[2])]
        again = [await hear(published[2]) for _ in range(5)]
        if len(reported) != 3 * count:
            raise SystemExit(f"the sidecar delivered {len(reported)} of {3 * count} messages")
        other = Validator(owner.ca_der, trust)
        verdicts = [other.judge(*one, now_ms) for one in payloads[::3]]
        if any(one.verdict is not Verdict.ACCEPT for one in verdicts):
            raise SystemExit(f"the judge said {verdicts[0]}")

        def judge_all(turn: int) -> None:
            for payload, publisher in payloads[turn::3]:
                other.judge(payload, publisher, now_ms)

        judged = [timed(partial(judge_all, turn), count) for turn in (1, 2)]
        return {
            "first_us": first,
            "message_us": spread(known),
            "duplicate_us": spread(again),
            "judge_us": spread(judged),
            "envelope_bytes": statistics.fmean(len(one) - 1 for one, _ in payloads),
            "rpc_bytes": statistics.fmean(map(len, published[1])),
        }

    return trio.run(main)


def counting_sidecar() -> None:
    """Be a sidecar that also counts what it receives, for `SCALE_COUNTS_FILE`."""
    from libp2p.peer.id import ID  # noqa: PLC0415
    from libp2p.pubsub.pb import rpc_pb2  # noqa: PLC0415

    from capamesh.protocol.mesh.__main__ import main  # noqa: PLC0415
    from capamesh.protocol.mesh.pubsub import MemberPubsub  # noqa: PLC0415

    counts = [0, 0]
    push = MemberPubsub.push_msg

    async def counted(self: MemberPubsub, via: ID, message: rpc_pb2.Message) -> None:
        counts[0] += 1
        counts[1] += message.ByteSize()
        await push(self, via, message)

    MemberPubsub.push_msg = counted  # type: ignore[method-assign, assignment]
    main()
    with Path(os.environ[COUNTS_FILE]).open("a") as file:
        file.write(json.dumps(counts) + "\n")


async def measure_mesh(
    routers: int, publishers: int, is_short: bool, each: int, gap_s: float
) -> dict[str, Any]:
    """Return the CPU of a router's sidecar for one node's message, among so many routers, over loopback.

    A short message is a goodbye: a third of an advert's bytes.
    """
    owner = NetworkOwner.create("scale", datetime.now(UTC))
    adverts, demand = adverts_topic(owner.network_id), demand_topic(owner.network_id)
    heard = [0] * routers
    counts_file = Path(tempfile.mkdtemp()) / "counts"
    os.environ[COUNTS_FILE] = str(counts_file)

    @asynccontextmanager
    async def running(
        role: Role, number: int, bootstrap: list[str]
    ) -> AsyncIterator[tuple[MeshClient, Membership]]:
        member = admit(owner, role)
        ready, reachable = asyncio.Event(), asyncio.Event()

        def on_message(*_: object) -> None:
            heard[number] += 1

        client = MeshClient(
            member,
            listen=["/ip4/127.0.0.1/tcp/0"] if role is Role.ROUTER else [],
            bootstrap=bootstrap,
            subscribe=[adverts, demand] if role is Role.ROUTER else [demand],
            log=structlog.get_logger(),
            on_ready=lambda *_: ready.set(),
            on_subscribed=lambda topic, _: reachable.set() if topic == adverts else None,
            on_message=on_message if role is Role.ROUTER else lambda *_: None,
            argv=(sys.executable, __file__)
            if role is Role.ROUTER
            else (sys.executable, "-P", "-m", "capamesh.protocol.mesh"),
        )
        task = asyncio.create_task(client.run())
        try:
            async with asyncio.timeout(60):
                await ready.wait()
                if role is Role.NODE:
                    await reachable.wait()
            yield client, member
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async with AsyncExitStack() as stack:
        clients: list[MeshClient] = []
        for number in range(routers):
            known = [client.addrs[0] for client in clients]
            clients.append(
                (await stack.enter_async_context(running(Role.ROUTER, number, known)))[0]
            )
        known = [client.addrs[0] for client in clients]
        nodes = [
            await stack.enter_async_context(
                running(Role.NODE, 0, [known[n % routers], known[(n + 1) % routers]][:routers])
            )
            for n in range(publishers)
        ]
        await asyncio.sleep(5)  # until the routers' mesh has formed: heartbeats of a second
        pids = [client.pid or 0 for client in clients]
        before = [cpu_s(pid) for pid in pids]
        await asyncio.sleep(each * gap_s)
        idle = [cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
        before, heard[:] = [cpu_s(pid) for pid in pids], [0] * routers
        sources = [SequenceSource(time.time_ns()) for _ in nodes]
        for _ in range(each):
            for index, (client, member) in enumerate(nodes):
                source = sources[index].next()
                raw = sealed(member, index, source, is_changed=False)
                if is_short:
                    raw = wire.seal(wire.KIND_GOODBYE, {}, member, source, time.time_ns() // 10**6)
                client.publish(adverts, raw)
                await asyncio.sleep(gap_s / publishers)
        await asyncio.sleep(2)
        busy = [cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
        rss = [memory_bytes(pid) for pid in pids]
    lines = [json.loads(line) for line in counts_file.read_text().splitlines()]
    sent = publishers * each
    return {
        "routers": routers,
        "publishers": publishers,
        "is_short": is_short,
        "sent": sent,
        "heard_share": sum(heard) / routers / sent,
        "received": sum(line[0] for line in lines) / len(lines) / sent,
        "received_bytes": sum(line[1] for line in lines) / len(lines) / sent,
        "message_us": spread([(b - i) / sent * 1e6 for b, i in zip(busy, idle, strict=True)]),
        "idle_share": statistics.median(idle) / (each * gap_s),
        "rss_bytes": statistics.median(rss),
    }


if __name__ == "__main__":
    counting_sidecar()
