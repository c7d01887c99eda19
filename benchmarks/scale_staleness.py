"""Measures the age of a router's beliefs about its fleet, in virtual time."""

from __future__ import annotations

import heapq
import math
import random
import statistics
from dataclasses import replace
from typing import Any

from scale_fleet import advert

from capamesh.node.agent.advert_schedule import JITTER, SETTLE_S
from capamesh.protocol.adverts import Sequence as AdvertSequence
from capamesh.protocol.fleet import FleetMembership, Left, Suspected
from capamesh.protocol.ids import PeerId

SEED = 1
TICK_S, GOSSIP_S = 0.5, 0.5
"""The router's own; until gossip is everywhere, as in the simulator (guess)."""


class Beliefs:
    """The beliefs of one router about each node, beside the truth. In virtual time."""

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
