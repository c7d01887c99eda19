"""Measures how long it takes to draw a token, by the kind of sampling and the shape of the row. Nothing else runs.

`python benchmarks/sampling.py [--rows 200]`. A peaked row is what a model gives that knows what comes next; in a flat one tens of
thousands of tokens are likely, which any client can ask for by a high temperature: there the time must be bounded, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from machine import keep
from rich.console import Console
from rich.table import Table

from capamesh.node.generation import SamplingParameters
from capamesh.node.generation.sampling import TokenHistory, edited, sample, token_logprob

VOCABULARIES = (49_152, 151_936)
BAR_US = 1000.0
"""The most microseconds that a row of 49,152 scores may take."""
KINDS = {
    "greedy": SamplingParameters(temperature=0.0),
    "temperature": SamplingParameters(),
    "top_p .95": SamplingParameters(temperature=0.8, top_p=0.95),
    "top_p .1": SamplingParameters(top_p=0.1),
    "top_p .001": SamplingParameters(top_p=0.001),
    "top_k 40": SamplingParameters(top_k=40),
    "top_k 20000": SamplingParameters(top_k=20_000),
    "top_k 50 top_p .9": SamplingParameters(top_k=50, top_p=0.9),
    "min_p .05": SamplingParameters(min_p=0.05),
    "top_p .95 at 100": SamplingParameters(temperature=100.0, top_p=0.95),
}
"""The kinds of sampling that are measured, by their names."""
PENALISED = SamplingParameters(presence_penalty=0.5, repetition_penalty=1.1)
HISTORY = TokenHistory(range(1000), range(500))

Row = npt.NDArray[np.float32]


def rows_of(vocabulary: int) -> dict[str, Row]:
    """Return rows of scores by their shapes."""
    rng = np.random.default_rng(20_260_801)
    flat = (rng.standard_normal(vocabulary) * 2).astype(np.float32)
    peaked = flat.copy()
    peaked[rng.integers(0, vocabulary, 40)] += np.linspace(14, 6, 40).astype(np.float32)
    return {
        "peaked": peaked,
        "flat": flat,
        "equal": np.zeros(vocabulary, np.float32),
        "rising": np.linspace(-8, 8, vocabulary, dtype=np.float32),
    }


def times_us(draw: Callable[[int], object], rows: int) -> tuple[float, float]:
    """Return the median and the 99th hundredth of the microseconds that `draw` takes, of so many positions."""
    took: list[float] = []
    for position in range(rows):
        began = time.perf_counter()
        draw(position)
        took.append((time.perf_counter() - began) * 1e6)
    return statistics.median(took), sorted(took)[int(rows * 0.99)]


def main() -> None:
    """Measure, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    rows = parser.parse_args().rows
    table = Table("scores", "shape", "kind", "median µs", "p99 µs")
    figures: dict[str, dict[str, float]] = {}
    for vocabulary in VOCABULARIES:
        for shape, row in rows_of(vocabulary).items():
            kinds: dict[str, Callable[[int], object]] = {
                name: lambda at, row=row, kind=kind: sample(row, kind, 0, at)
                for name, kind in KINDS.items()
            }
            kinds["penalties alone"] = lambda _, row=row: edited(row, PENALISED, HISTORY, None)
            mask = np.arange(vocabulary) % 3 == 0
            kinds["mask alone"] = lambda _, row=row, mask=mask: edited(
                row, SamplingParameters(), None, mask
            )
            kinds["20 logprobs alone"] = lambda _, row=row: token_logprob(row, 7, 20)
            for name, draw in kinds.items():
                median, p99 = times_us(draw, rows)
                table.add_row(str(vocabulary), shape, name, f"{median:.0f}", f"{p99:.0f}")
                figures[f"{vocabulary} {shape} {name}"] = {"median_us": median, "p99_us": p99}
    Console().print(table)
    worst = max(
        (each["median_us"], name)
        for name, each in figures.items()
        if name.startswith(f"{VOCABULARIES[0]} ") and "alone" not in name
    )
    print(f"worst of {VOCABULARIES[0]}: {worst[0]:.0f} µs ({worst[1]}); the bar is {BAR_US:.0f}")
    keep("sampling", figures)


if __name__ == "__main__":
    main()
