"""Measures what one router's process pays for knowing a fleet: memory, the CPU of an advert, and that of decisions."""

from __future__ import annotations

import gc
import os
import random
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from machine import memory_bytes
from samples import spread, timed
from scale_fleet import Round, load

from capamesh.protocol import adverts as wire
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.fleet import FleetMembership, Joined
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.links.link import Link
from capamesh.protocol.mesh.messages import Heard, from_wire, to_wire
from capamesh.protocol.msgpack_codec import pack, unpack
from capamesh.protocol.network import NetworkTrust
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.fleet.view import FleetView
from capamesh.router.policies import RequestShape, make_policy
from capamesh.router.rules.constraints import ANYWHERE
from capamesh.router.rules.model_rules import NO_RULES

SEED = 1
REPEATS = {100: 15, 1000: 5}
"""The repetitions of a measurement, by the number of nodes; 2 where the fleet is larger."""
UP = cast(Link, type("_Up", (), {"is_usable": True})())
"""All of a link that eligibility reads."""


class Knowing:
    """The work of `router.service` on an envelope, but for its links and its log."""

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


def measure_decisions(knowing: Knowing, envelopes: Round) -> dict[str, Any]:
    """Return what choosing costs in a view: as it is, and just after a replica came or went."""
    knowing.hear(envelopes, 0.0)
    for endpoint in knowing.view.endpoints():
        endpoint.link = UP
        endpoint.network.round_trip(0.001, 0.0)
    rng = random.Random(SEED)  # noqa: S311 - to repeat it
    balancer = Balancer(
        knowing.view,
        make_policy=make_policy,
        rng=rng,
        rules=NO_RULES,
    )
    models = knowing.view.models()
    served = [balancer.served(model, ModelVersion("")) for model in models]
    shape = RequestShape(models[0], ModelVersion(""), 1024)
    now_s = 100.0

    def serve() -> None:
        """Choose a replica for a request, which it answers at once."""
        nonlocal now_s
        now_s += 0.0005
        picker = RequestPicker(served[0], ANYWHERE, shape)
        replica = picker.choose((), now_s)
        picker.sent(replica, now_s)
        picker.answered(replica, LoadReport(1, 0, 8, 0, 200, 0, 200, 1), 0.001, 0.0002, 1024, now_s)

    def serve_many() -> None:
        for _ in range(1000):
            serve()

    serve_many()
    steady = [timed(serve_many, 1000) for _ in range(7)]
    known = served[0].replicas[0].advert
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
    for turn in range(3):  # every replica has answered since the last one
        now_s = 200.0 + turn
        for one in served:
            for each in one.replicas:
                one.answered(each, each.load, 0.001, 0.0002, 1024, now_s)
        ticks.append(timed(partial(balancer.tick, now_s), 1))
    return {
        "replicas_of_model": len(served[0].replicas),
        "serve_us": spread(steady),
        "apply_replica_us": spread(applied),
        "serve_after_us": spread(churned),
        "tick_us": spread(ticks),
    }
