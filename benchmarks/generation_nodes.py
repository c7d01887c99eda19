"""Nodes of language models in virtual time: the engine of generation on slots whose runs take what they were measured to take. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from typing_extensions import override

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from fleet_fakes import advert, offer  # noqa: E402 - found by the path set above

from capamesh.node.generation import (  # noqa: E402
    GenerationEngine,
    GenerationSettings,
    Slots,
    StepPlan,
)
from capamesh.node.generation.slots import CacheBlock, Logits  # noqa: E402
from capamesh.protocol.ids import PeerId  # noqa: E402
from capamesh.protocol.links.calls import LoadReport  # noqa: E402
from capamesh.router.fleet.endpoint import Endpoint  # noqa: E402
from capamesh.router.fleet.replica import Replica  # noqa: E402

SLOTS: Final = 8
LENGTH: Final = 2048
TOKEN_BYTES: Final = 46_080
"""The cache of a token of SmolLM2-135M in 32 bits."""
DECODE_S: Final = 0.013
"""Seconds of a step of one sequence; one of eight takes twice as long (measured, as the next: 8-bit weights of 135 million on two cores)."""
FILL_S: Final = 0.0013
"""Seconds of a token of a prompt."""


class TimedSlots(Slots):
    """Slots that hold nothing but how much they hold."""

    def __init__(self) -> None:
        self.count, self.length = SLOTS, LENGTH
        self.token_bytes, self.vocabulary = TOKEN_BYTES, 2**16
        self.scores_each = False
        self.most_replayed = 0
        self._used = [0] * SLOTS
        self._logits = np.zeros((SLOTS, 2), np.float32)
        """Scores of two tokens: the first of all is drawn, and how many others there are costs nothing here."""
        self._block = np.zeros(1, np.uint8)

    @override
    def decode(self, tokens: Sequence[int]) -> Logits:
        for slot in range(len(tokens)):
            self._used[slot] += 1
        return self._logits[: len(tokens)]

    @override
    def extend(self, slot: int, tokens: Sequence[int], *, wants_logits: bool) -> Logits | None:
        self._used[slot] += len(tokens)
        return self._logits[0] if wants_logits else None

    @override
    def replay(self, slot: int, tokens: Sequence[int], *, wants_logits: bool) -> Logits | None:
        raise AssertionError("nothing is replayed where `most_replayed` is 0")

    @override
    def score(self, slot: int, tokens: Sequence[int]) -> Logits:
        raise AssertionError("nothing is guessed where `scores_each` is false")

    @override
    def copy(self, source: int, target: int, count: int) -> None:
        self._used[target] = count

    @override
    def truncate(self, slot: int, count: int) -> None:
        self._used[slot] = count

    @override
    def used(self, slot: int) -> int:
        return self._used[slot]

    @override
    def save(self, slot: int, start: int, stop: int) -> CacheBlock:
        return np.broadcast_to(
            self._block, (stop - start, TOKEN_BYTES)
        )  # of a size, without the bytes

    @override
    def load(self, slot: int, block: CacheBlock, count: int) -> None:
        self._used[slot] += count

    @override
    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


class TimedNode:
    """One node: the engine, and the replica that the router knows."""

    def __init__(self, number: int, slowness: float) -> None:
        self.slots = TimedSlots()
        self.settings = GenerationSettings()
        self.engine = GenerationEngine(self.slots, self.settings)
        self.slowness = slowness
        self.is_busy = False
        self.reported_s = -1.0
        endpoint = Endpoint(PeerId(str(number)), f"{number}:1")
        offered = offer("m")
        self.replica = Replica(endpoint, offered, advert(str(number), models=(offered,)))
        self.first_s = 0.0

    def took_s(self, plan: StepPlan) -> float:
        """Return how long a run takes."""
        rows = len(plan.tokens)
        seconds = DECODE_S * (1 + (rows - 1) / 7) if plan.is_decode else FILL_S * rows
        return seconds * self.slowness

    def report(self) -> LoadReport:
        """Return what the node's scheduler tells."""
        load = self.engine.load()
        queue_us = int(load.first_token_s * 1e6)
        return LoadReport(
            in_flight=load.generating + load.filling + load.waiting,
            queued=load.waiting,
            limit=256,
            queue_us=queue_us,
            latency_us=max(queue_us, int(self.first_s * 1e6)),
            token_ns=int(load.fill_token_s * 1e9),
            held_tokens=load.tokens_in_flight,
            most_tokens=load.pool_tokens,
            kept_tokens=load.kept_tokens,
        )
