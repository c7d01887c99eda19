"""Why a request went where it went, for people who ask (the header X-Capamesh-Explain). Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.router.balancing.eligibility import Eligibility
    from capamesh.router.fleet.replica import Host

MAX_SHOWN = 16
MAX_REFUSAL_CHARS = 100
"""Of the hosts, and of each refusal, in `to_json`: it travels in a header, and aiohttp's client reads 8,190
bytes of one."""


@dataclass(frozen=True, slots=True)
class HostSignals:
    """What one host was judged by. Times are seconds."""

    peer: PeerId
    address: str
    refusal: str
    """Why it could not get the request, as seen now; empty: it could."""
    is_chosen: bool
    rif: int
    """Requests that this router has in flight there, for this model."""
    told_in_flight: int
    """As the node last said, of all routers."""
    limit: int
    latency_s: float
    """To expect at the node."""
    rtt_s: float
    told_s: float
    """How long ago the node said so; infinity: never."""
    price: float
    region: str
    state: str
    share: float
    """Of its requests that it gets while it recovers; 1 when it is well, 0 when it gets none."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One decision: among whom, by what, and what came of it."""

    model: ModelName
    version: ModelVersion
    policy: str
    candidates: tuple[HostSignals, ...]
    """All hosts of the model: the chosen first, then those who could have been."""
    chosen: tuple[PeerId, ...]
    """Who was asked, in that order."""

    def to_json(self) -> str:
        """Return one line of ASCII, at most `MAX_SHOWN` of the candidates in it. Times are milliseconds."""
        body: dict[str, Any] = {
            "model": self.model,
            "version": self.version,
            "policy": self.policy,
            "chosen": self.chosen,
            "hosts": len(self.candidates),
            "candidates": [_short(signals) for signals in self.candidates[:MAX_SHOWN]],
        }
        return json.dumps(body, separators=(",", ":"))


def signals_of(host: Host, rules: Eligibility, chosen: tuple[Host, ...]) -> HostSignals:
    """Return what `host` is judged by under `rules`."""
    candidate, load, now_s = host.candidate, host.load, rules.now_s
    health = host.health if not host.health.is_full else candidate.health
    may_send = host.health.may_send(now_s) and candidate.health.may_send(now_s)
    return HostSignals(
        peer=candidate.peer,
        address=candidate.address,
        refusal=rules.refusal(host),
        is_chosen=host in chosen,
        rif=host.rif,
        told_in_flight=load.in_flight,
        limit=load.limit,
        latency_s=host.service_s(),
        rtt_s=candidate.network.rtt_s,
        told_s=now_s - host.load_s,
        price=host.advert.price_per_million,
        region=host.advert.region,
        state=str(health.state(now_s)),
        share=min(host.health.share(now_s), candidate.health.share(now_s)) if may_send else 0.0,
    )


def explained(
    model: ModelName,
    version: ModelVersion,
    policy: str,
    *,
    hosts: tuple[Host, ...],
    rules: Eligibility,
    chosen: tuple[Host, ...],
) -> Explanation:
    """Return the decision as it looks by `rules`, which are those of the choice; `chosen` in order."""
    asked = [host for host in chosen if host not in hosts]  # gone meanwhile
    signals = [signals_of(host, rules, chosen) for host in (*hosts, *asked)]
    signals.sort(key=lambda each: (not each.is_chosen, bool(each.refusal)))
    return Explanation(
        model, version, policy, tuple(signals), tuple([host.candidate.peer for host in chosen])
    )


def host_body(signals: HostSignals) -> dict[str, Any]:
    """Return what one host was judged by as JSON values, times in milliseconds."""
    return {
        "peer": signals.peer,
        "address": signals.address,
        "chosen": signals.is_chosen,
        "rif": signals.rif,
        "in_flight": signals.told_in_flight,
        "limit": signals.limit,
        "latency_ms": round(signals.latency_s * 1e3, 3),
        "rtt_ms": round(signals.rtt_s * 1e3, 3),
        "told_ms_ago": None if math.isinf(signals.told_s) else round(signals.told_s * 1e3, 1),
        "price": signals.price,
        "region": signals.region,
        "state": signals.state,
        "share": round(signals.share, 3),
        "refusal": signals.refusal,
    }


def _short(signals: HostSignals) -> dict[str, Any]:
    shown = host_body(signals)
    refusal = shown.pop("refusal")
    if refusal:
        shown["refusal"] = refusal[:MAX_REFUSAL_CHARS]
    return shown
