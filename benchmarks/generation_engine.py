"""Measures what the engine of generation adds to a decoder's own loop. In one process, without a wire.

`python benchmarks/generation_engine.py FOLDER [--rounds 5]`, with a decoder's folder of `capamesh model import-llm`. In turns on the same slots:
a bare loop of decoding steps, and callers of the engine, with prompts and answers of the same lengths. Then: the longest gap of four
callers while a prompt of 512 tokens comes, the first token of a prompt that comes again, a cancel, and answers that follow a grammar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from machine import keep
from rich.console import Console
from rich.table import Table

from capamesh.node.generation import (
    Constraint,
    GenerationRequest,
    GenerationSettings,
    SamplingParameters,
    TokenPart,
)
from capamesh.node.runtime.decoders.decoder_folder import read_decoder_folder
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderSlots
from capamesh.node.runtime.text_generation.grammars import Grammar, Grammars
from capamesh.node.runtime.text_generation.tokens import GenerationTokenizer
from capamesh.node.scheduling.generation_runner import GenerationRunner

SLOTS = 8
LENGTH = 1024
THREADS = 2
PROMPT = 64
ANSWER = 96
BEGUN = 20
GREEDY = SamplingParameters(temperature=0.0)
DRAWN = SamplingParameters(temperature=0.8, top_p=0.95)
SCHEMA = {"type": "array", "items": {"type": "string", "maxLength": 60}, "minItems": 200}
BARS = {
    "gap_1": 1.05,
    "gap_8": 1.08,
    "worst_gap_ms": 100.0,
    "again_ms": 20.0,
    "grammar": 1.05,
}
"""The most that each figure may be."""


class Caller:
    """One request with the times of its tokens."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.started = time.perf_counter()
        self.begun = asyncio.Event()
        """The event of so many tokens that all callers generate."""
        self.end = asyncio.Event()

    def receive(self, choice: int, part: TokenPart) -> None:
        """Note the time of a part."""
        if part.error is not None:
            raise part.error
        self.times.append(time.perf_counter())
        if len(self.times) == BEGUN:
            self.begun.set()
        if part.is_last:
            self.end.set()

    @property
    def first_ms(self) -> float:
        """The milliseconds until the first token."""
        return (self.times[0] - self.started) * 1e3

    def gaps_ms(self, since: float, until: float) -> list[float]:
        """Return the milliseconds between tokens that came after `since` and until `until`."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return [(b - a) * 1e3 for a, b in pairs if a >= since and b <= until]


class Bench:
    """The decoder, its engine, and the callers."""

    def __init__(self, folder: Path) -> None:
        read = read_decoder_folder(folder)
        self.slots = DecoderSlots(read, count=SLOTS, length=LENGTH, threads=THREADS)
        raw = read.tokenizer_file.read_bytes()
        self.tokenizer = GenerationTokenizer(raw)
        self.grammars = Grammars(raw, read.config.vocabulary, read.config.end_ids)
        self.rng = np.random.default_rng(20_260_801)
        self.runner = GenerationRunner(
            self.slots, GenerationSettings(), clock=time.monotonic, on_broken=print
        )

    def prompt(self, length: int) -> tuple[int, ...]:
        """Return random tokens."""
        return tuple(self.rng.integers(100, self.tokenizer.vocabulary - 100, length).tolist())

    def ask(
        self,
        prompt: Sequence[int],
        answer: int,
        sampling: SamplingParameters = GREEDY,
        new_constraint: Callable[[], Constraint] | None = None,
    ) -> Caller:
        """Ask the engine for `answer` tokens behind `prompt`."""
        caller = Caller()
        request = GenerationRequest(tuple(prompt), answer, sampling)
        self.runner.submit(request, caller.receive, self.tokenizer.new_text, new_constraint)
        return caller

    def bare_gap_ms(self, callers: int) -> float:
        """Return the median of a bare loop's steps over the lengths that callers have."""
        slots = self.slots
        for slot in range(callers):
            slots.extend(slot, self.prompt(PROMPT), wants_logits=True)
        took: list[float] = []
        tokens = [500] * callers
        for _ in range(ANSWER):
            began = time.perf_counter()
            tokens = slots.decode(tokens).argmax(-1).tolist()
            took.append((time.perf_counter() - began) * 1e3)
        for slot in range(callers):
            slots.truncate(slot, 0)
        return statistics.median(took)

    async def gap_ms(
        self,
        callers: int,
        sampling: SamplingParameters = GREEDY,
        new_constraint: Callable[[], Constraint] | None = None,
    ) -> float:
        """Return the median gap between tokens while all callers generate."""
        asked = [
            self.ask(self.prompt(PROMPT), ANSWER, sampling, new_constraint) for _ in range(callers)
        ]
        for each in asked:
            await each.end.wait()
        since, until = max(each.times[0] for each in asked), min(each.times[-1] for each in asked)
        return statistics.median([gap for each in asked for gap in each.gaps_ms(since, until)])

    async def beside_ms(self, callers: int) -> tuple[float, float]:
        """Return the longest gap of callers while a prompt of 512 tokens comes, and the time to that one's first token."""
        asked = [self.ask(self.prompt(32), 250) for _ in range(callers)]
        for each in asked:
            await each.begun.wait()
        long = self.ask(self.prompt(512), 2)
        await long.end.wait()
        for each in asked:
            await each.end.wait()
        gaps = [
            gap for each in asked for gap in each.gaps_ms(long.started - 0.1, long.times[0] + 0.1)
        ]
        return max(gaps, default=0.0), long.first_ms

    async def again_ms(self) -> tuple[float, float]:
        """Return the times to the first token of a prompt of 400 tokens, new and again."""
        prompt = self.prompt(400)
        first = self.ask(prompt, 4)
        await first.end.wait()
        again = self.ask(prompt, 4)
        await again.end.wait()
        return first.first_ms, again.first_ms

    async def cancel_ms(self) -> float:
        """Return the time from a cancel until the slot is free."""
        caller = Caller()
        generation = self.runner.submit(
            GenerationRequest(self.prompt(32), 400, GREEDY), caller.receive, self.tokenizer.new_text
        )
        await caller.begun.wait()
        began = time.perf_counter()
        self.runner.cancel(generation)
        while self.runner.load.free_slots < SLOTS:  # noqa: ASYNC110 - the thread tells nobody
            await asyncio.sleep(0.0002)
        return (time.perf_counter() - began) * 1e3


async def measure(folder: Path, rounds: int) -> dict[str, float]:
    """Return all figures, each the median of the rounds; ratios are of one round's two sides."""
    bench = Bench(folder)
    grammar = Grammar("json_schema", json.dumps(SCHEMA))

    def schema() -> Constraint:
        return bench.grammars.compile(grammar)()

    await bench.gap_ms(8)
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)
        print(f"{name} {value:.2f}", flush=True)

    for _ in range(rounds):
        for callers in (1, 8):
            bare, engine = bench.bare_gap_ms(callers), await bench.gap_ms(callers)
            note(f"bare_ms_{callers}", bare)
            note(f"engine_ms_{callers}", engine)
            note(f"gap_{callers}", engine / bare)
            note(f"drawn_{callers}", await bench.gap_ms(callers, DRAWN) / engine)
        note("grammar", await bench.gap_ms(1, GREEDY, schema) / await bench.gap_ms(1))
        alone = bench.ask(bench.prompt(512), 1)
        await alone.end.wait()
        note("alone_first_ms", alone.first_ms)
        worst, first = await bench.beside_ms(4)
        note("worst_gap_ms", worst)
        note("beside_first_ms", first)
        new, again = await bench.again_ms()
        note("new_ms", new)
        note("again_ms", again)
        note("cancel_ms", await bench.cancel_ms())
    await asyncio.to_thread(bench.runner.stop, "measured")
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    figures = asyncio.run(measure(asked.folder, asked.rounds))
    table = Table("figure", "measured", "at most")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}", f"{BARS[name]:g}" if name in BARS else "")
    Console().print(table)
    keep("generation_engine", {"model": asked.folder.name, **figures})


if __name__ == "__main__":
    main()
