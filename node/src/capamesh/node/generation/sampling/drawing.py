"""Draws a token with the odds that scores and parameters give, without sorting: exact, and quick for every shape of row. Pure.

A token is drawn from all that may be kept. If it is outside what `top_p` keeps, then so is every token that is not likelier: those
are left out, and another is drawn. What is kept keeps its odds (the rejection of FlashInfer's kernels, docs/decisions/0075).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from capamesh.node.generation.request import SamplingParameters
from capamesh.node.generation.sampling.random_numbers import random_numbers
from capamesh.node.generation.sampling.ranks import kth_largest
from capamesh.protocol.errors import RunFailed

_BLOCK: Final = 256
"""The number of odds that are summed before the sums are added up: a running sum of all costs ten times more (measured)."""


def sample(
    row: npt.NDArray[np.float32], parameters: SamplingParameters, choice: int, position: int
) -> int:
    """Return a token drawn by `row`, scores in the shape [vocabulary], for `position` of the choice numbered `choice`.

    Raises `RunFailed`: the scores have no largest number.
    """
    best = int(row.argmax())
    top = float(row[best])
    if not math.isfinite(top):
        raise RunFailed(
            f"the model's scores of the next token have the largest value {top}; a number is needed"
        )
    if parameters.is_greedy:
        return best
    floor = -math.inf
    if 0 < parameters.top_k < row.shape[0]:
        floor = kth_largest(row, parameters.top_k)
    if parameters.min_p > 0.0:
        floor = max(floor, top + parameters.temperature * math.log(parameters.min_p))
    places: npt.NDArray[np.int64] | None = None
    if floor > -math.inf:
        places = np.flatnonzero(row >= floor)
        row = row[places]
    draw = random_numbers(parameters.seed, choice, position)
    odds = row - np.float32(top)
    odds *= np.float32(1.0 / parameters.temperature)
    np.exp(odds, out=odds)
    if parameters.top_p < 1.0:
        return _draw_likely(odds, places, parameters.top_p, draw)
    at = _draw_one(odds, draw())
    return at if places is None else int(places[at])


def _draw_likely(
    odds: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64] | None,
    share: float,
    draw: Callable[[], float],
) -> int:
    """Return the place of a draw among those of which the likelier ones have less than `share` of all odds, [count] each."""
    most = share * float(odds.sum(dtype=np.float64))
    while True:
        at = _draw_one(odds, draw())
        likelier = np.flatnonzero(odds > odds[at])
        left = odds[likelier]
        if float(left.sum(dtype=np.float64)) < most:
            return at if places is None else int(places[at])
        odds = left  # all that is kept is among these, and what is drawn next is likelier than this
        places = likelier if places is None else places[likelier]


def _draw_one(odds: npt.NDArray[np.float32], number: float) -> int:
    """Return a place of `odds`, in the shape [count], with the odds that it has; never one of which the odds are 0."""
    count = odds.shape[0]
    whole = count // _BLOCK
    if whole <= 1:
        return _place(np.cumsum(odds, dtype=np.float64), number)
    cut = whole * _BLOCK
    sums = odds[:cut].reshape(whole, _BLOCK).sum(axis=1, dtype=np.float64)
    if cut < count:
        sums = np.append(sums, odds[cut:].sum(dtype=np.float64))
    ends = np.cumsum(sums)
    block = _place(ends, number)
    rest = number * float(ends[-1]) - (float(ends[block - 1]) if block else 0.0)
    within = np.cumsum(odds[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    return block * _BLOCK + _place(within, max(rest, 0.0) / float(within[-1]))


def _place(ends: npt.NDArray[np.float64], number: float) -> int:
    """Return the first place whose running sum, in the shape [count], is over `number` times the last one."""
    last = float(ends[-1])
    # by rounding it may be the sum itself, or just over it: then the last place with any odds is meant
    return int(np.searchsorted(ends, min(number * last, math.nextafter(last, 0.0)), side="right"))
