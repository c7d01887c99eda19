"""The cases of a sample model: real inputs with the answers to expect, kept in a file and tried on the model.

Cases are real inputs that no model was trained on, with the expected answers, in `<model>.npz`:

    rows      the inputs, [N, ...], for the model's tensor `input`
    expected  int64 [N]: which class each row is
    names     text [classes]
    titles    text [N]: what each row is, for people
    input     text []: the name of the input tensor
    output    text []: the name of the output tensor that scores the classes, f32 [N, classes]

Those of `silero_vad` are one recording, in its order:

    rows      f32 [N, 576]: the 64 samples before a window of 512, and the window, from -1 to 1
    expected  f32 [N]: the probability of speech that ONNX Runtime alone gives each, one after the other
    titles    text [N]: where in the recording each window begins
    rate_hz   int64 []: samples a second

Those of `sentiment` are texts and the places of their labels:

    rows      text [N]
    expected  int64 [N]
    titles    text [N]: the same as rows

Those of `minilm` are pairs of texts:

    rows      text [N, 3]: a text, one that means nearly the same, and another
    titles    text [N]: the first of each
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from capamesh.node.repository import ModelSource, scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.tasks.making import make_task
from capamesh.protocol.tensors import Tensor

SILERO_STATE = (2, 1, 128)
"""The shape of the state that Silero VAD keeps, as in its package's utils_vad.py."""


@dataclass(frozen=True, slots=True)
class Cases:
    """Held-out inputs and their expected answers; the module's docstring says what each field is."""

    rows: np.ndarray
    expected: np.ndarray
    names: np.ndarray
    titles: np.ndarray
    input: str
    output: str

    def save(self, path: Path) -> None:
        """Write the fields as arrays; nothing needs pickle to be read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            rows=self.rows,
            expected=self.expected,
            names=self.names,
            titles=self.titles,
            input=np.array(self.input),
            output=np.array(self.output),
        )

    @staticmethod
    def load(path: Path) -> Cases:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as fields:
            return Cases(
                rows=fields["rows"],
                expected=fields["expected"],
                names=fields["names"],
                titles=fields["titles"],
                input=str(fields["input"]),
                output=str(fields["output"]),
            )

    def right(self, models: Path, name: str) -> np.ndarray:
        """Return which cases the model in `models` gets right, bool [N]."""
        return decisions(models, name, self) == self.expected


@dataclass(frozen=True, slots=True)
class Recording:
    """The windows of one recording; the module's docstring says what each field is."""

    rows: np.ndarray
    expected: np.ndarray
    titles: np.ndarray
    rate_hz: int

    def save(self, path: Path) -> None:
        """Write the fields as arrays; nothing needs pickle to be read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            rows=self.rows,
            expected=self.expected,
            titles=self.titles,
            rate_hz=np.array(self.rate_hz),
        )

    def right(self, models: Path, name: str) -> np.ndarray:
        """Return for which windows the model in `models`, run as a node would, says what is expected, bool [N]."""
        model = OnnxBackend().load(_source(models, name))
        rate = Tensor.from_numpy("sr", np.array(self.rate_hz))
        state = Tensor.from_numpy("state", np.zeros(SILERO_STATE, np.float32))
        said: list[float] = []
        for row in self.rows:
            score, state = model.run([Tensor.from_numpy("input", row[None]), state, rate])
            state = Tensor("state", state.datatype, state.shape, state.data)
            said.append(float(score.to_numpy()[0, 0]))
        return np.isclose(said, self.expected, rtol=1e-5)


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts with the label that each should have; the module's docstring says what each field is."""

    rows: np.ndarray
    expected: np.ndarray
    names: np.ndarray
    output: str

    @property
    def titles(self) -> np.ndarray:
        """Return what each row is, for people."""
        return self.rows

    def save(self, path: Path) -> None:
        """Write the fields as arrays; nothing needs pickle to be read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, rows=self.rows, expected=self.expected, titles=self.rows)

    def right(self, models: Path, name: str) -> np.ndarray:
        """Return which texts the model in `models`, run as a node would, labels as expected, bool [N]."""
        scores = _answer(models, name, self.rows, self.output)
        return scores.argmax(axis=1) == self.expected


@dataclass(frozen=True, slots=True)
class Likeness:
    """Texts of which the first two of a row mean nearly the same; the module's docstring says what each field is."""

    rows: np.ndarray
    titles: np.ndarray

    @staticmethod
    def ours() -> Likeness:
        """Return some rows of our own."""
        rows = np.array(
            [
                ("A cat sat on the mat.", "A kitten rests on a rug.", "The stock market fell."),
                ("How do I reset my password?", "I forgot my login.", "It rains in Spain."),
                ("He plays the violin.", "She is a musician.", "The engine needs oil."),
                ("The train is late again.", "Our railway has delays.", "Add two eggs."),
            ]
        )
        return Likeness(rows, rows[:, 0])

    def save(self, path: Path) -> None:
        """Write the texts as arrays; nothing needs pickle to be read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, rows=self.rows, titles=self.titles)

    def right(self, models: Path, name: str) -> np.ndarray:
        """Return for which rows the model in `models`, run as a node would, finds the second text nearer than the third."""
        vectors = _answer(models, name, self.rows.ravel(), "embedding").reshape(
            *self.rows.shape, -1
        )
        near = [first @ same > first @ other for first, same, other in vectors]
        return np.array(near)


def decisions(models: Path, name: str, cases: Cases) -> np.ndarray:
    """Return the class that the model in `models` gives to each case, int64 [N], as a node would."""
    model = OnnxBackend().load(_source(models, name))
    inputs = [Tensor.from_numpy(cases.input, cases.rows)]
    model.validate(inputs, [cases.output])
    (scores,) = model.run(inputs, [cases.output])
    return scores.to_numpy().argmax(axis=1)


def _answer(models: Path, name: str, texts: np.ndarray, output: str) -> np.ndarray:
    """Return an output of the model in `models` for some texts, run as a node would."""
    source = _source(models, name)
    model = OnnxBackend().load(source)
    task = make_task(source, model.inputs, model.outputs)
    assert task is not None  # noqa: S101 - its manifest names one
    request = task.request((Tensor.from_numpy("text", texts.astype(object)),), (output,))
    (found,) = request.of(model.run(request.inputs(), request.outputs))
    return found.to_numpy()


def _source(models: Path, name: str) -> ModelSource:
    return next(source for source in scan(models).models if source.name == name)
