"""The tasks that manifests name, and what of them does not fit a model."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from text_models import tokenizer

from capamesh.node.repository.manifest import parse_manifest
from capamesh.node.runtime.tasks.contents import FileTask, ImageTask
from capamesh.node.runtime.tasks.making import make_task
from capamesh.node.runtime.tasks.task import PackageMissing
from capamesh.node.runtime.tasks.text import TextTask
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensors import Datatype, TensorSpec

IDS = TensorSpec("input_ids", Datatype.INT64, (-1, -1))
MASK = TensorSpec("attention_mask", Datatype.INT64, (-1, -1))
HIDDEN = TensorSpec("hidden", Datatype.FP32, (-1, -1, 4))
SCORES = TensorSpec("scores", Datatype.FP32, (-1, 3))
FLOATS = TensorSpec("input_ids", Datatype.FP32, (-1, -1))
FIXED = TensorSpec("attention_mask", Datatype.INT64, (-1, 7))
OWN = TensorSpec("embedding", Datatype.FP16, (-1, 4))
FLAT = 'channels = "grey"\nlayout = "flat"'
X = TensorSpec("x", Datatype.FP32, (-1, 64))


ANY_BYTES = TensorSpec("b", Datatype.INT32, (-1, -1))


def source(manifest: str, **files: bytes) -> Any:
    stamps = [SimpleNamespace(name=name, size_bytes=len(raw)) for name, raw in files.items()]
    return SimpleNamespace(
        manifest=parse_manifest(manifest.encode(), "capamesh.toml"),
        files=stamps,
        version="1",
        content=SimpleNamespace(read=files.__getitem__),
    )


def embedding(
    more: str = "", inputs: Any = (IDS, MASK), outputs: Any = (HIDDEN,), **files: bytes
) -> Any:
    held = files or {"tokenizer.json": tokenizer()}
    return make_task(source(f'task = "text-embedding"\n{more}', **held), inputs, outputs)


def image(more: str, spec: TensorSpec = X, *others: TensorSpec) -> Any:
    manifest = f'task = "image-classification"\n[image]\nwidth = 8\nheight = 8\n{more}'
    return make_task(source(manifest), (spec, *others), (SCORES,))


def file(more: str, spec: TensorSpec) -> Any:
    return make_task(source(f'task = "file-type"\n[file]\n{more}'), (spec,), (SCORES,))


def test_each_task_is_made() -> None:
    assert isinstance(embedding(), TextTask)
    kind = 'task = "text-classification"'
    found = make_task(source(kind, **{"tokenizer.json": tokenizer()}), (IDS,), (SCORES,))
    assert isinstance(found, TextTask)
    assert found.task is Task.TEXT_CLASSIFICATION
    assert isinstance(image(FLAT), ImageTask)
    assert isinstance(file("", TensorSpec("b", Datatype.INT32, (-1, 2048))), FileTask)


@pytest.mark.parametrize(
    ("more", "inputs", "outputs", "said"),
    [
        ("", (X,), (HIDDEN,), "text.ids: input 'input_ids' is not one of the model's: x"),
        ("", (IDS, X), (HIDDEN,), "text: the model takes x too, which no text gives"),
        ("", (FLOATS,), (HIDDEN,), r"input 'input_ids' is FP32\[-1, -1\]; tokens are INT32 or"),
        ("", (IDS, FIXED), (HIDDEN,), r"input 'attention_mask' is INT64\[-1, 7\]"),
        ("", (IDS,), (HIDDEN, SCORES), "embedding.output: name the output with the vectors"),
        ('[embedding]\noutput = "y"', (IDS,), (HIDDEN,), "embedding.output: 'y' is"),
        ("", (IDS,), (SCORES,), r"output 'scores' is FP32\[-1, 3\]; with pooling = 'mean'"),
        ('[embedding]\noutput = "hidden"', (IDS,), (HIDDEN, OWN), r"'embedding' is FP16\[-1, 4\]"),
        ("", (TensorSpec("text", Datatype.BYTES, (-1,)),), (HIDDEN,), "is asked for by an input"),
    ],
)
def test_manifest_of_texts_that_does_not_fit(
    more: str, inputs: Any, outputs: Any, said: str
) -> None:
    with pytest.raises(ModelInvalid, match=said):
        embedding(more, inputs, outputs)


def test_tokenizer_must_be_in_the_version_and_be_one() -> None:
    with pytest.raises(ModelInvalid, match=r"'tokenizer.json' is not in the folder of version 1"):
        embedding(other=b"")
    for raw in (b"{}", b"\xff", b""):
        with pytest.raises(ModelInvalid, match="the tokenizer cannot be used"):
            embedding(**{"tokenizer.json": raw})
    embedding("[text]\nmax_tokens = 3")
    with pytest.raises(ModelInvalid, match="max_tokens is 2; the tokenizer itself adds 2 tokens"):
        embedding("[text]\nmax_tokens = 2")


@pytest.mark.parametrize(
    ("make", "more", "spec", "said"),
    [
        (image, "", X, r"input 'x' is FP32\[-1, 64\]; the manifest's rows have the shape"),
        (image, FLAT, TensorSpec("x", Datatype.INT8, (-1, 64)), "is INT8; pixels are"),
        (image, 'input = "y"', X, "the model must have one input, 'y'; it has x"),
        (file, "", TensorSpec("b", Datatype.INT32, (-1, 100)), r"rows have the shape \[2048\]"),
        (file, "", TensorSpec("b", Datatype.UINT8, (-1, 2048)), "cannot hold the bytes"),
        (file, "", TensorSpec("b", Datatype.BOOL, (-1, 2048)), "cannot hold the bytes"),
        (file, "begin_bytes = 0\nend_bytes = 0", ANY_BYTES, "are both 0"),
    ],
)
def test_manifest_that_does_not_fit_the_model_of_contents_is_refused(
    make: Any, more: str, spec: TensorSpec, said: str
) -> None:
    with pytest.raises(ModelInvalid, match=said):
        make(more, spec)


@pytest.mark.parametrize(
    ("package", "make"), [("tokenizers", embedding), ("PIL", lambda: image(FLAT))]
)
def test_missing_package_is_named(package: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PackageMissing, match=r"pip install 'capamesh\[tasks\]'"):
        make()
