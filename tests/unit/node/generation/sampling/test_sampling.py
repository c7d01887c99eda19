"""Draws, ranks, edits and log probabilities of scores, against what they are by definition."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.generation import SamplingParameters
from capamesh.node.generation.sampling import TokenHistory, edited, sample, token_logprob
from capamesh.node.generation.sampling.drawing import _draw_one
from capamesh.node.generation.sampling.ranks import kth_largest, largest_places
from capamesh.protocol.errors import RunFailed

Row = npt.NDArray[np.float32]


def by_definition(
    row: Row, parameters: SamplingParameters, slack: float = 0.0
) -> npt.NDArray[np.float64]:
    """Return the odds of each token, by sorting; with `slack`, `top_p` keeps a little more."""
    scores = row.astype(np.float64) / parameters.temperature
    odds = np.exp(scores - scores.max())
    odds[odds < parameters.min_p * (1 - slack)] = 0
    if parameters.top_k:
        likelier = np.array([np.count_nonzero(row > each) for each in row])
        odds[likelier >= parameters.top_k] = 0
    if parameters.top_p < 1:
        before = np.array([odds[row > each].sum() for each in row])
        odds[before >= parameters.top_p * odds.sum() * (1 + slack)] = 0
    return odds / odds.sum()


def peaked(size: int) -> Row:
    row = np.random.default_rng(1).standard_normal(size) * 2
    row[:20] += np.linspace(6, 3, 20)
    return row.astype(np.float32)


def flat(size: int) -> Row:
    return (np.random.default_rng(2).standard_normal(size) / 4).astype(np.float32)


@pytest.mark.parametrize("row", [peaked(700), flat(700)], ids=["peaked", "flat"])
@pytest.mark.parametrize(
    "parameters",
    [
        SamplingParameters(),
        SamplingParameters(temperature=0.7, top_p=0.9),
        SamplingParameters(top_k=12),
        SamplingParameters(temperature=1.5, top_k=30, top_p=0.8),
        SamplingParameters(min_p=0.2),
        SamplingParameters(min_p=0.05, top_k=40, top_p=0.95),
    ],
)
def test_draws_have_the_odds_of_the_definition(row: Row, parameters: SamplingParameters) -> None:
    odds = by_definition(row, parameters)
    count = 6000
    drawn = np.bincount(
        [sample(row, parameters, 0, position) for position in range(count)], minlength=700
    )
    assert drawn[odds == 0].sum() == 0
    order = np.argsort(-odds)  # tokens of small odds are counted together, five expected or more
    expected, seen = odds[order] * count, drawn[order]
    bins = np.minimum(np.cumsum(expected) // 5, np.cumsum(expected)[-1] // 5 - 1).astype(int)
    wanted, got = np.bincount(bins, expected), np.bincount(bins, seen)
    is_used = wanted > 0
    statistic = float(((got - wanted)[is_used] ** 2 / wanted[is_used]).sum())
    freedom = int(is_used.sum()) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom) + 4


@given(
    scores=st.lists(
        st.one_of(st.integers(-3, 3).map(float), st.floats(-20, 20), st.just(-math.inf)),
        min_size=1,
        max_size=600,
    ).filter(lambda made: max(made) > -math.inf),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 1000]),
    top_p=st.sampled_from([0.0, 1e-6, 0.3, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    temperature=st.sampled_from([0.0, 1e-3, 0.5, 1.0, 100.0]),
    position=st.integers(0, 2**20),
)
def test_tokens_that_are_not_kept_are_never_drawn(
    scores: list[float], top_k: int, top_p: float, min_p: float, temperature: float, position: int
) -> None:
    row = np.array(scores, np.float32)
    parameters = SamplingParameters(temperature, top_k, top_p, min_p)
    token = sample(row, parameters, 0, position)
    if parameters.is_greedy:
        assert token == int(row.argmax())
    else:
        assert by_definition(row, parameters, slack=1e-5)[token] > 0


def test_draw_depends_on_seed_choice_and_position_alone() -> None:
    row = flat(3000)
    drawn = {
        (seed, choice, position): sample(row, SamplingParameters(seed=seed), choice, position)
        for seed in (0, 1, 2**64 - 1)
        for choice in (0, 1)
        for position in (0, 1, 2)
    }
    assert len(set(drawn.values())) == len(drawn)
    for (seed, choice, position), token in reversed(drawn.items()):
        assert sample(row, SamplingParameters(seed=seed), choice, position) == token


def test_rounding_never_reaches_a_token_without_odds() -> None:
    largest = math.nextafter(1.0, 0.0)
    for size in (4, 256, 1000, 1024):
        odds = np.full(size, 0.1, np.float32)
        odds[-2:] = 0
        odds[:1] = 0
        assert _draw_one(odds, largest) == size - 3
        assert _draw_one(odds, 0.0) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_without_a_largest_number_are_a_failed_run(bad: float) -> None:
    row = flat(100)
    row[7] = bad
    for parameters in (SamplingParameters(temperature=0.0), SamplingParameters()):
        with pytest.raises(RunFailed, match="a number is needed"):
            sample(row, parameters, 0, 0)
    with pytest.raises(RunFailed):
        sample(np.full(5, -np.inf, np.float32), SamplingParameters(), 0, 0)


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
