"""Ranks, edits and log probabilities of scores, against what they are by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from capamesh.node.generation import SamplingParameters
from capamesh.node.generation.sampling import TokenHistory, edited, token_logprob
from capamesh.node.generation.sampling.ranks import kth_largest, largest_places


@pytest.mark.parametrize("size", [1, 63, 300, 5000])
@pytest.mark.parametrize("levels", [2, 50, 10**6])
def test_largest_scores_are_those_of_a_sorted_row(size: int, levels: int) -> None:
    rng = np.random.default_rng(size)
    row = (rng.integers(0, levels, size) / 7).astype(np.float32)
    in_order = np.argsort(-row, kind="stable")
    for k in {1, min(2, size), min(20, size), size // 2 + 1, size}:
        assert kth_largest(row, k) == row[in_order[k - 1]]
        assert largest_places(row, k).tolist() == in_order[:k].tolist()


def test_biases_and_penalties_change_a_copy() -> None:
    row = np.array([1.0, -1.0, 2.0, 4.0, 0.5], np.float32)
    before = row.copy()
    history = TokenHistory((0, 1), (2,))
    history.add(2)
    history.add(3)
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.25, "repetition_penalty": 2.0}
    parameters = SamplingParameters(**penalties, logit_bias={4: 1.5, 0: 1.0})
    made = edited(row, parameters, history, None)
    assert made.tolist() == [1.0, -2.0, 1.0 - 0.5 - 0.5, 2.0 - 0.25 - 0.5, 2.0]
    assert row.tolist() == before.tolist()


def test_row_is_masked_for_a_greedy_draw_only_if_its_likeliest_token_may_not_come() -> None:
    row = np.array([9.0, 1.0, 2.0], np.float32)
    mask = np.array([True, False, True])
    greedy, drawn = SamplingParameters(temperature=0.0), SamplingParameters(temperature=1.0)
    assert edited(row, greedy, None, mask) is row
    assert edited(row, drawn, None, mask).tolist() == [9.0, -math.inf, 2.0]
    biased = SamplingParameters(temperature=0.0, logit_bias={2: 8.0})
    assert edited(row, biased, None, mask).tolist() == [9.0, -math.inf, 10.0]


def test_log_probabilities_are_those_of_the_softmax() -> None:
    row = np.random.default_rng(3).standard_normal(9000).astype(np.float32) * 3
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    told = token_logprob(row, 17, 20)
    assert told.token == 17
    assert told.logprob == pytest.approx(exact[17], abs=1e-5)
    assert [token for token, _ in told.top] == np.argsort(-exact)[:20].tolist()
    assert [each for _, each in told.top] == pytest.approx(np.sort(exact)[::-1][:20], abs=1e-5)
    assert token_logprob(row, 17, 0).top == ()
    assert len(token_logprob(row[:5], 1, 20).top) == 5
