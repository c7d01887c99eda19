"""Changes a row of scores by a request's biases and penalties and by a grammar's mask. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from capamesh.node.generation.request import SamplingParameters
from capamesh.node.generation.sampling.history import TokenHistory


def edited(
    row: npt.NDArray[np.float32],
    parameters: SamplingParameters,
    history: TokenHistory | None,
    mask: npt.NDArray[np.bool_] | None,
) -> npt.NDArray[np.float32]:
    """Return scores in the shape [vocabulary] of `row`: a changed copy, or `row` itself where nothing is to change.

    `history` is None where there are no penalties. `mask`, in the same shape, is true for the tokens that may come.
    """
    if not parameters.logit_bias and history is None:
        if mask is None:
            return row
        # a greedy draw takes the likeliest of all, where that may come
        if parameters.is_greedy and mask[row.argmax()]:
            return row
    row = row.copy() if mask is None else np.where(mask, row, np.float32(-np.inf))
    for token, bias in parameters.logit_bias.items():
        row[token] += np.float32(bias)
    if history is not None:
        tokens = history.tokens
        scores = row[tokens]
        if parameters.repetition_penalty != 1.0:
            by = np.float32(parameters.repetition_penalty)
            scores = np.where(scores > 0, scores / by, scores * by)
        counts = history.counts
        scores -= np.float32(parameters.frequency_penalty) * counts
        scores -= np.float32(parameters.presence_penalty) * (counts > 0)
        row[tokens] = scores
    return row
