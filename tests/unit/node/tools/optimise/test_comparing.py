"""What models are compared by: inputs to try them with, how far they agree, and how fast they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typing_extensions import override
from worker_fakes import FakeModel

from capamesh.node.profiling.synthetic_inputs import generated_shape, synthetic_inputs
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile, next_rows
from capamesh.node.tools.optimise.agreement import Measure, OutputAgreement, OutputComparison
from capamesh.node.tools.optimise.timing import MIN_RUNS, time_rows
from capamesh.node.tools.optimise.trial import GENERATED_ROWS, comparison_trials, trial_inputs
from capamesh.protocol.errors import ConfigError, InvalidRequest, ModelInvalid, RunFailed
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, checked

F = np.float32
NAN = float("nan")


def agreement(*runs: tuple[npt.NDArray[Any], npt.NDArray[Any]]) -> OutputAgreement:
    comparison = OutputComparison("y")
    for before, after in runs:
        comparison.add(Tensor.from_numpy("y", before), Tensor.from_numpy("y", after))
    return comparison.result()


def test_largest_of_the_last_axis_decides_over_all_runs() -> None:
    found = agreement(
        (np.array([[1, 2], [3, 1]], F), np.array([[1, 4], [3, 1]], F)),
        (np.array([[1, 2]], F), np.array([[2, 1]], F)),
    )
    assert found == OutputAgreement("y", Measure.ARGMAX, 2 / 3, 3, 2.0, 4 / 6)


def test_probabilities_are_judged_by_their_side_of_a_half() -> None:
    found = agreement(
        (np.array([[0.4], [0.6]], F), np.array([[0.6], [1.2]], F)),
        (np.array([[1.0], [0.0]], F), np.array([[0.5], [0.1]], F)),
    )
    assert (found.measure, found.share, found.decisions) == (Measure.HALF, 3 / 4, 4)
    one_is_none = agreement(
        (np.array([[0.4]], F), np.array([[0.6]], F)), (np.array([[1.1]], F), np.array([[1.1]], F))
    )
    assert (one_is_none.measure, one_is_none.share) == (Measure.SIGN, 1.0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])),
        (np.array(["a", "b", "", "c"], object), np.array(["a", "b", "", "d"], object)),
    ],
)
def test_other_outputs_must_be_equal(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> None:
    assert agreement((before, after)) == OutputAgreement("y", Measure.EQUAL, 3 / 4, 4, 0.0, 0.0)


def test_nan_agrees_with_nan_alone_and_is_no_difference() -> None:
    broken = agreement((np.array([[1, 2], [NAN, 1]], F), np.array([[1, NAN], [NAN, 1]], F)))
    assert (broken.share, broken.largest_difference) == (0.5, 0.0)
    single = agreement((np.array([[1], [NAN], [NAN]], F), np.array([[NAN], [NAN], [-1]], F)))
    assert single.share == 1 / 3


def test_infinite_and_empty_outputs_keep_the_figures_finite() -> None:
    huge = agreement((np.array([[1e308, 0]]), np.array([[-1e308, np.inf]])))
    assert huge.share == 0.0
    assert np.isfinite([huge.largest_difference, huge.mean_difference]).all()
    assert agreement((np.ones((0, 5), F), np.ones((0, 5), F))).share == 1.0


@pytest.mark.parametrize(
    ("first", "second", "is_uniform"),
    [
        (np.array([[1, 2], [3, 4]], F), np.array([[0, 1]], F), True),
        (np.array([[1, 2], [3, 4]], F), np.array([[1, 0]], F), False),
        (np.array([[0.7], [0.8]], F), np.array([[0.9]], F), True),
        (np.array([[0.7], [0.8]], F), np.array([[0.1]], F), False),
        (np.array([7, 7]), np.array([8]), False),
        (np.ones((0, 2), F), np.ones((0, 2), F), True),
    ],
)
def test_original_that_decides_the_same_each_time_is_reported(
    first: npt.NDArray[Any], second: npt.NDArray[Any], *, is_uniform: bool
) -> None:
    assert agreement((first, first), (second, second)).is_uniform is is_uniform


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_every_output_agrees_with_itself(array: npt.NDArray[Any]) -> None:
    found = agreement((array, array))
    assert (found.share, found.largest_difference) == (1.0, 0.0)


X = TensorSpec("x", Datatype.FP32, (-1, 3))
K = TensorSpec("k", Datatype.INT64, (-1,))


class OpenModel(FakeModel):
    """Runs where open dimensions have a size of at least `least_open_dim`."""

    def __init__(self, *inputs: TensorSpec, least_open_dim: int = 1) -> None:
        super().__init__(inputs, ())
        self.shapes: list[tuple[int, ...]] = []
        self._least = least_open_dim

    @override
    def run(self, inputs: Sequence[Tensor], *_: object) -> list[Tensor]:
        self.shapes.append(inputs[0].shape)
        if min(inputs[0].shape[1:], default=self._least) < self._least:
            raise RunFailed(f"{inputs[0].shape} is too small")
        return []


specs = st.builds(
    TensorSpec,
    st.just("x"),
    st.sampled_from(Datatype),
    st.lists(st.integers(-1, 5), max_size=4).map(tuple),
)


@given(specs, st.integers(1, 4), st.integers(1, 4))
def test_spec_accepts_what_is_generated_for_it(spec: TensorSpec, rows: int, open_dim: int) -> None:
    (tensor,) = synthetic_inputs([spec], rows=rows, open_dim=open_dim)
    checked(tensor)
    assert spec.accepts(tensor.datatype, tensor.shape) is None
    assert tensor.shape == generated_shape(spec, rows=rows, open_dim=open_dim)
    elements = tensor.to_numpy()
    if spec.datatype is Datatype.BYTES:
        assert set(elements.reshape(-1).tolist()) <= {b"1"}
    elif elements.dtype.kind in "iub" and spec.datatype is not Datatype.BF16:
        assert not elements.any()


def test_open_dimensions_get_the_smallest_size_that_runs() -> None:
    model = OpenModel(TensorSpec("x", Datatype.FP32, (-1, -1)), least_open_dim=10)
    made = trial_inputs(model, None)
    assert model.shapes == [(1, 1), (1, 8), (1, 16)]
    assert made.rows == GENERATED_ROWS
    assert made.origin == "generated, seed 0"
    (tensor,) = made.take(0, 2)
    assert tensor.shape == (2, 16)


def test_model_that_runs_on_no_generated_inputs_asks_for_real_ones() -> None:
    model = OpenModel(TensorSpec("x", Datatype.FP32, (-1, -1)), least_open_dim=1000)
    refusal = r"1, 8, 16, 64, 224 .* \(1, 224\) is too small.*--inputs"
    with pytest.raises(ModelInvalid, match=refusal):
        trial_inputs(model, None)
    fixed = OpenModel(X, least_open_dim=1000)
    with pytest.raises(ModelInvalid, match=r"no generated inputs: \(1, 3\) is too small"):
        trial_inputs(fixed, None)
    assert fixed.shapes == [(1, 3)]


IDS = TensorSpec("ids", Datatype.INT64, (-1, -1))
MASK = TensorSpec("mask", Datatype.INT32, (-1, -1))
RANGES = {"ids": range(30), "mask": range(1, 2)}


def test_models_are_compared_on_numbers_of_their_ranges_at_several_lengths() -> None:
    model = OpenModel(IDS, MASK, TensorSpec("x", Datatype.FP32, (-1, 3)))
    trials = comparison_trials(model, None, RANGES)
    assert model.shapes == [(1, 1), (1, 8), (1, 16), (1, 64), (1, 224)]
    assert [trial.cases[0][0].shape for trial in trials] == [(86, 8), (86, 16), (86, 64)]
    assert sum(trial.rows for trial in trials) >= GENERATED_ROWS
    for one in trials:
        ids, mask, x = one.take(0, one.rows)
        assert set(ids.to_numpy().reshape(-1).tolist()) == set(range(30))
        assert len({row.tobytes() for row in ids.to_numpy()}) == one.rows
        assert (mask.datatype, mask.to_numpy().all()) == (Datatype.INT32, True)
        assert x.to_numpy().std() == pytest.approx(1, abs=0.2)
    again = comparison_trials(OpenModel(*model.inputs), None, RANGES)
    assert [trial.take(0, 86) for trial in again] == [trial.take(0, 86) for trial in trials]


def test_lengths_that_do_not_run_are_left_out_and_1_is_taken_where_nothing_else_runs() -> None:
    trials = comparison_trials(OpenModel(IDS, least_open_dim=60), None, RANGES)
    assert [trial.cases[0][0].shape for trial in trials] == [(128, 64), (128, 224)]
    (only,) = comparison_trials(OpenModel(K), None, {"k": range(9)})
    assert only.cases[0][0].shape == (GENERATED_ROWS,)


def test_input_that_cannot_be_generated_is_asked_for() -> None:
    for spec, message in (
        (K, r"its input 'k' \(INT64\) may hold"),
        (TensorSpec("t", Datatype.BYTES, (-1,)), r"its input 't' \(BYTES\) may hold"),
        (MASK, "all generated inputs would be alike"),
    ):
        model = OpenModel(IDS, spec) if spec is not MASK else OpenModel(MASK)
        with pytest.raises(ModelInvalid, match=f"^nothing was written: .*{message}.*--inputs FILE"):
            comparison_trials(model, None, RANGES)
        assert model.shapes == []


def test_supplied_rows_are_read_by_the_inputs_names(tmp_path: Path) -> None:
    file = tmp_path / "rows.npz"
    x, k = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8])
    np.savez(file, x=x, k=k)
    made = trial_inputs(OpenModel(X, K), file)
    assert (made.rows, made.is_given, made.origin) == (2, True, str(file))
    taken = made.take(1, 2)
    assert taken[0].to_numpy().tolist() == [[3, 4, 5], [0, 1, 2]]
    assert taken[1].to_numpy().tolist() == [8, 7]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((2, 3), np.float32)}, r"does not fit the model: .*takes x, k alone"),
        ({"x": np.ones((2, 3)), "k": np.array([1, 2])}, "is FP64, the model takes FP32"),
        ({"x": np.ones((2, 3), np.float32), "k": np.array([1])}, "the same number of rows"),
        ({"x": np.ones((0, 3), np.float32), "k": np.ones(0, np.int64)}, "at least 1"),
        ({"x": np.ones((2, 3), np.complex64), "k": np.array([1, 2])}, "complex64"),
    ],
)
def test_odd_rows_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(ConfigError, match=message):
        trial_inputs(OpenModel(X, K), tmp_path / "rows.npz")


# 100, 199, 200 and 199.5 rows a second.
SLOWING = ServiceProfile(
    tuple(ProfilePoint(rows, s) for rows, s in ((1, 0.01), (2, 2 / 199), (4, 0.02), (8, 8 / 199.5)))
)


def test_best_batch_is_the_smallest_within_1_percent_of_the_most_throughput() -> None:
    assert SLOWING.best_rows == 2
    assert SLOWING.row_s == pytest.approx(1 / 199)
    barely_not = ServiceProfile((ProfilePoint(1, 1 / 98), ProfilePoint(2, 2 / 100)))
    assert barely_not.best_rows == 2


def test_seconds_are_interpolated_and_go_on_by_the_last_slope() -> None:
    profile = ServiceProfile((ProfilePoint(1, 1.0), ProfilePoint(4, 4.0), ProfilePoint(8, 6.0)))
    assert [profile.seconds_at(rows) for rows in (0, 1, 2, 4, 6, 8, 10)] == [1, 1, 2, 4, 5, 6, 7]
    assert ServiceProfile((ProfilePoint(2, 1.0),)).seconds_at(6) == 3.0
    falling = ServiceProfile((ProfilePoint(1, 2.0), ProfilePoint(2, 1.0)))
    assert falling.seconds_at(100) == 1.0


def measured(
    seconds_of: Callable[[int], float], max_rows: int, left_s: float = math.inf
) -> list[int]:
    points: tuple[ProfilePoint, ...] = ()
    while (rows := next_rows(points, max_rows=max_rows, left_s=left_s)) is not None:
        points = (*points, ProfilePoint(rows, seconds_of(rows)))
    return [point.rows for point in points]


def test_rows_are_doubled_until_three_doublings_bring_nothing_or_the_limit_is_measured() -> None:
    assert measured(lambda rows: 0.01, 6) == [1, 2, 4, 6]
    assert measured(lambda rows: 0.01, 8) == [1, 2, 4, 8]
    assert measured(lambda rows: 0.01 * rows, 1000) == [1, 2, 4, 8]
    assert measured(lambda rows: 0.01 * max(rows, 4), 1000) == [1, 2, 4, 8, 16, 32]
    assert measured(lambda rows: 0.01, 1) == [1]
    # One doubling may bring nothing: 2 rows are no better than 1, 4 are.
    assert measured(
        lambda rows: {1: 1, 2: 2, 4: 2, 8: 4, 16: 8}[min(rows, 16)] * max(1, rows // 16), 1000
    ) == [1, 2, 4, 8, 16, 32]


@dataclass
class FakeRuns:
    """A model whose runs move a clock."""

    seconds_of: Callable[[int], float]
    now_s: float = 0.0
    calls: list[int] = field(default_factory=list)

    def run(self, rows: int) -> None:
        self.calls.append(rows)
        self.now_s += self.seconds_of(rows)

    def clock_s(self) -> float:
        return self.now_s


def test_each_size_is_run_several_times_and_the_first_run_does_not_count() -> None:
    runs = FakeRuns(lambda rows: 9.0 if len(runs.calls) == 1 else float(rows))
    sizes: list[int] = []
    how = {"max_rows": 2, "budget_s": 100.0, "on_size": sizes.append}
    timing = time_rows(runs.run, clock_s=runs.clock_s, **how)
    assert timing.profile.points == (ProfilePoint(1, 1.0), ProfilePoint(2, 2.0))
    assert (timing.stopped, sizes) == ("", [1, 2])
    assert runs.calls == [1] * (1 + MIN_RUNS) + [2] * (1 + 5)  # a tenth of 100 s, 2 s each


def test_size_that_fails_ends_the_profile_with_its_reason_and_one_row_must_run() -> None:
    def run(rows: int) -> None:
        if rows > 2:
            raise RunFailed("out of memory")
        runs.run(rows)

    runs = FakeRuns(lambda rows: 1.0)
    timing = time_rows(run, max_rows=64, budget_s=1e6, clock_s=runs.clock_s)
    assert [point.rows for point in timing.profile.points] == [1, 2]
    assert timing.stopped == "4 rows: out of memory"

    def refuse(rows: int) -> None:
        raise InvalidRequest("never")

    with pytest.raises(InvalidRequest, match="never"):
        time_rows(refuse, max_rows=64, budget_s=1.0, clock_s=runs.clock_s)
