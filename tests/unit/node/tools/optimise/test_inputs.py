"""Inputs to try a model with: generated from what it declares, or read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override
from worker_fakes import FakeModel

from capamesh.node.profiling.synthetic_inputs import generated_shape, synthetic_inputs
from capamesh.node.tools.optimise.trial import (
    GENERATED_ROWS,
    comparison_trials,
    trial_inputs,
)
from capamesh.protocol.errors import ConfigError, ModelInvalid, RunFailed
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, checked

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
def test_supplied_rows_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(ConfigError, match=message):
        trial_inputs(OpenModel(X, K), tmp_path / "rows.npz")
