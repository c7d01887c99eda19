"""Random schedules: whatever comes, goes, gives way, goes on from elsewhere, hits prefixes or is cut into chunks, each answer is what it is alone."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections import Counter

import pytest
from generation_fakes import VOCABULARY, Desk, FakeSlots, ids_alone, run_schedule

from capamesh.node.generation import (
    GenerationRequest,
    GenerationSettings,
    SamplingParameters,
)


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


def schedule(seed: int, lookup_tokens: int = 0, habit: float = 0.0) -> Counter[str]:
    """Run the schedule of `seed` on slots without a model."""
    rng = random.Random(seed)
    slots = FakeSlots(rng.choice([2, 3, 5]))
    slots.habit = habit
    slots.most_replayed = rng.choice([0, 1, 3, 32])
    desk = Desk(slots, dataclasses.replace(_settings(rng), lookup_tokens=lookup_tokens))
    stems = [tuple(rng.randrange(VOCABULARY) for _ in range(34)) for _ in range(2)]
    alone = functools.partial(ids_alone, lookup_tokens=lookup_tokens, habit=habit)
    seen = run_schedule(rng, desk, lambda: _request(rng, stems), alone)
    assert slots.most_used <= desk.engine.pool_tokens
    return seen


@pytest.mark.full
def test_answers_of_random_schedules_are_those_of_requests_alone() -> None:
    runs = [schedule(seed) for seed in range(300)]
    assert sum(each["compared"] for each in runs) > 1000
    assert sum(each["gave_way"] for each in runs) > 50
    assert sum(each["bulk_gave_way"] for each in runs) > 50
    assert sum(each["replayed"] for each in runs) > 50


@pytest.mark.full
@pytest.mark.seeds
@pytest.mark.parametrize("lookup_tokens", [1, 4, 15])
def test_guesses_of_schedules_are_exact(lookup_tokens: int) -> None:
    runs = [schedule(seed, lookup_tokens, habit=9.0) for seed in range(100)]
    assert sum(each["gave_way"] for each in runs) > 20
    assert sum(each["replayed"] for each in runs) > 20
    accepted = sum(each["accepted"] for each in runs)
    assert sum(each["drafted"] for each in runs) - 50 > accepted > 100


@pytest.mark.slow
def test_answers_of_ten_thousand_schedules_are_exact() -> None:
    for seed in range(300, 10_300):
        schedule(seed)
        schedule(seed, lookup_tokens=seed % 16, habit=9.0)
