from __future__ import annotations

import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import SHAPE, fleet, replica, send, usable
from replicas import name as name_of

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet import latency_ewma as peak_ewma
from capamesh.router.policies import POLICIES, make_policy

NAMES = sorted(POLICIES)


@pytest.mark.parametrize("name", NAMES)
@given(st.data())
def test_pick_is_an_eligible_replica_and_none_only_when_there_is_none(
    name: str, data: st.DataObject
) -> None:
    """Through traffic, reports, and replicas that come, go, lose their link and get it back."""
    rng = random.Random(data.draw(st.integers(0, 2**32), "seed"))
    policy = make_policy(name, random.Random(rng.random()))
    replicas = fleet([rng.randrange(4) for _ in range(data.draw(st.integers(0, 30), "hosts"))])
    links = {one: one.endpoint.link for one in replicas}
    now_s = 100.0
    for step in range(data.draw(st.integers(1, 25), "steps")):
        now_s += rng.choice([0.0, 0.001, 0.2, 3.0])
        for one in replicas:
            one.endpoint.link = links[one] if rng.random() < rng.choice([0.1, 0.9]) else None
        shape = SHAPE.replace(affinity=rng.choice(["", "k", str(step)]))
        picked = policy.pick(replicas, usable, shape, now_s)
        eligible = {one for one in replicas if usable(one)}
        assert (picked in eligible) if eligible else (picked is None)
        if picked is not None:
            picked.rif += 1
            policy.sent(picked, now_s)
            probed = policy.probes(replicas, usable, now_s)
            assert set(probed) <= eligible
            for one in {*probed, picked}:
                one.reported(
                    LoadReport(rng.randrange(5), 0, 4, 10, 10, 0, rng.randrange(99)), now_s
                )
                policy.reported(one, now_s)
            peak_ewma.observe(picked, rng.random(), now_s)
        if replicas and rng.random() < 0.2:
            replicas[0].is_gone = True
            replicas = replicas[1:]
        if rng.random() < 0.2:
            replicas = (*replicas, replica(f"new-{step}"))
            links[replicas[-1]] = replicas[-1].endpoint.link


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 3, 20, 40])
def test_preview_tells_the_next_pick_and_changes_none(name: str, count: int) -> None:
    """Through traffic, reports, replicas that come and go, and requests with and without a key."""

    def run(*, is_previewed: bool) -> tuple[list[str], list[str], list[str]]:
        rng, draws = random.Random(7), random.Random(42)
        policy = make_policy(name, draws)
        replicas, others = fleet([0] * count), fleet([0] * 30)
        picked: list[str] = []
        probed: list[str] = []
        seen: list[str] = []
        for step in range(120):
            now_s = 100.0 + step / 50
            shape = SHAPE.replace(affinity=rng.choice(["", "k", str(step)]))
            if is_previewed:
                was = draws.getstate()
                rng_ahead = copy.copy(draws)
                one = policy.preview(replicas, usable, shape, now_s, rng_ahead)
                seen.append(name_of(one))
                policy.preview(others, usable, shape.replace(version="9"), now_s, rng_ahead)
                assert draws.getstate() == was
            one = policy.pick(replicas, usable, shape, now_s)
            picked.append(name_of(one))
            if one is not None:
                send(policy, one, now_s)
                probed += [name_of(each) for each in policy.probes(replicas, usable, now_s)]
            if one is not None and rng.random() < 0.8:
                one.rif -= 1
                load = LoadReport(rng.randrange(5), 0, 4, 10, 10, 0, rng.randrange(99))
                one.reported(load, now_s)
                policy.reported(one, now_s)
                peak_ewma.observe(one, rng.random(), now_s)
            if step % 25 == 24 and replicas:
                replicas = (*replicas[1:], replica(f"new-{step}"))
        return picked, probed, seen

    picked, probed, _ = run(is_previewed=False)
    assert run(is_previewed=True) == (picked, probed, picked)
    assert len(set(picked)) == 1 if count == 0 else len(set(picked)) >= 3
