"""How does a router scale with the fleet? Memory, bytes, CPU and staleness of what it knows, by production code.

`python benchmarks/scale.py [--nodes 100,1000,10000] [--parts view,mesh,staleness,simulator] [--quick]`. A node has
one GPU and 5 of 50 models, each with three tensors; its adverts are sealed with keys and chains of their own. CPU is
processor time, so that other work on the machine counts for little; the middle of several repetitions is told, and
the least and most. `mesh` starts sidecars on this machine and needs nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import heapq
import json
import math
import multiprocessing
import os
import pickle
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
from machine import keep, memory_bytes
from rich.console import Console
from rich.table import Table

from capamesh.node.agent.advert_schedule import AGAIN_S, JITTER, SETTLE_S
from capamesh.protocol import adverts as wire
from capamesh.protocol.adverts import Device, ModelOffer, ModelState, NodeAdvert, SequenceSource
from capamesh.protocol.adverts import Sequence as AdvertSequence
from capamesh.protocol.fleet import FleetMembership, Joined, Left, Suspected
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.links.link import Link
from capamesh.protocol.mesh.client import MeshClient
from capamesh.protocol.mesh.gossip import PayloadKind, adverts_topic, demand_topic, wrap
from capamesh.protocol.mesh.messages import Heard, from_wire, to_wire
from capamesh.protocol.mesh.validator import Validator, Verdict
from capamesh.protocol.model_digest import digest_of
from capamesh.protocol.msgpack_codec import pack, unpack
from capamesh.protocol.network import Membership, NetworkOwner, NetworkTrust, Role
from capamesh.protocol.tensors import Datatype, TensorSpec
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.fleet.view import FleetView
from capamesh.router.policies import DEFAULT_POLICY, RequestShape, make_policy
from capamesh.router.rules.constraints import ANYWHERE
from capamesh.router.rules.model_rules import NO_RULES

SEED = 1
MODELS_OF_NODE, ALL_MODELS = 5, 50
INTERVALS_S = (5.0, 10.0, 20.0, 30.0, 60.0)
LOSSES = (0.0, 0.01, 0.1)
REPEATS = {100: 15, 1000: 5}
"""Of a measurement, by the number of nodes; 2 where it is larger."""
CPU_BUDGET, BANDWIDTH_BUDGET = 0.05, 1e6
"""Of one core, and bits a second, that a router may spend on hearing of its fleet (the design's)."""
COPIES = {"one": 1, "ours": 4, "D = 6": 6}
"""How often a router receives a message: `MeshGossipSub` has degree 4, GossipSub's own is 6."""
NOISE_YAMUX_BYTES = 12 + 2 + 16
"""A yamux header, and the length and tag of a noise frame; TCP and IP are left out."""
TICK_S, GOSSIP_S = 0.5, 0.5
"""The router's own; until gossip is everywhere, as in the simulator (guess)."""
UP = cast(Link, type("_Up", (), {"is_usable": True})())
"""All of a link that eligibility reads."""
COUNTS_FILE = "SCALE_COUNTS_FILE"
Round = list[bytes]


# the fleet


def offer(number: int, state: ModelState = ModelState.READY) -> ModelOffer:
    """Return what a node with 16 GB says of a language encoder."""
    name = f"encoder-{number:02}-base-uncased"
    return ModelOffer(
        ModelName(name),
        ModelVersion("1"),
        digest_of(hashlib.sha256(name.encode()).digest()),
        state,
        "" if state is ModelState.READY else "unloaded by its operator",
        (
            TensorSpec("input_ids", Datatype.INT64, (-1, -1)),
            TensorSpec("attention_mask", Datatype.INT64, (-1, -1)),
        ),
        (TensorSpec("embedding", Datatype.FP32, (-1, 384)),),
        "CUDAExecutionProvider",
        "fp16",
        best_rows=32,
        row_us=180 + number,
        max_rows=1024,
        memory_bytes=130_000_000 + number,
    )


def advert(peer: PeerId, index: int, sequence: AdvertSequence, *, is_changed: bool) -> NodeAdvert:
    """Return node `index`'s advert; a changed one has unloaded its first model."""
    rng = random.Random(index)  # noqa: S311 - to repeat it
    numbers = rng.sample(range(ALL_MODELS), MODELS_OF_NODE)
    address = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}:7000"
    device = Device(
        0,
        "cuda",
        "NVIDIA RTX A4000",
        "CUDAExecutionProvider",
        16 * 2**30,
        9 * 2**30 + index,
        (address,),
        "onnxruntime 1.31.1",
        "570.124.06",
    )
    models = tuple(
        offer(n, ModelState.UNLOADED if is_changed and not place else ModelState.READY)
        for place, n in enumerate(numbers)
    )
    return NodeAdvert(
        peer, sequence, (device,), models, "eu-central", 0.25, "0.1.0", is_draining=False
    )


def admit(owner: NetworkOwner, role: Role) -> Membership:
    """Return a new member; each has an invite of its own, the most there is to verify and to remember."""
    now = datetime.now(UTC)
    token = owner.invite(role, expires_at=now + timedelta(days=30), bootstrap=(), now=now)
    return Membership.join(Identity.generate(), token, now)


def sealed(member: Membership, index: int, sequence: AdvertSequence, *, is_changed: bool) -> bytes:
    """Return an envelope as the node's agent makes it."""
    said = advert(member.identity.peer_id, index, sequence, is_changed=is_changed)
    body = wire.advert_to_body(said)
    return wire.seal(wire.KIND_ADVERT, body, member, sequence, time.time_ns() // 10**6)


def make_fleet(count: int, file: Path) -> None:
    """Write three rounds of `count` nodes' envelopes: the first, the same again, and a change."""
    owner = NetworkOwner.create("scale", datetime.now(UTC))
    rounds: tuple[Round, Round, Round] = ([], [], [])
    peers: list[PeerId] = []
    for index in range(count):
        member = admit(owner, Role.NODE)
        sequences = SequenceSource(time.time_ns())
        peers.append(member.identity.peer_id)
        for envelopes, is_changed in zip(rounds, (False, False, True), strict=True):
            envelopes.append(sealed(member, index, sequences.next(), is_changed=is_changed))
    file.write_bytes(pickle.dumps((owner.ca_der, time.time_ns() // 10**6, peers, rounds)))


# one router's process


class Knowing:
    """What `router.service` does with an envelope, but for its links and its log."""

    def __init__(self, ca_der: bytes, now_ms: int, count: int) -> None:
        self.trust = NetworkTrust(ca_der)
        self.now_ms = now_ms
        self.membership = FleetMembership(max_peers=max(20_000, count))
        self.reader = wire.AdvertReader(max_peers=max(20_000, count))
        self.view = FleetView(on_new=lambda _: None, on_gone=lambda _: None)
        self.spent_s = [0.0, 0.0, 0.0]

    def hear(self, envelopes: Sequence[bytes], now_s: float) -> None:
        """Take in envelopes; note what proving, decoding and applying took, in seconds."""
        spent = self.spent_s = [0.0, 0.0, 0.0]
        clock = time.process_time
        for raw in envelopes:
            began = clock()
            envelope = wire.open_envelope(raw, self.trust, self.now_ms)
            opened = clock()
            said = self.reader.read(envelope.body, envelope.sender.peer_id, envelope.sequence)
            read = clock()
            self.view.apply(self.membership.heard(said, now_s))
            spent[0] += opened - began
            spent[1] += read - opened
            spent[2] += clock() - read


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Return the middle of some samples, the least and the most."""
    return {"mid": statistics.median(samples), "least": min(samples), "most": max(samples)}


def load(file: Path, count: int) -> tuple[bytes, int, list[PeerId], list[Round]]:
    """Return the first `count` nodes of a fleet."""
    ca_der, now_ms, peers, rounds = pickle.loads(file.read_bytes())  # noqa: S301 - our own
    return ca_der, now_ms, peers[:count], [envelopes[:count] for envelopes in rounds]


def measure_memory(file: Path, count: int) -> dict[str, Any]:
    """Return what a view of `count` nodes takes, in a process of its own."""
    ca_der, now_ms, _, rounds = load(file, count)
    warm = Knowing(ca_der, now_ms, count)
    warm.hear(rounds[0][:10], 0.0)
    del warm
    gc.collect()
    before = memory_bytes(os.getpid())
    knowing = Knowing(ca_der, now_ms, count)
    knowing.hear(rounds[0], 0.0)
    knowing.hear(rounds[1], 10.0)
    gc.collect()
    rss = memory_bytes(os.getpid()) - before
    del knowing
    gc.collect()
    tracemalloc.start()
    knowing = Knowing(ca_der, now_ms, count)
    knowing.hear(rounds[0], 0.0)
    knowing.hear(rounds[1], 10.0)
    sizes = [traced()]
    for parts in (("trust",), ("view",), ("membership", "reader")):  # these two share adverts
        for part in parts:
            delattr(knowing, part)
        sizes.append(traced())
    chains, view, membership = (sizes[i] - sizes[i + 1] for i in range(3))
    return {
        "nodes": count,
        "rss_bytes": rss,
        "python_bytes": sizes[0],
        "chains_bytes": chains,
        "view_bytes": view,
        "adverts_bytes": membership,
    }


def traced() -> int:
    """Return what Python objects take now."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def measure_cpu(file: Path, count: int) -> dict[str, Any]:
    """Return the CPU of one advert at a fleet of `count`, by what it says, and of the decisions beside it."""
    ca_der, now_ms, peers, rounds = load(file, count)
    kinds = ("first", "unchanged", "changed")
    samples: dict[str, list[float]] = {
        f"{kind} {part}": [] for kind in kinds for part in ("", "prove", "decode", "apply")
    }
    knowing = Knowing(ca_der, now_ms, count)
    for _ in range(REPEATS.get(count, 2)):
        knowing = Knowing(ca_der, now_ms, count)
        for kind, envelopes, now_s in zip(kinds, rounds, (0.0, 10.0, 20.0), strict=True):
            knowing.hear(envelopes, now_s)
            spent_us = [seconds / count * 1e6 for seconds in knowing.spent_s]
            for part, value in zip(("prove", "decode", "apply"), spent_us, strict=True):
                samples[f"{kind} {part}"].append(value)
            samples[f"{kind} "].append(sum(spent_us))
    reported = [pack(to_wire(Heard("t", raw, peers[0], peers[0]))) for raw in rounds[1]]

    def receive() -> None:
        for message in reported:
            from_wire(cast("dict[str, Any]", unpack(message, max_array_items=9)))

    channel = [timed(receive, count) for _ in range(REPEATS.get(count, 2))]
    return {
        "nodes": count,
        "advert_us": {name.strip(): spread(values) for name, values in samples.items()},
        "channel_us": spread(channel),
        "decision": measure_decisions(Knowing(ca_der, now_ms, count), rounds[0]),
    }


def timed(do: Callable[[], object], count: int) -> float:
    """Return the microseconds of CPU that each of `count` things in `do` took."""
    began = time.process_time()
    do()
    return (time.process_time() - began) / count * 1e6


def measure_decisions(knowing: Knowing, envelopes: Round) -> dict[str, Any]:
    """Return what choosing costs in a view: as it is, and just after a host came or went."""
    knowing.hear(envelopes, 0.0)
    for candidate in knowing.view.candidates():
        candidate.link = UP
        candidate.network.round_trip(0.001)
    rng = random.Random(SEED)  # noqa: S311 - to repeat it
    balancer = Balancer(
        knowing.view,
        make_policy=lambda name: make_policy(name, rng),
        rng=rng,
        rules=NO_RULES,
    )
    models = knowing.view.models()
    traffics = [balancer.traffic(model, ModelVersion("")) for model in models]
    shape = RequestShape(models[0], ModelVersion(""), 1024)
    now_s = 100.0

    def serve() -> None:
        """Choose a host for a request, which it answers at once."""
        nonlocal now_s
        now_s += 0.0005
        desk = traffics[0].desk(ANYWHERE, shape)
        host = desk.choose((), now_s)
        desk.sent(host, now_s)
        desk.answered(host, LoadReport(1, 0, 8, 0, 200, 0, 200, 1), 0.001, 0.0002, 1024, now_s)

    def serve_many() -> None:
        for _ in range(1000):
            serve()

    serve_many()
    steady = [timed(serve_many, 1000) for _ in range(7)]
    host = traffics[0].hosts[0]
    known = host.advert
    emptied = replace(
        known,
        models=tuple(
            replace(one, state=ModelState.UNLOADED) if one.name == models[0] else one
            for one in known.models
        ),
    )
    churned: list[float] = []
    applied: list[float] = []
    for turn in range(200):
        said = Joined(known if turn % 2 else emptied)
        applied.append(timed(partial(knowing.view.apply, [said]), 1))
        churned.append(timed(serve, 1))
        serve()
    ticks: list[float] = []
    for turn in range(3):  # every host has answered since the last one
        now_s = 200.0 + turn
        for traffic in traffics:
            for each in traffic.hosts:
                traffic.answered(each, each.load, 0.001, 0.0002, 1024, now_s)
        ticks.append(timed(partial(balancer.tick, now_s), 1))
    return {
        "hosts_of_model": len(traffics[0].hosts),
        "serve_us": spread(steady),
        "apply_host_us": spread(applied),
        "serve_after_us": spread(churned),
        "tick_us": spread(ticks),
    }


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


# sidecars on this machine


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
    sys.argv.remove("--counting-sidecar")
    main()
    with Path(os.environ[COUNTS_FILE]).open("a") as file:
        file.write(json.dumps(counts) + "\n")


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
            argv=(sys.executable, __file__, "--counting-sidecar")
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


# staleness, in virtual time


class Beliefs:
    """What one router believes of each node, beside what is true. In virtual time."""

    def __init__(self, nodes: int, interval_s: float, missed: int) -> None:
        self.ttl_s = (missed + 0.5) * interval_s
        self._fleet = FleetMembership(expire_after=missed + 0.5)
        self._peers = [PeerId(f"peer-{node}") for node in range(nodes)]
        self._node_of = {peer: node for node, peer in enumerate(self._peers)}
        said = advert(self._peers[0], 0, AdvertSequence(1, 1), is_changed=False)
        self._said = replace(said, interval_s=round(interval_s))
        self._ticked_s = 0.0
        self._heard_s = [0.0] * nodes
        self._believed = [0] * nodes
        self.state = [0] * nodes
        self.changed_s = [0.0] * nodes
        self.dead_s = [math.inf] * nodes
        self.false = {Suspected: 0, Left: 0}
        self.delays_s: dict[str, list[float]] = {
            "age": [],
            "change": [],
            "suspected": [],
            "left": [],
        }

    def pass_until(self, now_s: float) -> None:
        """Let the router's own timer tick."""
        while self._ticked_s + TICK_S <= now_s:
            self._ticked_s += TICK_S
            for change in self._fleet.tick(self._ticked_s):
                assert isinstance(change, (Suspected, Left))  # noqa: S101 - a tick makes no other
                node = self._node_of[change.peer]
                if self._ticked_s < self.dead_s[node]:
                    self.false[type(change)] += 1
                else:
                    key = "left" if isinstance(change, Left) else "suspected"
                    self.delays_s[key].append(self._ticked_s - self.dead_s[node])

    def hear(self, node: int, sequence: int, state: int, now_s: float) -> None:
        """Take in an advert that says `state`."""
        said = replace(self._said, peer=self._peers[node], sequence=AdvertSequence(1, sequence))
        self._fleet.heard(said, now_s)
        self._heard_s[node] = now_s
        if state > self._believed[node]:
            self._believed[node] = state
            self.delays_s["change"].append(now_s - self.changed_s[node])

    def die(self, node: int, now_s: float) -> None:
        """The node is silent from now on."""
        self.dead_s[node] = now_s
        self.delays_s["age"].append(now_s - self._heard_s[node])


def staleness(
    interval_s: float, loss: float, missed: int, again_s: float, *, nodes: int, hours: float
) -> dict[str, Any]:
    """Let nodes advertise to one router's membership; they change, and die in silence, at random moments.

    `again_s` after a change the same is said once more; 0: not before the interval is over. A loss is of a whole
    message: with several paths, and repair by IHAVE, it is rarer than that of packets.
    """
    rng = random.Random(f"{SEED}/{interval_s}/{loss}/{missed}")  # noqa: S311 - to repeat it
    beliefs = Beliefs(nodes, interval_s, missed)
    end_s = hours * 3600
    sent = [0] * nodes
    events: list[tuple[float, int, str, int, int]] = []
    for node in range(nodes):
        heapq.heappush(events, (rng.uniform(0, interval_s), node, "publish", 0, 0))
        heapq.heappush(events, (rng.uniform(600, end_s / 2), node, "change", 0, 0))
        heapq.heappush(events, (rng.uniform(end_s / 2, end_s), node, "die", 0, 0))
    while events:
        now_s, node, what, sequence, state = heapq.heappop(events)
        beliefs.pass_until(now_s)
        is_alive = now_s < beliefs.dead_s[node]
        if is_alive and (what == "again" or (what == "publish" and sequence == sent[node])):
            sent[node] += 1
            next_s = now_s + interval_s * rng.uniform(1 - JITTER, 1 + JITTER)
            heapq.heappush(events, (next_s, node, "publish", sent[node], 0))
            if rng.random() >= loss:
                arrival = (now_s + GOSSIP_S, node, "hear", sent[node], beliefs.state[node])
                heapq.heappush(events, arrival)
        elif what == "hear":
            beliefs.hear(node, sequence, state, now_s)
        elif what == "change" and is_alive:
            beliefs.state[node] += 1
            beliefs.changed_s[node] = now_s
            heapq.heappush(events, (now_s + SETTLE_S, node, "publish", sent[node], 0))
            if again_s:
                heapq.heappush(events, (now_s + again_s, node, "again", 0, 0))
            heapq.heappush(events, (now_s + 8 * interval_s, node, "change", 0, 0))
        elif what == "die":
            beliefs.die(node, now_s)
            heapq.heappush(events, (now_s + 2 * beliefs.ttl_s, node, "over", 0, 0))
    return {
        "interval_s": interval_s,
        "loss": loss,
        "missed": missed,
        "again_s": again_s,
        "node_days": sum(beliefs.dead_s) / 86_400,
        "false_suspicions": beliefs.false[Suspected],
        "false_expiries": beliefs.false[Left],
        **{f"{name}_s": quantiles(values) for name, values in beliefs.delays_s.items()},
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """Return mean, 99th percentile and maximum."""
    ordered = sorted(values)
    return {
        "mean": statistics.fmean(ordered),
        "p99": ordered[int(len(ordered) * 0.99)],
        "most": ordered[-1],
    }


# the simulator


def simulator(count: int) -> dict[str, Any]:
    """Simulate `thousand` with `count` nodes, for about 150,000 requests, or 1 s at least."""
    from capamesh.simulation.parallel import run_scenario  # noqa: PLC0415 - only this part needs it
    from capamesh.simulation.shipped import shipped_scenario  # noqa: PLC0415

    thousand = shipped_scenario("thousand")
    groups = tuple(
        replace(group, count=max(1, round(group.count * count / 1000))) for group in thousand.nodes
    )
    scenario = replace(thousand, nodes=groups)
    duration_s = max(1.0, min(20.0, 150_000 / scenario.arrivals_per_s))
    began_s, before = time.process_time(), memory_bytes(os.getpid())
    results = run_scenario(
        scenario.shortened(duration_s, duration_s / 4), policy=DEFAULT_POLICY, seed=SEED
    )
    took_s = time.process_time() - began_s
    requests = round(scenario.arrivals_per_s * duration_s)
    return {
        "nodes": scenario.node_count,
        "virtual_s": duration_s,
        "requests": requests,
        "cpu_s": took_s,
        "requests_per_cpu_s": requests / took_s,
        "p50_ms": results.p50_s * 1e3,
        "p99_ms": results.p99_s * 1e3,
        "goodput_share": results.goodput_share,
        "rss_bytes": memory_bytes(os.getpid()) - before,
    }


# what follows


def interval_s(nodes: int, message_us: float, message_bytes: float, copies: float) -> float:
    """Return how often `nodes` may advertise if a router is to stay within both budgets, 10 s at least."""
    by_cpu_s = nodes * message_us / 1e6 / CPU_BUDGET
    by_bytes_s = nodes * message_bytes * copies * 8 / BANDWIDTH_BUDGET
    return max(10.0, by_cpu_s, by_bytes_s)


def alone(do: Callable[..., dict[str, Any]], *args: object) -> dict[str, Any]:
    """Run a measurement in a process of its own, whose memory nothing else has touched."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(do, args)


Columns = dict[str, Callable[[dict[str, Any]], str]]


def table(console: Console, title: str, rows: Sequence[dict[str, Any]], columns: Columns) -> None:
    """Print rows of figures; a column says how it shows a row."""
    made = Table(title=title)
    for column in columns:
        made.add_column(column, justify="right")
    for row in rows:
        made.add_row(*(show(row) for show in columns.values()))
    console.print(made)


def count_of(key: str) -> Callable[[dict[str, Any]], str]:
    """Show a number with commas."""
    return lambda row: f"{row[key]:,.0f}"


def fixed(key: str, digits: int = 1, unit: float = 1.0) -> Callable[[dict[str, Any]], str]:
    """Show a number in a unit."""
    return lambda row: f"{row[key] / unit:,.{digits}f}"


def share(key: str) -> Callable[[dict[str, Any]], str]:
    """Show a percentage."""
    return lambda row: f"{row[key]:.1%}"


def scattered(key: str, inner: str = "", digits: int = 0) -> Callable[[dict[str, Any]], str]:
    """Show the middle of some samples, and their scatter in parentheses."""

    def show(row: dict[str, Any]) -> str:
        one = row[inner][key] if inner else row[key]
        least, most = (f"{one[name]:,.{digits}f}" for name in ("least", "most"))
        return f"{one['mid']:,.{digits}f} ({least}-{most})"

    return show


def kib_a_node(key: str) -> Callable[[dict[str, Any]], str]:
    """Show bytes by the node."""
    return lambda row: f"{row[key] / row['nodes'] / 1024:.1f}"


def timing(key: str) -> Callable[[dict[str, Any]], str]:
    """Show mean, 99th percentile and maximum."""
    return lambda row: " / ".join(f"{row[key][one]:.1f}" for one in ("mean", "p99", "most"))


def a_day(key: str, digits: int) -> Callable[[dict[str, Any]], str]:
    """Show a count by the day of a node."""
    return lambda row: f"{row[key] / row['node_days']:.{digits}f}"


def view_part(console: Console, nodes: list[int], file: Path) -> dict[str, Any]:
    """Measure and print one router's process."""
    memory = [alone(measure_memory, file, count) for count in nodes]
    table(
        console,
        "memory of a router's view, KiB a node",
        memory,
        {
            "nodes": count_of("nodes"),
            "process": kib_a_node("rss_bytes"),
            "Python's": kib_a_node("python_bytes"),
            "of it chains": kib_a_node("chains_bytes"),
            "index": kib_a_node("view_bytes"),
            "adverts": kib_a_node("adverts_bytes"),
            "process in all, MiB": fixed("rss_bytes", unit=2**20),
        },
    )
    cpu = [alone(measure_cpu, file, count) for count in nodes]
    table(
        console,
        "CPU of one advert in a router's process, µs",
        cpu,
        {
            "nodes": count_of("nodes"),
            "first": scattered("first", "advert_us"),
            "unchanged": scattered("unchanged", "advert_us"),
            "changed": scattered("changed", "advert_us"),
            "prove": scattered("unchanged prove", "advert_us"),
            "decode": scattered("unchanged decode", "advert_us"),
            "apply": scattered("unchanged apply", "advert_us"),
            "apply a change": scattered("changed apply", "advert_us"),
            "from the channel": scattered("channel_us"),
        },
    )
    table(
        console,
        "decisions in that view, µs",
        cpu,
        {
            "nodes": count_of("nodes"),
            "hosts of the model": lambda row: f"{row['decision']['hosts_of_model']:,}",
            "a request": scattered("serve_us", "decision", 1),
            "a host comes or goes": scattered("apply_host_us", "decision"),
            "request just after": scattered("serve_after_us", "decision"),
            "tick of 50 models": scattered("tick_us", "decision"),
        },
    )
    return {"memory": memory, "cpu": cpu}


def mesh_part(console: Console, *, is_quick: bool) -> dict[str, Any]:
    """Measure and print one sidecar, without sockets and with."""
    dry = alone(measure_sidecar, 200)
    table(
        console,
        "a message in the sidecar, without sockets",
        [dry],
        {
            "first, µs": count_of("first_us"),
            "new, µs": scattered("message_us"),
            "of it the judge, µs": scattered("judge_us"),
            "again, µs": scattered("duplicate_us"),
            "envelope, bytes": count_of("envelope_bytes"),
            "message, bytes": count_of("rpc_bytes"),
        },
    )
    cases = [(1, 8, False), (3, 8, False), (5, 8, False), (5, 8, True)]
    each = 20 if is_quick else 40
    wet = [asyncio.run(measure_mesh(*case, each, 0.25)) for case in cases[: 1 if is_quick else 4]]
    table(
        console,
        "a node's message in a router's sidecar, over loopback",
        wet,
        {
            "routers": count_of("routers"),
            "nodes": count_of("publishers"),
            "messages": count_of("sent"),
            "a message, bytes": lambda row: f"{row['received_bytes'] / row['received']:,.0f}",
            "heard": share("heard_share"),
            "times received": fixed("received", 2),
            "bytes received": count_of("received_bytes"),
            "CPU, µs": scattered("message_us"),
            "idle, of a core": share("idle_share"),
            "memory, MiB": fixed("rss_bytes", 0, 2**20),
        },
    )
    return {"dry": dry, "wet": wet}


def staleness_part(console: Console, *, is_quick: bool) -> list[dict[str, Any]]:
    """Simulate and print what a router believes."""
    cases = [(interval, loss, 3, 0.0) for interval in (*INTERVALS_S, 120.0) for loss in LOSSES]
    cases += [(10.0, 0.1, missed, 0.0) for missed in (2, 4)]
    cases += [(interval, loss, 3, AGAIN_S) for interval in (60.0, 120.0) for loss in LOSSES[1:]]
    rows = [staleness(*case, nodes=50 if is_quick else 400, hours=3.0) for case in cases]
    table(
        console,
        "what a router believes, seconds (mean / p99 / most)",
        rows,
        {
            "interval": count_of("interval_s"),
            "loss": lambda row: f"{row['loss']:.0%}",
            "missed": count_of("missed"),
            "again after": count_of("again_s"),
            "age": timing("age_s"),
            "change known": timing("change_s"),
            "death suspected": timing("suspected_s"),
            "dead forgotten": timing("left_s"),
            "false suspicions a node-day": a_day("false_suspicions", 2),
            "false expiries": a_day("false_expiries", 3),
            "node-days": fixed("node_days"),
        },
    )
    return rows


def simulator_part(console: Console, nodes: list[int]) -> list[dict[str, Any]]:
    """Run and print the simulator."""
    rows = [alone(simulator, count) for count in nodes]
    table(
        console,
        "the simulator: `thousand` with so many nodes, 10 routers",
        rows,
        {
            "nodes": count_of("nodes"),
            "virtual s": fixed("virtual_s"),
            "requests": count_of("requests"),
            "CPU s": count_of("cpu_s"),
            "requests a CPU second": count_of("requests_per_cpu_s"),
            "p50, ms": count_of("p50_ms"),
            "p99, ms": count_of("p99_ms"),
            "goodput": share("goodput_share"),
            "memory, MiB": fixed("rss_bytes", 0, 2**20),
        },
    )
    return rows


def costs(console: Console, kept: dict[str, Any]) -> dict[str, Any]:
    """Print what hearing of a fleet costs a router, and the interval that keeps it within its budgets."""
    wet = max(
        (row for row in kept["mesh"]["wet"] if not row["is_short"]), key=lambda row: row["routers"]
    )
    size = kept["mesh"]["dry"]["rpc_bytes"] + NOISE_YAMUX_BYTES
    sidecar_us = wet["message_us"]["mid"]
    loads: list[dict[str, Any]] = []
    least: list[dict[str, Any]] = []
    for row in kept["view"]["cpu"]:
        count = row["nodes"]
        router_us = row["advert_us"]["unchanged"]["mid"] + row["channel_us"]["mid"]
        for seconds in INTERVALS_S:
            rate = count / seconds
            loads.append(
                {"nodes": count, "interval_s": seconds, "rate": rate}
                | {"router": rate * router_us / 1e6, "sidecar": rate * sidecar_us / 1e6}
                | {name: rate * size * copies * 8 / 1e6 for name, copies in COPIES.items()}
            )
        received = wet["received"]
        least.append(
            {
                "nodes": count,
                "router": interval_s(count, router_us, 0, 0),
                "bytes": interval_s(count, 0, size, received),
                "sidecar": interval_s(count, sidecar_us, 0, 0),
                "all": interval_s(count, router_us + sidecar_us, size, received),
            }
        )
    table(
        console,
        f"hearing of a fleet, among {wet['routers']} routers",
        loads,
        {
            "nodes": count_of("nodes"),
            "interval, s": count_of("interval_s"),
            "adverts/s": fixed("rate"),
            "router, of a core": share("router"),
            "sidecar": share("sidecar"),
            **{f"Mbit/s, {name}": fixed(name, 2) for name in COPIES},
        },
    )
    table(
        console,
        f"the least interval within {CPU_BUDGET:.0%} of a core and {BANDWIDTH_BUDGET / 1e6:g} Mbit/s, s",
        least,
        {
            "nodes": count_of("nodes"),
            "by the router's process": count_of("router"),
            "by bytes": count_of("bytes"),
            "by the sidecar": count_of("sidecar"),
            "by all": count_of("all"),
        },
    )
    return {"loads": loads, "least": least}


def main() -> int:
    """Measure what is asked for, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", default="100,1000,10000", help="fleet sizes, with commas")
    parser.add_argument(
        "--parts", default="view,mesh,staleness,simulator", help="names, with commas"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer messages and nodes: to see that it runs"
    )
    options = parser.parse_args()
    nodes = sorted(int(count) for count in options.nodes.split(","))
    parts = options.parts.split(",")
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    console = Console(width=None if sys.stdout.isatty() else 170)
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "view" in parts:
            file = Path(folder) / "fleet"
            make_fleet(nodes[-1], file)
            kept["view"] = view_part(console, nodes, file)
        if "mesh" in parts:
            kept["mesh"] = mesh_part(console, is_quick=options.quick)
        if "view" in kept and "mesh" in kept:
            kept["costs"] = costs(console, kept)
        if "staleness" in parts:
            kept["staleness"] = staleness_part(console, is_quick=options.quick)
        if "simulator" in parts:
            kept["simulator"] = simulator_part(console, nodes)
    for name, figures in kept.items():
        console.print(
            f"kept in {keep(f'scale-{name}', {'seed': SEED, 'nodes': nodes, name: figures})}"
        )
    return 0


if __name__ == "__main__":
    if "--counting-sidecar" in sys.argv:
        counting_sidecar()
    else:
        sys.exit(main())
