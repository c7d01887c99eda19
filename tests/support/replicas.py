"""Replicas in few words: an endpoint with a link that only says whether it is usable."""

from __future__ import annotations

import random
from dataclasses import replace

from fleet_fakes import advert, offer

from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.policy import Policy
from capamesh.router.policies.request_shape import RequestShape

SHAPE = RequestShape(ModelName("m"), ModelVersion(""), 8)


class Usable:
    """All of a link that choosing needs."""

    def __init__(self) -> None:
        self.is_usable = True
        self.peer_process = b"first"


def replica(
    peer: str = "a",
    *,
    rif: int = 0,
    load: LoadReport | None = None,
    load_s: float = 0.0,
    price: float = 1.5,
    row_us: int = 0,
    rtt_s: float = 0.0,
) -> Replica:
    """Return a replica whose link is up; `load` is what it told at `load_s`, None when it told nothing yet."""
    endpoint = Endpoint(PeerId(peer), f"{peer}:7000")
    endpoint.link = Usable()  # type: ignore[assignment]
    endpoint.network.rtt_s = endpoint.network.trip_s = rtt_s
    offered = replace(offer(), row_us=row_us)
    made = Replica(
        endpoint, offered, replace(advert(peer, models=(offered,)), price_per_million=price)
    )
    made.rif = endpoint.rif = rif
    if load is not None:
        made.reported(load, load_s)
    return made


def fleet(rifs: str | list[int]) -> tuple[Replica, ...]:
    """Return idle replicas named by the letters given, or replicas named "0", "1", … with so many in flight."""
    if isinstance(rifs, str):
        return tuple(replica(peer) for peer in rifs)
    return tuple(replica(str(index), rif=rif) for index, rif in enumerate(rifs))


def usable(one: Replica, now_s: float = 0.0) -> bool:
    """The least that eligibility asks, and that a probe does."""
    del now_s
    return one.endpoint.is_usable


def lose(*replicas: Replica) -> None:
    for one in replicas:
        one.endpoint.link = None


def name(one: Replica | None) -> str:
    """Return the replica's peer, "-" for none."""
    return "-" if one is None else str(one.endpoint.peer)


def picks(policy: Policy, replicas: tuple[Replica, ...], times: int, now_s: float = 0.0) -> str:
    """Return the names of the replicas picked one after the other, none of them getting busier."""
    return "".join(name(policy.pick(replicas, usable, SHAPE, now_s)) for _ in range(times))


def tell(
    policy: Policy, one: Replica, now_s: float = 0.0, *, rif: int = 0, run_us: int = 10_000
) -> None:
    """Let a replica tell that `rif` requests are there, all but one queued, and that each takes `run_us`."""
    waiting = max(0, rif - 1)
    queue_us = waiting * run_us + (run_us // 2 if rif else 0)
    load = LoadReport(rif, waiting, 100, queue_us, run_us, 0, queue_us + run_us, rif)
    one.reported(load, now_s)
    policy.reported(one, now_s)


def send(policy: Policy, one: Replica, now_s: float) -> None:
    one.rif += 1
    policy.sent(one, now_s)


class Draws(random.Random):
    """Gives the numbers it was made with."""

    def __new__(cls, *_: float) -> Draws:
        return super().__new__(cls)

    def __init__(self, *numbers: float) -> None:
        super().__init__(0)
        self._numbers = list(numbers)

    def random(self) -> float:
        return self._numbers.pop(0)
