"""The explanation of why a request went where it went, for people who ask (the header X-Capamesh-Explain). Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.router.balancing.attempt import AttemptRecord
    from capamesh.router.balancing.eligibility import Eligibility
    from capamesh.router.fleet.replica import Replica

MAX_SHOWN = 16
MAX_REFUSAL_CHARS = 100
"""The most replicas, and the longest refusal and outcome of an attempt, in `to_json`: it travels in a header, of which
aiohttp's client reads 8,190 bytes."""


@dataclass(frozen=True, slots=True)
class ReplicaSignals:
    """The signals by which one replica was judged. Times are seconds."""

    peer: PeerId
    address: str
    refusal: str
    """The reason for which it could not get the request, as seen now; empty if it could."""
    is_chosen: bool
    rif: int
    """Requests that this router has in flight there, for this model."""
    reported_in_flight: int
    """The requests in flight of all routers, as the node last reported."""
    limit: int
    latency_s: float
    """The latency to expect at the node."""
    rtt_s: float
    reported_s: float
    """The age of that report; infinity if there is none."""
    price: float
    region: str
    state: str
    share: float
    """The share of its requests that it gets while it recovers; 1 when it is well, 0 when it gets none."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One decision: among whom, by what, and what came of it."""

    model: ModelName
    version: ModelVersion
    policy: str
    replicas: tuple[ReplicaSignals, ...]
    """All replicas of the model: the chosen first, then those who could have been."""
    chosen: tuple[PeerId, ...]
    """The peers that were asked, in that order."""
    attempts: tuple[AttemptRecord, ...] = ()
    """The record of each attempt, in the order in which they were sent."""

    def to_json(self) -> str:
        """Return one line of ASCII, at most `MAX_SHOWN` of the replicas in it. Times are microseconds."""
        body: dict[str, Any] = {
            "model": self.model,
            "version": self.version,
            "policy": self.policy,
            "chosen": self.chosen,
            "attempts": attempt_bodies(self.attempts),
            "replica_count": len(self.replicas),
            "replicas": [_short(signals) for signals in self.replicas[:MAX_SHOWN]],
        }
        return json.dumps(body, separators=(",", ":"))


def signals_of(replica: Replica, rules: Eligibility, chosen: tuple[Replica, ...]) -> ReplicaSignals:
    """Return what `replica` is judged by under `rules`."""
    endpoint, load, now_s = replica.endpoint, replica.load, rules.now_s
    health = replica.health if not replica.health.is_full else endpoint.health
    may_send = replica.health.may_send(now_s) and endpoint.health.may_send(now_s)
    return ReplicaSignals(
        peer=endpoint.peer,
        address=endpoint.address,
        refusal=rules.refusal(replica),
        is_chosen=replica in chosen,
        rif=replica.rif,
        reported_in_flight=load.in_flight,
        limit=load.limit,
        latency_s=replica.service_s,
        rtt_s=endpoint.network.rtt_s,
        reported_s=now_s - replica.load_s,
        price=replica.advert.price_per_million,
        region=replica.advert.region,
        state=str(health.state(now_s)),
        share=min(replica.health.share(now_s), endpoint.health.share(now_s)) if may_send else 0.0,
    )


def explained(
    model: ModelName,
    version: ModelVersion,
    policy: str,
    *,
    replicas: tuple[Replica, ...],
    rules: Eligibility,
    chosen: tuple[Replica, ...],
    attempts: Sequence[AttemptRecord] = (),
) -> Explanation:
    """Return the decision as it looks by `rules`, which are those of the choice; `chosen` and `attempts` in order."""
    asked = [replica for replica in chosen if replica not in replicas]  # gone meanwhile
    signals = [signals_of(replica, rules, chosen) for replica in (*replicas, *asked)]
    signals.sort(key=lambda each: (not each.is_chosen, bool(each.refusal)))
    peers = tuple([replica.endpoint.peer for replica in chosen])
    return Explanation(model, version, policy, tuple(signals), peers, tuple(attempts))


def attempt_bodies(attempts: Sequence[AttemptRecord]) -> list[dict[str, Any]]:
    """Return what became of each attempt as JSON values, times in microseconds since the first was sent."""
    return [
        {
            "peer_id": attempt.replica.endpoint.peer,
            "sent_us": round((attempt.sent_s - attempts[0].sent_s) * 1e6),
            "ended_us": None
            if attempt.ended_s is None
            else round((attempt.ended_s - attempts[0].sent_s) * 1e6),
            "outcome": attempt.outcome[:MAX_REFUSAL_CHARS],
        }
        for attempt in attempts
    ]


def replica_body(signals: ReplicaSignals) -> dict[str, Any]:
    """Return what one replica was judged by as JSON values, times in microseconds."""
    return {
        "peer_id": signals.peer,
        "address": signals.address,
        "is_chosen": signals.is_chosen,
        "requests_in_flight": signals.rif,
        "node_in_flight": signals.reported_in_flight,
        "node_limit": signals.limit,
        "latency_us": round(signals.latency_s * 1e6),
        "rtt_us": round(signals.rtt_s * 1e6),
        "report_age_us": None
        if math.isinf(signals.reported_s)
        else round(signals.reported_s * 1e6),
        "price_per_million": signals.price,
        "region": signals.region,
        "state": signals.state,
        "share": round(signals.share, 3),
        "refusal": signals.refusal,
    }


def _short(signals: ReplicaSignals) -> dict[str, Any]:
    shown = replica_body(signals)
    refusal = shown.pop("refusal")
    if refusal:
        shown["refusal"] = refusal[:MAX_REFUSAL_CHARS]
    return shown
