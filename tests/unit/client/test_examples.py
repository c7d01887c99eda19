"""The examples for Ray Data and Spark, called as these call them, with a client that is made up."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from capamesh.client import InvalidRequest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return an example, whose client is the one that is made up."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "Client", FakeClient)
    return module


class FakeClient:
    """Answers with the sums of rows; one with a number below zero is refused."""

    def __init__(self, url: str, **_: Any) -> None:
        self.url = url
        self.rows: list[int] = []

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.url = ""

    def infer(self, model: str, inputs: dict[str, np.ndarray], **_: Any) -> dict[str, np.ndarray]:
        assert self.url == "http://router"
        x = inputs["X"]
        self.rows.append(len(x))
        if (x < 0).any():
            raise InvalidRequest("below zero")
        return {"label": x.sum(axis=1), "half": x / 2}


def test_ray_gets_the_batch_with_the_outputs_or_rows_one_by_one_where_one_is_bad(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = example("ray_data", monkeypatch)
    classify = ray.Classify("sums", {"X": "pixels"}, router="http://router")
    found = classify({"name": np.array(["a", "b"]), "pixels": np.array([[1.0, 2.0], [3.0, 4.0]])})
    assert list(found) == ["name", "pixels", "label", "half", "error"]
    assert (found["label"].tolist(), found["error"].tolist()) == ([3.0, 7.0], ["", ""])
    assert {len(each) for each in found.values()} == {2}
    # as Ray has rows of lists: an array of objects
    pixels = np.empty(3, object)
    pixels[:] = [[1.0, 2.0], [-1.0, 0.0], [3.0, 4.0]]
    found = classify({"pixels": pixels})
    assert found["label"].tolist() == [3.0, None, 7.0]
    assert found["half"].tolist() == [[0.5, 1.0], None, [1.5, 2.0]]
    assert found["error"].tolist() == ["", "below zero", ""]
    assert classify._client.rows == [2, 3, 1, 1, 1]


class Frame(dict[str, Any]):
    """As much of a table of pandas as the example uses."""

    def __getitem__(self, names: Any) -> Any:
        if isinstance(names, list):
            return Frame({name: dict.__getitem__(self, name) for name in names})
        return dict.__getitem__(self, names)

    def assign(self, **columns: Any) -> Frame:
        return Frame({**self, **columns})


def test_spark_gets_a_table_for_each_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    spark = example("spark_frame", monkeypatch)
    classify = spark.classifier("sums", {"X": "pixels"}, router="http://router")
    frames = [
        Frame({"name": ["a", "b"], "pixels": [[1, 2], [3, 4]], "other": [0, 0]}),
        Frame({"name": ["c"], "pixels": [[5, 6]], "other": [0]}),
    ]
    assert list(classify(iter(frames))) == [
        {"name": ["a", "b"], "label": [3, 7]},
        {"name": ["c"], "label": [11]},
    ]
