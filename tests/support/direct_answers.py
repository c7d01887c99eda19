"""What ONNX Runtime, called directly, answers to the cases of the built models: what every way through a router must bring."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from http_load import Request

MODELS = ("digits", "breast_cancer", "magika")
ROWS = 7


def rows_of(built_models: Path, model: str, most: int | None = ROWS) -> tuple[str, Any]:
    """Return the name of a model's input, and some rows for it."""
    cases: Any = np.load(built_models.parent / "cases" / f"{model}.npz")
    return str(cases["input"]), cases["rows"][:most]


def direct(built_models: Path, model: str, feed: dict[str, Any]) -> dict[str, Any]:
    """Return a model's outputs by name."""
    session = ort.InferenceSession(
        built_models / model / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def check(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare outputs: names, dtypes, shapes, then values, up to what the order of sums in workers' threads may change."""
    assert got.keys() == expected.keys()
    for output, array in expected.items():
        assert got[output].dtype == array.dtype
        assert got[output].shape == array.shape
        np.testing.assert_allclose(got[output], array, rtol=1e-5, atol=1e-7)


def digits_requests(built_models: Path, count: int) -> Iterator[Request]:
    """Yield requests for the label of one of the cases each, with what ONNX Runtime answers."""
    name, rows = rows_of(built_models, "digits", None)
    labels = direct(built_models, "digits", {name: rows})["label"].tolist()
    wanted = [{"name": "label"}]
    for at in itertools.islice(itertools.cycle(range(len(rows))), count):
        row = {"name": name, "datatype": "FP32", "shape": [1, 64], "data": rows[at].tolist()}
        yield json.dumps({"inputs": [row], "outputs": wanted}).encode(), b'"data":[%d]' % labels[at]
