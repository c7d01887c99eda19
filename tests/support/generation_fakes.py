"""Slots without a model for tests of generation: scores are a function of the tokens that a slot holds, and of how each was run."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
from typing_extensions import override

from capamesh.node.generation import (
    GenerationEngine,
    GenerationRequest,
    GenerationSettings,
    Slots,
    StepPlan,
    TokenPart,
    TokenText,
)
from capamesh.node.generation.sequence import Sequence as TokenSequence
from capamesh.node.generation.slots import CacheBlock, Logits
from capamesh.protocol.errors import CapameshError

VOCABULARY = 32
_ALONE, _TOGETHER = 1, 2
"""A token that was run alone, or is left over by tiles, rounds otherwise than one that was run together with others."""
TILE = 32


class FakeSlots(Slots):
    """Slots whose cache is a chain of digests: a wrong token, order, copy or manner of a run changes all scores behind it."""

    def __init__(self, count: int = 4, length: int = 64) -> None:
        self.count, self.length = count, length
        self.token_bytes, self.vocabulary = 24, VOCABULARY
        self.scores_each = True
        self.most_replayed = 0
        self._cache = np.zeros((count, length, 3), np.int64)
        self._used = [0] * count
        self.decoded_rows: list[int] = []
        self.extended: list[int] = []
        self.scored: list[int] = []
        self.replayed: list[int] = []
        self.fails: Exception | None = None
        self.habit = 0.0
        """What the token has in advance that is next in a circle of four: with some, answers repeat themselves."""
        self.rounds = True
        """False if it does not matter whether a token was run alone."""
        self.most_used = 0
        self.is_closed = False

    @override
    def decode(self, tokens: Sequence[int]) -> Logits:
        self._fail()
        self.decoded_rows.append(len(tokens))
        for slot, token in enumerate(tokens):
            self._append(slot, token, _ALONE)
        return np.stack([self._logits(slot) for slot in range(len(tokens))])

    @override
    def extend(self, slot: int, tokens: Sequence[int], *, wants_logits: bool) -> Logits | None:
        self._fail()
        assert tokens
        self.extended.append(len(tokens))
        for place, token in enumerate(tokens):
            is_alone = place % TILE == 0 and place == len(tokens) - 1
            self._append(slot, token, _ALONE if is_alone else _TOGETHER)
        return self._logits(slot) if wants_logits else None

    @override
    def replay(
        self, pieces: Sequence[tuple[int, Sequence[int]]], *, wants_logits: bool
    ) -> Logits | None:
        self._fail()
        rows = sum(len(tokens) for _, tokens in pieces)
        assert len(pieces) <= rows <= self.most_replayed
        self.replayed.append(rows)
        for slot, tokens in pieces:
            for token in tokens:
                self._append(slot, token, _ALONE)
        return np.stack([self._logits(slot) for slot, _ in pieces]) if wants_logits else None

    @override
    def score(self, slot: int, tokens: Sequence[int]) -> Logits:
        self._fail()
        assert 1 < len(tokens) < TILE
        self.scored.append(len(tokens))
        found = []
        for token in tokens:
            self._append(slot, token, _TOGETHER)
            found.append(self._logits(slot))
        return np.stack(found)

    @override
    def copy(self, source: int, target: int, count: int) -> None:
        assert source != target
        assert count <= self._used[source]
        self._cache[target, :count] = self._cache[source, :count]
        self._used[target] = count

    @override
    def truncate(self, slot: int, count: int) -> None:
        assert count <= self._used[slot]
        self._used[slot] = count

    @override
    def used(self, slot: int) -> int:
        return self._used[slot]

    @override
    def save(self, slot: int, start: int, stop: int) -> CacheBlock:
        assert stop <= self._used[slot]
        return self._cache[slot, start:stop].copy()

    @override
    def load(self, slot: int, block: CacheBlock, count: int) -> None:
        used = self._used[slot]
        self._cache[slot, used : used + count] = block[:count]
        self._used[slot] = used + count

    @override
    def close(self) -> None:
        self.is_closed = True

    def tokens(self, slot: int) -> list[int]:
        return self._cache[slot, : self._used[slot], 0].tolist()

    def _fail(self) -> None:
        if self.fails is not None:
            raise self.fails

    def _append(self, slot: int, token: int, manner: int) -> None:
        used = self._used[slot]
        assert used < self.length
        manner = manner if self.rounds else _TOGETHER
        before = int(self._cache[slot, used - 1, 2]) if used else 0
        raw = np.array([before, token, manner], np.int64).tobytes()
        digest = int.from_bytes(blake2b(raw, digest_size=8).digest(), "little", signed=True)
        self._cache[slot, used] = token, manner, digest
        self._used[slot] = used + 1
        self.most_used = max(self.most_used, sum(self._used))

    def _logits(self, slot: int) -> Logits:
        digest = self._cache[slot, self._used[slot] - 1].tobytes()
        raw = np.frombuffer(blake2b(digest, digest_size=64).digest(), np.uint16)
        scores = raw.astype(np.float32) / np.float32(8192)
        scores[(self._cache[slot, self._used[slot] - 1, 0] + 1) % 4] += np.float32(self.habit)
        return scores


class LetterText(TokenText):
    """One letter a token: a is 0."""

    @override
    def push(self, token: int) -> str:
        return chr(ord("a") + token % 26)

    @override
    def flush(self) -> str:
        return ""


class Desk:
    """An engine on fake slots with a clock of its own, which collects what each sequence was told."""

    def __init__(
        self, slots: Slots, settings: GenerationSettings | None = None, step_s: float = 0.01
    ) -> None:
        self.slots = slots
        self.engine = GenerationEngine(slots, settings or GenerationSettings())
        self.now_s = 0.0
        self.step_s = step_s
        self.told: dict[TokenSequence, list[TokenPart]] = {}
        self.plans: list[StepPlan] = []

    def submit(
        self, request: GenerationRequest, new_text: Callable[[], TokenText] = LetterText
    ) -> tuple[TokenSequence, ...]:
        made = self.engine.submit(request, self.now_s, new_text)
        self.told.update({each: [] for each in made})
        return made

    def step(self) -> bool:
        """Run one step; return whether there was any."""
        plan = self.engine.plan(self.now_s)
        if plan is not None:
            self.plans.append(plan)
            logits = plan.run(self.slots)
            self.now_s += self.step_s
            self.engine.stepped(plan, logits, self.now_s, self.step_s)
        for each in self.engine.take_parts():
            self.told[each.sequence].append(each.part)
        return plan is not None

    def run(self) -> None:
        while self.step():
            pass

    def run_until(self, is_reached: Callable[[], bool]) -> None:
        """Run until that is so; there must be something to do before."""
        while not is_reached():
            assert self.step()

    def ids(self, sequence: TokenSequence) -> list[int]:
        return [token for part in self.told[sequence] for token in part.ids]

    def text(self, sequence: TokenSequence) -> str:
        return "".join(part.text for part in self.told[sequence])

    def finish(self, sequence: TokenSequence) -> str | None:
        """Return how `sequence` ended: the reason, an error's code, or None if it has not."""
        if not self.told[sequence]:
            return None
        last = self.told[sequence][-1]
        return last.finish or (last.error.code if last.error else None)


def run_schedule(
    rng: random.Random,
    desk: Desk,
    new_request: Callable[[], GenerationRequest],
    alone: Callable[[GenerationRequest, int], list[int]],
) -> Counter[str]:
    """Have requests come, go and give way by chance, and compare each answer with what `alone` says of its request; return counts."""
    asked: list[tuple[GenerationRequest, list[int], TokenSequence]] = []
    cancelled: set[TokenSequence] = set()
    for _ in range(rng.randint(20, 60)):
        desk.step_s = rng.choice([0.001, 0.02, 0.2])
        action = rng.random()
        if action < 0.25:
            request = new_request()
            whole = [alone(request, choice) for choice in range(request.choices)]
            if request.choices == 1 and rng.random() < 0.2:
                # its node was lost, it comes from there
                had = whole[0][: rng.randrange(len(whole[0]))]
                request = dataclasses.replace(request, resumed=tuple(had))
            with contextlib.suppress(CapameshError):
                made = desk.submit(request)
                asked += [(request, *each) for each in zip(whole, made, strict=True)]
        elif action < 0.3 and asked:
            gone = rng.choice(asked)[2]
            desk.engine.cancel(gone)
            cancelled.add(gone)
        else:
            desk.step()
    desk.run()
    for request, expected, sequence in asked:
        ids = [*request.resumed, *desk.ids(sequence)]
        is_whole = sequence not in cancelled and desk.finish(sequence) in ("stop", "length")
        assert ids == (expected if is_whole else expected[: len(ids)])
    load = desk.engine.load()
    assert (load.tokens_in_flight, load.waiting) == (0, 0)
    return Counter(
        compared=len(asked),
        gave_way=load.preemptions,
        bulk_gave_way=sum(each.times_put_back for request, _, each in asked if request.is_bulk),
        replayed=sum(bool(request.resumed) for request, _, _ in asked),
        drafted=load.drafted_tokens,
        accepted=load.accepted_tokens,
    )


def ids_alone(
    request: GenerationRequest,
    choice: int = 0,
    *,
    lookup_tokens: int = 0,
    habit: float = 0.0,
    length: int = 64,
) -> list[int]:
    """Return the tokens of one choice of `request` where nothing else is."""
    settings = GenerationSettings(prefix_bytes=0, lookup_tokens=lookup_tokens)
    slots = FakeSlots(1, length)
    slots.habit = habit
    desk = Desk(slots, settings)
    alone = dataclasses.replace(
        request,
        choices=1,
        first_choice=choice,
        priority=0,
        is_bulk=False,
        deadline_s=float("inf"),
    )
    (sequence,) = desk.submit(alone)
    desk.run()
    return desk.ids(sequence)
