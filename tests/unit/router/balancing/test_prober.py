"""Probes on links that a test drives: what the balancer is told of them, and when they are given up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from fleet_fakes import FakeLink, Fleet, LoadAsk, hang, in_virtual_time, linked

from capamesh.protocol.errors import ModelNotFound
from capamesh.protocol.links.calls import LoadReport, encode_load
from capamesh.router.admission.saturation import STALE_S

LOAD = LoadReport(3, 1, 8, 20, 30, 0, 40, 5)


async def test_probe_names_the_model_and_its_reply_is_reported_with_its_round_trip() -> None:
    fleet = Fleet([], [])
    fleet.prober.ask(fleet.replicas)
    (probe,) = fleet.links[0].probes
    assert (probe.model, probe.version) == ("m", "1")
    await asyncio.sleep(0.25)
    assert probe.tell(encode_load(LOAD))
    replica = fleet.replicas[0]
    assert (replica.load, replica.load_s) == (LOAD, 0.25)  # in the reply's own turn
    assert replica.endpoint.network.rtt_s == 0.25
    assert fleet.links[1].probes[0].tell(encode_load(LOAD))
    await asyncio.sleep(STALE_S)
    assert (fleet.prober.sent, fleet.prober.lost, fleet.counts) == (2, 0, {})


async def test_reply_that_does_not_come_is_given_up_at_the_limit() -> None:
    fleet = Fleet([], [])
    first, second = fleet.replicas
    fleet.prober.ask([first])
    await asyncio.sleep(0.5)
    fleet.prober.ask([second])
    await asyncio.sleep(0.499)
    assert fleet.prober.lost == 0
    await asyncio.sleep(0.002)
    assert (fleet.prober.lost, len(fleet.links[0].withdrawn)) == (1, 1)
    assert not fleet.links[0].probes[0].tell(encode_load(LOAD))  # too late
    assert first.load == LoadReport()
    await asyncio.sleep(0.5)
    assert (repr(fleet.prober), fleet.counts) == ("Prober(2 sent, 2 lost)", {})


@pytest.mark.pure
def test_probes_are_neither_forgotten_nor_reported_twice() -> None:
    @in_virtual_time
    async def scenario(seed: int) -> int:
        rng = random.Random(seed)
        fleet = Fleet(*[[]] * rng.randint(1, 4))
        fleet.served()
        outcomes: list[str] = []
        fleet.balancer.probe_answered = lambda *_: outcomes.append("answered")  # type: ignore[method-assign]
        fleet.balancer.probe_failed = lambda *_: outcomes.append("failed")  # type: ignore[method-assign]

        def reply(probe: LoadAsk) -> None:
            told: list[Callable[[], object]] = [
                lambda: probe.tell(encode_load(LOAD)),
                lambda: probe.tell(b"junk"),
                lambda: probe.fail(ModelNotFound("none")),
            ]
            act = rng.choice([*told, probe.link.end, lambda: hang(probe)])
            asyncio.get_running_loop().call_later(rng.choice([0.0, 0.1, 0.9, 1.0, 1.5]), act)

        links: list[FakeLink] = []
        asked = 0
        for _ in range(12):
            for at, endpoint in enumerate(fleet.endpoints):
                if endpoint.link is None and rng.random() < 0.5:
                    fleet.links[at] = linked(endpoint)
                fleet.links[at].load_reply = reply
                links.append(fleet.links[at])
            replicas = [replica for replica in fleet.replicas if rng.random() < 0.6]
            asked += len(replicas)
            fleet.prober.ask(replicas)
            await asyncio.sleep(rng.choice([0.0, 0.05, 0.4]))
        await asyncio.sleep(3.0)
        assert len(outcomes) == asked, seed
        assert fleet.counts == {}, seed
        assert not any(link.probing for link in links), seed
        return asked

    assert sum(scenario(seed) for seed in range(100)) > 1000
