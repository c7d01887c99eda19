"""Measures the runs of decoders that differ in their weights, side by side. In one process, without engine or wire.

`python benchmarks/decoder_steps.py FOLDER FOLDER... [--rounds 5]`, with folders of `capamesh model import-llm`; the first is what the others are
held against. Each round runs steps of 1 to 16 sequences and prompts, of one decoder after the other. A figure is the least median of a round: what
the machine does beside it makes runs longer, never shorter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from machine import keep
from rich.console import Console
from rich.table import Table

from capamesh.node.runtime.decoders.decoder_folder import read_decoder_folder
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderSlots

THREADS: Final = 2
LENGTH: Final = 1024
FILLED: Final = 64
"""The tokens of each sequence before its first step."""
ROWS: Final = (1, 2, 4, 8, 16)
PROMPTS: Final = (16, 64, 256)
STEPS: Final = 25
RUNS: Final = 5


def median_ms(run: Callable[[], object], count: int) -> float:
    """Return the median of so many runs, in ms."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def step_ms(slots: DecoderSlots, rows: int) -> float:
    """Return the median of decoding steps of so many sequences, in ms."""
    for slot in range(rows):
        slots.truncate(slot, FILLED)
    return median_ms(lambda: slots.decode([500] * rows), STEPS)


def prompt_ms(slots: DecoderSlots, tokens: int) -> float:
    """Return the median of runs of a prompt in one piece, in ms."""

    def run() -> None:
        slots.truncate(0, 0)
        slots.extend(0, list(range(100, 100 + tokens)), wants_logits=True)

    return median_ms(run, RUNS)


def measure(decoders: dict[str, DecoderSlots], rounds: int) -> dict[str, float]:
    """Return the figures of all decoders, by their own name and the decoder's."""
    found: dict[str, float] = {}
    for slots in decoders.values():
        for slot in range(slots.count):
            slots.extend(slot, list(range(100, 100 + FILLED)), wants_logits=False)
    for _ in range(rounds):
        for prefix, sizes, run in (("step", ROWS, step_ms), ("prompt", PROMPTS, prompt_ms)):
            for size in sizes:
                for who, slots in decoders.items():
                    name = f"{prefix}_ms_{size} of {who}"
                    found[name] = min(run(slots, size), found.get(name, float("inf")))
    return found


def show(figures: dict[str, float], names: list[str]) -> None:
    """Print the figures, and how many times as quick as the first decoder each is."""
    table = Table("figure", *(cell for name in names for cell in (name, "times")))
    for figure in dict.fromkeys(each.partition(" of ")[0] for each in figures):
        first = figures[f"{figure} of {names[0]}"]
        cells = [figures[f"{figure} of {name}"] for name in names]
        table.add_row(
            figure, *(text for cell in cells for text in (f"{cell:.2f}", f"{first / cell:.2f}"))
        )
    Console().print(table)


def main() -> None:
    """Measure, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of a version of a model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trial", action="store_true", help="keep nothing")
    asked = parser.parse_args()
    decoders = {
        folder.resolve().parent.name: DecoderSlots(
            read_decoder_folder(folder), count=max(ROWS), length=LENGTH, threads=THREADS
        )
        for folder in asked.folders
    }
    figures = measure(decoders, asked.rounds)
    show(figures, list(decoders))
    if not asked.trial:
        keep("decoder_steps", figures)


if __name__ == "__main__":
    main()
