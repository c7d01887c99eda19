"""The backend of the page on adding one is a backend: it loads, runs and is measured as ONNX Runtime's is."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from capamesh.node.models.preparation import Preparation
from capamesh.node.profiling.profile_cache import ProfileCache
from capamesh.node.repository import ContentChanged, Manifest, ModelSource, scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.protocol.errors import ModelInvalid, ModelUnavailable, RunFailed
from capamesh.protocol.tensors import Tensor

if TYPE_CHECKING:
    from capamesh.node.runtime.api import Backend

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "how-to" / "add-a-backend.md"
SAMPLES = ROOT / "cli/src/capamesh/cli/samples/models"
ROWS = 5


def code() -> str:
    """Return the module that the page has its reader write."""
    text = PAGE.read_text()
    start = text.index('        """Runs ONNX')
    end = text.index("   What it raises")
    return textwrap.dedent(text[start:end])


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    path = tmp_path_factory.mktemp("written") / "reference.py"
    path.write_text(code())
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[[], Backend] = module.ReferenceBackend
    return made()


@pytest.fixture
def digits(tmp_path: Path) -> ModelSource:
    shutil.copytree(SAMPLES / "digits", tmp_path / "digits")
    (source,) = scan(tmp_path).models
    return source


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_model_gives_what_onnx_runtime_gives(backend: Backend, name: str) -> None:
    (source,) = [one for one in scan(SAMPLES).models if one.name == name]
    ours, theirs = backend.load(source), OnnxBackend().load(source)
    assert (ours.inputs, ours.outputs) == (theirs.inputs, theirs.outputs)
    assert (ours.precision, ours.is_data_dependent) == (theirs.precision, theirs.is_data_dependent)
    (spec,) = ours.inputs
    rows = np.random.default_rng(1).random((ROWS, spec.shape[1]), np.float32)
    inputs = [Tensor.from_numpy(spec.name, rows)]
    ours.validate(inputs)
    for mine, other in zip(ours.run(inputs), theirs.run(inputs), strict=True):
        assert (mine.name, mine.datatype, mine.shape) == (other.name, other.datatype, other.shape)
        np.testing.assert_allclose(mine.to_numpy(), other.to_numpy(), atol=1e-5)


def test_model_is_prepared_to_be_served_in_batches(backend: Backend, digits: ModelSource) -> None:
    ticks = itertools.count()
    preparation = Preparation(
        backend, ProfileCache(None), circumstances={}, clock=lambda: next(ticks) * 1e-3
    )
    prepared = preparation.prepare(digits, lambda: backend.load(digits))
    assert prepared.measured.profile is not None
    assert prepared.plan.is_batching
    assert prepared.loaded.provider == "ReferenceEvaluator"


def test_errors_are_those_that_a_node_expects(backend: Backend, digits: ModelSource) -> None:
    model = backend.load(digits)
    wide = Tensor.from_numpy("X", np.zeros((1, 63), np.float32))
    with pytest.raises(RunFailed, match="the model's run failed"):
        model.run([wide])
    model.give_back()
    model.close()
    with pytest.raises(ModelUnavailable):
        model.run([wide])
    named = replace(digits, manifest=Manifest(providers=("CPUExecutionProvider",)))
    with pytest.raises(ModelInvalid, match="has no providers"):
        backend.load(named)


def test_file_that_is_not_the_verified_one_is_not_loaded(
    backend: Backend, digits: ModelSource
) -> None:
    shutil.copy(SAMPLES / "breast_cancer/1/model.onnx", digits.path)
    with pytest.raises(ContentChanged):
        backend.load(digits)
