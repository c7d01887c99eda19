"""Hosts in few words: a candidate with a link that only says whether it is usable."""

from __future__ import annotations

import random
from dataclasses import replace

from fleet_fakes import advert, offer

from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.endpoint import Candidate
from capamesh.router.fleet.replica import Host
from capamesh.router.policies.policy import Policy, RequestShape

SHAPE = RequestShape(ModelName("m"), ModelVersion(""), 8)


class Usable:
    """All of a link that choosing needs."""

    def __init__(self) -> None:
        self.is_usable = True
        self.peer_process = b"first"


def host(
    peer: str = "a",
    *,
    rif: int = 0,
    load: LoadReport | None = None,
    load_s: float = 0.0,
    price: float = 1.5,
    row_us: int = 0,
    rtt_s: float = 0.0,
) -> Host:
    """Return a host whose link is up; `load` is what it told at `load_s`, None when it told nothing yet."""
    candidate = Candidate(PeerId(peer), f"{peer}:7000")
    candidate.link = Usable()  # type: ignore[assignment]
    candidate.network.rtt_s = rtt_s
    offered = replace(offer(), row_us=row_us)
    made = Host(
        candidate, offered, replace(advert(peer, models=(offered,)), price_per_million=price)
    )
    made.rif = candidate.rif = rif
    if load is not None:
        made.told(load, load_s)
    return made


def fleet(rifs: str | list[int]) -> tuple[Host, ...]:
    """Return idle hosts named by the letters given, or hosts named "0", "1", … with so many in flight."""
    if isinstance(rifs, str):
        return tuple(host(peer) for peer in rifs)
    return tuple(host(str(index), rif=rif) for index, rif in enumerate(rifs))


def usable(one: Host) -> bool:
    """The least that eligibility asks."""
    return one.candidate.is_usable


def lose(*hosts: Host) -> None:
    """Take their links down."""
    for one in hosts:
        one.candidate.link = None


def name(one: Host | None) -> str:
    """Return the host's peer, "-" for none."""
    return "-" if one is None else str(one.candidate.peer)


def picks(
    policy: Policy,
    hosts: tuple[Host, ...],
    times: int,
    shape: RequestShape = SHAPE,
    now_s: float = 0.0,
) -> str:
    """Return the names of the hosts picked one after the other, none of them getting busier."""
    return "".join(name(policy.pick(hosts, usable, shape, now_s)) for _ in range(times))


def tell(
    policy: Policy,
    one: Host,
    now_s: float = 0.0,
    *,
    rif: int = 0,
    queued: int | None = None,
    run_us: int = 10_000,
    latency_us: int = 0,
) -> None:
    """Let a host tell that `rif` requests are there, all but one queued, and that each takes `run_us`."""
    waiting = max(0, rif - 1) if queued is None else queued
    queue_us = waiting * run_us + (run_us // 2 if rif else 0)
    one.told(
        LoadReport(rif, waiting, 100, queue_us, run_us, 0, latency_us or queue_us + run_us, rif),
        now_s,
    )
    policy.told(one, now_s)


def send(policy: Policy, one: Host, now_s: float) -> None:
    """Send one request there."""
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
