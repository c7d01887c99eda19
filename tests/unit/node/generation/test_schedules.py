"""Random schedules: whatever comes, goes, gives way, goes on from elsewhere, hits prefixes or is cut into chunks, each answer is what it is alone."""

from __future__ import annotations

import dataclasses
import random

import pytest
from generation_fakes import VOCABULARY, Desk, FakeSlots, ids_alone

from capamesh.node.generation import (
    GenerationRequest,
    GenerationSettings,
    SamplingParameters,
)
from capamesh.node.generation.sequence import Sequence
from capamesh.protocol.errors import CapameshError


def _settings(rng: random.Random) -> GenerationSettings:
    return GenerationSettings(
        pool_tokens=rng.choice([0, 64, 80, 120]),
        overcommit=rng.choice([1.0, 1.5, 4.0]),
        max_waiting=rng.choice([4, 64]),
        target_gap_s=rng.choice([0.01, 0.1, 1.0]),
        max_chunk=rng.choice([4, 5, 8, 64]),
        prefix_bytes=rng.choice([0, 4_000, 1_000_000]),
    )


def _request(rng: random.Random, stems: list[tuple[int, ...]]) -> GenerationRequest:
    stem = rng.choice(stems)
    prompt = stem[: rng.randint(1, len(stem))]
    prompt += tuple(rng.randrange(VOCABULARY) for _ in range(rng.choice([0, 1, 3])))
    sampling = SamplingParameters(
        temperature=rng.choice([0.0, 1.0]),
        top_p=rng.choice([1.0, 0.8]),
        top_k=rng.choice([0, 5]),
        seed=rng.randrange(3),
        presence_penalty=rng.choice([0.0, 0.5]),
    )
    return GenerationRequest(
        prompt,
        rng.randint(1, 20),
        sampling,
        stop_tokens=frozenset(rng.sample(range(VOCABULARY), rng.choice([0, 2]))),
        choices=rng.choice([1, 1, 1, 2]),
        priority=rng.choice([0, 0, 1]),
        is_bulk=rng.random() < 0.3,
        tenant=rng.choice(["", "other"]),
    )


def _lost_elsewhere(
    rng: random.Random, request: GenerationRequest, lookup_tokens: int, habit: float
) -> GenerationRequest:
    """Return `request` as it comes from a node that was lost somewhere in its answer."""
    whole = ids_alone(request, lookup_tokens=lookup_tokens, habit=habit)
    had = whole[: rng.randrange(len(whole))]
    return dataclasses.replace(request, resumed=tuple(had), is_replayed=True)


@dataclasses.dataclass
class Seen:
    """What came of a schedule, in counts."""

    compared: int
    gave_way: int
    bulk_gave_way: int
    replayed: int
    drafted: int
    accepted: int


def run_schedule(seed: int, lookup_tokens: int = 0, habit: float = 0.0) -> Seen:
    """Run the schedule of `seed`, and compare each answer with that of its request alone."""
    rng = random.Random(seed)
    slots = FakeSlots(rng.choice([2, 3, 5]))
    slots.habit = habit
    desk = Desk(slots, dataclasses.replace(_settings(rng), lookup_tokens=lookup_tokens))
    stems = [tuple(rng.randrange(VOCABULARY) for _ in range(34)) for _ in range(2)]
    asked: list[tuple[GenerationRequest, int, Sequence]] = []
    cancelled: set[Sequence] = set()
    for _ in range(rng.randint(20, 60)):
        desk.step_s = rng.choice([0.001, 0.02, 0.2])
        action = rng.random()
        if action < 0.25:
            request = _request(rng, stems)
            if request.choices == 1 and rng.random() < 0.2:
                request = _lost_elsewhere(rng, request, lookup_tokens, habit)
            try:
                made = desk.submit(request)
            except CapameshError:
                continue
            asked.extend((request, choice, each) for choice, each in enumerate(made))
        elif action < 0.3 and asked:
            gone = rng.choice(asked)[2]
            desk.engine.cancel(gone)
            cancelled.add(gone)
        else:
            desk.step()
    desk.run()
    assert desk.engine.load().tokens_in_flight == 0
    assert desk.engine.load().waiting == 0
    assert slots.most_used <= desk.engine.pool_tokens
    for request, choice, sequence in asked:
        ids = [*request.resumed, *desk.ids(sequence)]
        whole = dataclasses.replace(request, resumed=())
        alone = ids_alone(whole, choice, lookup_tokens=lookup_tokens, habit=habit)
        if sequence in cancelled or desk.finish(sequence) not in ("stop", "length"):
            assert ids == alone[: len(ids)], seed
        else:
            assert ids == alone, seed
    load = desk.engine.load()
    return Seen(
        len(asked),
        load.preemptions,
        sum(each.times_put_back for request, _, each in asked if request.is_bulk),
        sum(bool(request.resumed) for request, _, _ in asked),
        load.drafted_tokens,
        load.accepted_tokens,
    )


@pytest.mark.full
def test_answers_of_random_schedules_are_those_of_requests_alone() -> None:
    runs = [run_schedule(seed) for seed in range(300)]
    assert sum(each.compared for each in runs) > 1000
    assert sum(each.gave_way for each in runs) > 50
    assert sum(each.bulk_gave_way for each in runs) > 50
    assert sum(each.replayed for each in runs) > 50


@pytest.mark.full
@pytest.mark.seeds
@pytest.mark.parametrize("lookup_tokens", [1, 4, 15])
def test_guessed_answers_of_schedules_are_exact(lookup_tokens: int) -> None:
    runs = [run_schedule(seed, lookup_tokens, habit=9.0) for seed in range(100)]
    assert sum(each.gave_way for each in runs) > 20
    assert sum(each.replayed for each in runs) > 20
    accepted = sum(each.accepted for each in runs)
    assert sum(each.drafted for each in runs) - 50 > accepted > 100


@pytest.mark.slow
def test_answers_of_ten_thousand_schedules_are_exact() -> None:
    for seed in range(300, 10_300):
        run_schedule(seed)
        run_schedule(seed, lookup_tokens=seed % 16, habit=9.0)
