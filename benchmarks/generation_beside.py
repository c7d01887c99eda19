"""Measures how long a person waits for the first token of a language model whose slots all generate for batches. In one process.

`python benchmarks/generation_beside.py FOLDER [--rounds 4] [--seconds 10]`, with a decoder's folder of `capamesh model import-llm`. A person asks, one prompt after
the other, in turns alone and beside twice as many bulk requests as there are slots, each of which is sent again as soon as it is answered. No two prompts begin
alike. Told are the median and the longest wait for each length of prompt, alone and beside, and the tokens a second that bulk requests got with and without the person.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from generation_attacks import SLOTS, Model, tensor_of
from machine import keep

from capamesh.node.scheduling import PendingRequest
from capamesh.protocol.tensors import Tensor

BULK = 2 * SLOTS
BULK_PROMPT, BULK_ANSWER = 100, 300
PROMPTS = (16, 64, 256)
ANSWER = 16
PAUSE_S = 0.2
LEAST_TOKEN, MOST_TOKEN = 100, 40_000
"""The numbers of tokens that prompts are made of, which are plain text in common models."""
BEGUN_S = 2.0


class Prompts:
    """Prompts of tokens by chance, of which no two begin alike."""

    def __init__(self) -> None:
        self._rng = random.Random(1)  # noqa: S311 - no secret is made of it

    def asked(self, length: int, answer: int) -> Tensor:
        """Return what a node is asked, BYTES [1]."""
        tokens = [self._rng.randrange(LEAST_TOKEN, MOST_TOKEN) for _ in range(length)]
        body = {"prompt": tokens, "max_tokens": answer, "ignore_eos": True, "temperature": 0}
        return tensor_of(body)


class Batch:
    """Bulk requests, as many at once as are told, for as long as they are wanted."""

    def __init__(self, model: Model, prompts: Prompts, count: int) -> None:
        self._model = model
        self._prompts = prompts
        self._tasks = [asyncio.create_task(self._run()) for _ in range(count)]
        self.tokens = 0
        """The tokens of answers that have come."""

    def _took(self, request: PendingRequest, outputs: Sequence[Tensor]) -> None:
        self.tokens += 1

    async def _run(self) -> None:
        while True:
            asked = self._prompts.asked(BULK_PROMPT, BULK_ANSWER)
            request, end = self._model.ask(asked, self._took, is_bulk=True)
            try:
                await end
            except asyncio.CancelledError:
                self._model.scheduler.cancel(request, time.monotonic())
                raise

    async def stop(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def first_token_ms(model: Model, asked: Tensor) -> float:
    """Return the milliseconds until the first token of an answer, once all of it is there."""
    began_s = time.monotonic()
    first_s: list[float] = []
    _, end = model.ask(asked, lambda _, __: first_s.append(time.monotonic()))
    await end
    return (first_s[0] - began_s) * 1e3


async def person(model: Model, prompts: Prompts, seconds: float) -> dict[int, list[float]]:
    """Ask for `seconds`; return the milliseconds until first tokens by the length of the prompt."""
    waits: dict[int, list[float]] = {length: [] for length in PROMPTS}
    until_s = time.monotonic() + seconds
    for length in itertools.cycle(PROMPTS):
        if time.monotonic() > until_s:
            return waits
        waits[length].append(await first_token_ms(model, prompts.asked(length, ANSWER)))
        await asyncio.sleep(PAUSE_S)
    raise AssertionError


async def measure(folder: Path, rounds: int, seconds: float) -> None:
    """Print the waits alone and beside, and what the batch got."""
    model, prompts = Model(folder), Prompts()
    alone: dict[int, list[float]] = {length: [] for length in PROMPTS}
    beside: dict[int, list[float]] = {length: [] for length in PROMPTS}
    speeds: dict[str, list[float]] = {"alone": [], "beside": []}
    await person(model, prompts, BEGUN_S)  # what runs take is known from then on
    for _ in range(rounds):
        for length, waits in (await person(model, prompts, seconds)).items():
            alone[length] += waits
        batch = Batch(model, prompts, BULK)
        await asyncio.sleep(BEGUN_S)
        before, began_s = batch.tokens, time.monotonic()
        await asyncio.sleep(seconds)
        speeds["alone"].append((batch.tokens - before) / (time.monotonic() - began_s))
        before, began_s = batch.tokens, time.monotonic()
        for length, waits in (await person(model, prompts, seconds)).items():
            beside[length] += waits
        speeds["beside"].append((batch.tokens - before) / (time.monotonic() - began_s))
        await batch.stop()
        await asyncio.sleep(0.5)
    figures: dict[str, Any] = {
        "model": folder.name,
        "gave_way": model.scheduler.figures()["preemptions"],
    }
    for length in PROMPTS:
        one, other = alone[length], beside[length]
        middle, longest = (statistics.median(one), statistics.median(other)), (max(one), max(other))
        figures[f"prompt_{length}"] = {
            "asked": [len(one), len(other)],
            "median_ms": middle,
            "longest_ms": longest,
        }
        print(
            f"{length:4} tokens: alone median {middle[0]:6.1f} ms, longest {longest[0]:6.1f};"
            f" beside {middle[1]:6.1f}, {longest[1]:6.1f};"
            f" {middle[1] / middle[0]:.2f} and {longest[1] / longest[0]:.2f} times"
        )
    bulk = figures["bulk_tokens_per_s"] = {
        name: statistics.mean(each) for name, each in speeds.items()
    }
    print(
        f"bulk: {bulk['alone']:.0f} tokens/s by itself, {bulk['beside']:.0f} beside the person;"
        f" gave way {figures['gave_way']} times"
    )
    keep("generation_beside", figures)
    await asyncio.to_thread(model.scheduler.close)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    asyncio.run(measure(options.folder, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
