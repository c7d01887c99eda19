"""The tasks that manifests name, and texts to the tensors of a model and back."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from text_models import DIMENSIONS, WORDS, table, tokenizer

from capamesh.node.repository.manifest import parse_manifest
from capamesh.node.repository.task_rules import EmbeddingRules, Pooling, TextRules
from capamesh.node.runtime.tasks import text as module
from capamesh.node.runtime.tasks.contents import FileTask, ImageTask
from capamesh.node.runtime.tasks.making import make_task
from capamesh.node.runtime.tasks.task import PackageMissing
from capamesh.node.runtime.tasks.text import TextInputs, TextTask, Vectors
from capamesh.node.runtime.tasks.tokenizers import TextTokenizer
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    ModelInvalid,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.tasks import DIMENSIONS as DIMENSIONS_INPUT
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, join_elements

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
def test_rules_of_texts_that_do_not_fit(more: str, inputs: Any, outputs: Any, said: str) -> None:
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


MASK_32 = TensorSpec("attention_mask", Datatype.INT32, (-1, -1))
TYPES = TensorSpec("token_type_ids", Datatype.INT64, (-1, -1))
CLS, SEP, PAD = (WORDS.index(word) for word in ("[CLS]", "[SEP]", "[PAD]"))
CAT, DOG, SAT = (WORDS.index(word) for word in ("cat", "dog", "sat"))


def task(
    *,
    kind: Task = Task.TEXT_EMBEDDING,
    ids: TensorSpec = IDS,
    mask: TensorSpec | None = MASK_32,
    types: TensorSpec | None = None,
    embedding: EmbeddingRules | None = None,
    **rules: Any,
) -> TextTask:
    of_text = TextRules(**{"max_tokens": 8, **rules})
    made = TextTokenizer(
        tokenizer(), max_tokens=of_text.max_tokens, is_truncated=of_text.is_truncated
    )
    vectors = Vectors("hidden", embedding or EmbeddingRules())
    is_embedding = kind is Task.TEXT_EMBEDDING
    inputs = TextInputs(ids, mask, types)
    return TextTask(kind, made, of_text, inputs, vectors if is_embedding else None, "hidden")


def texts(*given: str | bytes) -> Tensor:
    raw = [one.encode() if isinstance(one, str) else one for one in given]
    return Tensor("text", Datatype.BYTES, (len(raw),), join_elements(raw))


def token_ids(*rows: list[int]) -> Tensor:
    raw = [np.array(row, "<i4").tobytes() for row in rows]
    return Tensor("token_ids", Datatype.BYTES, (len(raw),), join_elements(raw))


def asked(dimensions: int) -> Tensor:
    return Tensor.from_numpy(DIMENSIONS_INPUT, np.array([dimensions], np.int32))


INT64_DIMENSIONS = Tensor.from_numpy(DIMENSIONS_INPUT, np.array([2]))


def made(of: TextTask, *inputs: Tensor) -> dict[str, np.ndarray]:
    request = of.request(inputs, ("embedding",))
    return {tensor.name: tensor.to_numpy() for tensor in request.inputs()}


def hidden(of: TextTask, *inputs: Tensor) -> Tensor:
    """Return what the encoder of `text_models` gives for a request."""
    return Tensor.from_numpy("hidden", table()[made(of, *inputs)["input_ids"]])


def answer(of: TextTask, outputs: tuple[str, ...], *inputs: Tensor) -> Any:
    request = of.request(inputs, outputs)
    request.inputs()
    return request.answer([hidden(of, *inputs)])


def test_texts_become_padded_tokens_with_their_mask() -> None:
    found = made(task(types=TYPES), texts("Cat sat", "dog"))
    assert found["input_ids"].tolist() == [[CLS, CAT, SAT, SEP], [CLS, DOG, SEP, PAD]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert found["attention_mask"].dtype == np.int32
    assert found["token_type_ids"].tolist() == [[0] * 4] * 2


def test_text_is_cut_with_its_last_token_or_refused() -> None:
    cut = made(task(max_tokens=4), texts("cat dog sat"))["input_ids"]
    assert cut.tolist() == [[CLS, CAT, DOG, SEP]]
    with pytest.raises(TooLarge, match="text 1 has 5 tokens; this model takes 4"):
        made(task(max_tokens=4, is_truncated=False), texts("cat", "cat dog sat"))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (token_ids([CAT], [-1]), InvalidRequest, "text 1 has a token that is not one of 0 to 10"),
        (token_ids([]), InvalidRequest, "text 0 has no tokens"),
        (texts("abc").replace(name="token_ids"), InvalidRequest, "text 0 has 3 bytes of tokens"),
        (token_ids([CAT] * 9), TooLarge, "text 0 has 9 tokens; this model takes 8"),
        (texts(b"\xff"), InvalidRequest, "text 0 is not UTF-8"),
        (texts("a", "b" * 101), TooLarge, "text 1 has 101 characters; this model takes 100"),
        (texts("b" * 401), TooLarge, "text 0 has 401 bytes; this model takes 100 characters"),
    ],
)
def test_bad_row_is_refused(given: Tensor, error: type[CapameshError], said: str) -> None:
    with pytest.raises(error, match=said):
        made(task(max_chars=100, is_truncated=False), given)


def test_all_texts_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUEST_CHARS", 5)
    made(task(), texts("cat", "a"))
    with pytest.raises(TooLarge, match="have more than 5 characters"):
        made(task(), texts("cat", "dog"))
    monkeypatch.setattr(module, "MAX_REQUEST_TOKENS", 5)
    with pytest.raises(TooLarge, match="2 texts of which the longest has 3 tokens; at most 5"):
        made(task(), texts("a", "a"))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((texts("a"), token_ids([CAT])), "has one input, 'text' or 'token_ids'; it has 'text'"),
        ((Tensor("text", Datatype.BYTES, (), b"\0\0\0\0"),), r"has the shape \[\]; it must be"),
        ((texts("a"), INT64_DIMENSIONS), r"is INT64\[1\]; it must be INT32\[1\]"),
        ((texts("a"), asked(0)), "0 dimensions are asked for; ask for 1 or more"),
        ((texts("a"), asked(2)), "embeddings have one length: leave out dimensions"),
    ],
)
def test_request_of_another_form_is_refused(inputs: tuple[Tensor, ...], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        task().request(inputs, ())


def test_rows_are_bounded() -> None:
    task().request((Tensor("text", Datatype.BYTES, (2048,), b""),), ())
    with pytest.raises(TooLarge, match="a request of 2049 rows; at most 2048"):
        task().request((Tensor("text", Datatype.BYTES, (2049,), b""),), ())


@pytest.mark.parametrize(
    ("wanted", "of_model"),
    [
        ((), ()),
        (("other", "embedding", "tokens"), ("other", "hidden")),
        (("hidden", "embedding"), ("hidden",)),
    ],
)
def test_model_gives_what_is_needed(wanted: tuple[str, ...], of_model: tuple[str, ...]) -> None:
    assert task().request((texts("a"),), wanted).outputs == of_model


def test_vectors_are_the_means_of_tokens_without_padding_and_1_long() -> None:
    of = task()
    vectors, counts = answer(of, ("embedding", "tokens"), texts("cat sat", "dog"))
    rows = table()
    wanted = np.stack([rows[[CLS, CAT, SAT, SEP]].mean(0), rows[[CLS, DOG, SEP]].mean(0)])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors.to_numpy(), wanted, rtol=1e-6)
    assert (vectors.name, vectors.datatype) == ("embedding", Datatype.FP32)
    assert (counts.name, counts.datatype) == ("tokens", Datatype.INT32)
    assert counts.to_numpy().tolist() == [4, 3]


def test_first_token_and_no_pooling_and_no_norm() -> None:
    first = task(embedding=EmbeddingRules(pooling=Pooling.FIRST, is_normalized=False))
    (vectors,) = answer(first, ("embedding",), texts("cat", "dog sat"))
    np.testing.assert_array_equal(vectors.to_numpy(), np.stack([table()[CLS]] * 2))
    none = task(embedding=EmbeddingRules(pooling=Pooling.NONE, is_normalized=False))
    request = none.request((texts("cat"),), ("embedding",))
    request.inputs()
    given = np.array([[3, 4]], np.float16)
    (pooled,) = request.answer([Tensor.from_numpy("hidden", given)])
    assert pooled.to_numpy().tolist() == [[3.0, 4.0]]


def test_fewer_dimensions_are_the_first_ones_made_1_long_again() -> None:
    of = task(embedding=EmbeddingRules(may_be_shortened=True))
    (whole,) = answer(of, ("embedding",), texts("cat"))
    (short,) = answer(of, ("embedding",), texts("cat"), asked(2))
    cut = whole.to_numpy()[:, :2]
    np.testing.assert_allclose(short.to_numpy(), cut / np.linalg.norm(cut), rtol=1e-6)
    too_many = answer(of, ("embedding",), texts("cat"), asked(DIMENSIONS + 1))
    assert isinstance(too_many, InvalidRequest)
    assert too_many.message == "5 dimensions are asked for; this model's embeddings have 4"


@pytest.mark.parametrize("shape", [(1, 3), (2, 3, 2)])
def test_output_of_another_shape_fails_the_run(shape: tuple[int, ...]) -> None:
    request = task().request((texts("cat"),), ("embedding",))
    request.inputs()
    result = request.answer([Tensor.from_numpy("hidden", np.zeros(shape, np.float32))])
    assert isinstance(result, RunFailed)
    assert "which is not a vector for each token of 1 texts" in result.message
