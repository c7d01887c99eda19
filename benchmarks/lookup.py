"""Measures what guessing the tokens of answers that repeat gains, and what it costs others. In one process, without a wire.

`python benchmarks/lookup.py FOLDER [--lookup 15] [--rounds 2]`, with a decoder's folder of `capamesh model import-llm`. Callers ask one question
after the other, at the same time, of an engine that guesses and of one that does not, in turns: questions whose answers repeat a text of the
prompt, and questions that have nothing to repeat. All prompts have run before, so that the time is that of the answers alone.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Final

from machine import keep
from rich.console import Console
from rich.table import Table

from capamesh.node.generation import (
    GenerationLoad,
    GenerationRequest,
    GenerationSettings,
    SamplingParameters,
    TokenPart,
)
from capamesh.node.runtime.decoders.decoder_folder import read_decoder_folder
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderSlots
from capamesh.node.runtime.text_generation.tokens import GenerationTokenizer
from capamesh.node.scheduling.generation_runner import GenerationRunner

SLOTS: Final = 8
LENGTH: Final = 1024
THREADS: Final = 2
ANSWER: Final = 96
ASKED: Final = {1: 4, 4: 2, 8: 1}
"""The questions of each caller, in a row, by how many callers there are."""
GREEDY: Final = SamplingParameters(temperature=0.0)
CODE: Final = '''import json


class Store:
    """Keeps values by name in a file of JSON."""

    def __init__(self, path):
        self.path = path
        self.values = {}

    def load(self):
        """Read all values from the file."""
        with open(self.path) as file:
            self.values = json.load(file)

    def save(self):
        """Write all values to the file."""
        with open(self.path, "w") as file:
            json.dump(self.values, file)

    def get(self, name, default=None):
        """Return the value of a name."""
        return self.values.get(name, default)
'''
TEXT: Final = (
    "The lighthouse of Alexandria stood on the island of Pharos for more than fifteen centuries. It was built in the third century before "
    "our era, of large blocks of light stone, and was between 100 and 130 metres high. At its top a mirror reflected the light of the sun by "
    "day, and a fire was lit at night. Earthquakes damaged it badly between 956 and 1323, and in 1480 the last of its stones were used to "
    "build the citadel of Qaitbay on the same place."
)
ORDER: Final = (
    "Order 4711, placed on 3 May 2024 by Maria Keller, Bahnhofstrasse 12, 8001 Zurich. Items: 2 oak shelves at 129.50, 1 reading lamp at "
    "79.90, 4 wool cushions at 24.00. Delivery by Alpine Logistics on 10 May 2024, paid by invoice."
)
QUESTIONS: Final = {
    "repeating": (
        f"Repeat this code exactly:\n```python\n{CODE}```",
        f"Repeat the following text word for word: {TEXT}",
        f"Write this order as JSON with the fields number, date, customer, address, items, carrier:\n{ORDER}",
        f"Rewrite this code, and rename the class Store to Cabinet:\n```python\n{CODE}```",
    ),
    "other": (
        "Write a short story about a fox who lives at the sea.",
        "What should I see in Paris? Tell me of five places.",
        "How do I bake bread? Tell me the steps.",
        "Why is the sky blue? Explain it in a few sentences.",
    ),
}
CHAT: Final = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
"""The form of a chat with SmolLM2, as its template has it."""


class Bench:
    """The decoder, and the engines that take turns on its slots."""

    def __init__(self, folder: Path, lookup_tokens: int) -> None:
        read = read_decoder_folder(folder)
        self.slots = DecoderSlots(read, count=SLOTS, length=LENGTH, threads=THREADS)
        self.tokenizer = GenerationTokenizer(read.tokenizer_file.read_bytes())
        self.end_tokens = frozenset(read.config.end_ids)
        self.prompts = {
            kind: [
                tuple(self.tokenizer.encode(CHAT.format(each), adds_special=True)) for each in asked
            ]
            for kind, asked in QUESTIONS.items()
        }
        self.lookup_tokens = lookup_tokens

    async def tokens_per_s(
        self, kind: str, callers: int, lookup_tokens: int
    ) -> tuple[float, GenerationLoad]:
        """Return the tokens a second that all callers get together, and the engine's counts."""
        settings = GenerationSettings(lookup_tokens=lookup_tokens)
        runner = GenerationRunner(self.slots, settings, clock=time.monotonic, on_broken=print)
        prompts = self.prompts[kind]
        for prompt in prompts:
            await self._answer(runner, prompt, 1)

        async def call(first: int) -> int:
            tokens = 0
            for number in range(ASKED[callers]):
                tokens += await self._answer(
                    runner, prompts[(first + number) % len(prompts)], ANSWER
                )
            return tokens

        began = time.perf_counter()
        counts = await asyncio.gather(*(call(first) for first in range(callers)))
        took_s = time.perf_counter() - began
        await asyncio.to_thread(runner.stop, "measured")
        return sum(counts) / took_s, runner.load

    async def _answer(self, runner: GenerationRunner, prompt: tuple[int, ...], most: int) -> int:
        """Return how many tokens the answer to `prompt` has, of which there are at most `most`."""
        end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        count = 0

        def receive(choice: int, part: TokenPart) -> None:
            nonlocal count
            count += len(part.ids)
            if part.error is not None:
                end.set_exception(part.error)
            elif part.is_last:
                end.set_result(count)

        request = GenerationRequest(prompt, most, GREEDY, stop_tokens=self.end_tokens)
        runner.submit(request, receive, self.tokenizer.new_text)
        return await end


async def measure(folder: Path, lookup_tokens: int, rounds: int) -> dict[str, float]:
    """Return all figures, each the median of the rounds; ratios are of one round's two sides."""
    bench = Bench(folder, lookup_tokens)
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)
        print(f"{name} {value:.2f}", flush=True)

    for _ in range(rounds):
        for callers in ASKED:
            for kind in QUESTIONS:
                plain, _ = await bench.tokens_per_s(kind, callers, 0)
                guessed, load = await bench.tokens_per_s(kind, callers, lookup_tokens)
                note(f"{kind}_{callers}_tokens_per_s", plain)
                note(f"{kind}_{callers}_times", guessed / plain)
                share = load.accepted_tokens / max(1, load.drafted_tokens)
                note(f"{kind}_{callers}_accepted", share)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lookup", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    figures = asyncio.run(measure(asked.folder, asked.lookup, asked.rounds))
    table = Table(
        "questions", "callers", "tokens/s without", "times with", "of the guessed accepted"
    )
    for kind in QUESTIONS:
        for callers in ASKED:
            of = [
                figures[f"{kind}_{callers}_{name}"]
                for name in ("tokens_per_s", "times", "accepted")
            ]
            table.add_row(kind, str(callers), *(f"{value:.2f}" for value in of))
    Console().print(table)
    keep("lookup", {"model": asked.folder.name, "lookup_tokens": asked.lookup, **figures})


if __name__ == "__main__":
    main()
