"""Tells a token's log probability and the likeliest tokens of its place, as the model gave them. Pure."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from capamesh.node.generation.parts import TokenLogprob
from capamesh.node.generation.sampling.ranks import largest_places


def token_logprob(row: npt.NDArray[np.float32], token: int, count: int) -> TokenLogprob:
    """Return the log probability of `token` and of the `count` likeliest by `row`, the model's scores in the shape [vocabulary]."""
    top = np.float32(row.max())
    norm = float(top) + math.log(float(np.exp(row - top).sum(dtype=np.float64)))
    likeliest = largest_places(row, min(count, row.shape[0])) if count else ()
    return TokenLogprob(
        token,
        float(row[token]) - norm,
        tuple((int(each), float(row[each]) - norm) for each in likeliest),
    )
