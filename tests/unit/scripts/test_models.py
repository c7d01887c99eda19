"""The sample models: what is committed is what the builder builds, and it decides alike."""

from __future__ import annotations

import importlib
import importlib.metadata
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from model_cases import Cases, decisions

from capamesh.node.repository import scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.protocol.tensors import Datatype, TensorSpec

SAMPLES = Path(str(files("capamesh.cli") / "samples"))


@pytest.fixture(scope="module")
def build_models() -> ModuleType:
    """Return the script as a module."""
    return importlib.import_module("build_models")


def test_package_carries_the_samples_and_the_store_accepts_them(
    build_models: ModuleType,
) -> None:
    found = scan(SAMPLES / "models")
    assert found.refused == ()
    names = {source.name for source in found.models}
    assert {"breast_cancer", "digits"} <= names <= set(build_models.BUILDERS)
    assert all(source.manifest.description for source in found.models)


@pytest.mark.parametrize(
    ("name", "features", "classes", "least_right"),
    [("digits", 64, 10, 0.97), ("breast_cancer", 30, 2, 0.95)],
)
def test_sample_has_the_documented_signature_and_answers_its_held_out_cases(
    build_models: ModuleType, name: str, features: int, classes: int, least_right: float
) -> None:
    path = SAMPLES / "models" / name / "1/model.onnx"
    (source,) = [source for source in scan(SAMPLES / "models").models if source.name == name]
    model = OnnxBackend().load(source)
    assert model.inputs == (TensorSpec("X", Datatype.FP32, (-1, features)),)
    assert model.outputs == (
        TensorSpec("label", Datatype.INT64, (-1,)),
        TensorSpec("probabilities", Datatype.FP32, (-1, classes)),
    )
    onnx_model = onnx.load(path)  # of an old enough format
    assert onnx_model.ir_version <= 13
    assert all(opset.version <= 26 for opset in onnx_model.opset_import)
    assert len((path.parents[1] / "labels.txt").read_text().splitlines()) == classes
    cases = Cases.load(SAMPLES / f"cases/{name}.npz")
    assert len(cases.rows) == len(cases.expected) == len(cases.titles) > 100
    decided = decisions(SAMPLES / "models", name, cases)
    assert (decided == cases.expected).mean() >= least_right


@pytest.mark.full
@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_rebuilt_sample_has_the_same_cases_and_decides_alike(
    build_models: ModuleType, name: str, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    build_models.write(name, build_models.BUILDERS[name](), models)
    committed = Cases.load(SAMPLES / f"cases/{name}.npz")
    rebuilt = Cases.load(tmp_path / f"cases/{name}.npz")
    np.testing.assert_array_equal(rebuilt.rows, committed.rows)
    np.testing.assert_array_equal(rebuilt.expected, committed.expected)
    assert rebuilt.names.tolist() == committed.names.tolist()
    agree = decisions(models, name, committed) == decisions(SAMPLES / "models", name, committed)
    # Another processor's matrix product rounds otherwise, and training adds that up.
    assert agree.mean() >= 0.98


def test_magikas_features_are_both_ends_without_white_space_and_padded(
    build_models: ModuleType,
) -> None:
    short = build_models.magika_features(b" \n ab ")
    assert short.dtype == np.int32
    assert short.tolist() == [97, 98, 32] + [256] * 2040 + [32, 10, 32, 97, 98]
    long = build_models.magika_features(bytes(range(33, 233)) * 40)
    assert long.min() > 32
    assert long.max() < 256
    assert long[0] == 33
    assert long[-1] == 232
    assert build_models.magika_features(b"").tolist() == [256] * 2048


def test_magika_names_the_type_of_every_case(build_models: ModuleType, tmp_path: Path) -> None:
    try:
        importlib.metadata.distribution("magika")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("magika is optional: pip install --no-deps -r requirements/models.txt")
    models = tmp_path / "models"
    build_models.write("magika", build_models.build_magika(), models)
    cases = Cases.load(tmp_path / "cases/magika.npz")
    decided = decisions(models, "magika", cases)
    assert len(cases.rows) >= 15
    assert cases.names[decided].tolist() == cases.names[cases.expected].tolist()
