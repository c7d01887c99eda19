"""Builds the sample models and their test cases into a folder that a node can serve.

    python scripts/build_models.py                 # build/models and build/cases
    python scripts/build_models.py --samples       # the two that the `capamesh` package carries

`digits` and `breast_cancer` are trained here in a second, on data that scikit-learn carries; `magika`
(file types) and `silero_vad` (speech, window by window) are copied out of the packages of those names
(`pip install --no-deps -r requirements/models.txt`).
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
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import io
import json
import pickle
import pydoc
import sqlite3
import struct
import sys
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import onnxruntime as ort
import sklearn
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from capamesh.node.repository import ModelSource, scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.protocol.tensors import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES = REPOSITORY / "cli/src/capamesh/cli/samples"
SEED = 0
# What ONNX Runtime 1.31 reads: IR <= 13, opset <= 26; older numbers let older runtimes read it too.
OPSETS = {"": 21, "ai.onnx.ml": 3}
IR_VERSION = 10

MAGIKA_MODEL = "magika/models/standard_v3_3"
MAGIKA_BLOCK_BYTES = 4096  # these four are the model's own, from its config.min.json
MAGIKA_BEGIN_BYTES = 1024
MAGIKA_END_BYTES = 1024
MAGIKA_PADDING = 256

SILERO_MODEL = "silero_vad/data/silero_vad.onnx"
SILERO_WINDOW = 512  # these four are the model's own, from its package's utils_vad.py
SILERO_CONTEXT = 64
SILERO_RATE_HZ = 16_000
SILERO_STATE = (2, 1, 128)
PCM_SCALE = 32_768.0  # 16-bit samples become -1 to 1
SILERO_MANIFEST = """
[sequence]
idle_s = 30

[[sequence.state]]
input = "state"
output = "stateN"
axis = 1
shape = [2, 1, 128]
"""
SPEECH = "moonshine_onnx/assets/beckett.wav"


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
class Built:
    """A model's bytes and what goes beside them."""

    onnx: bytes
    description: str
    cases: Cases | Recording
    manifest: str = ""
    """More of its `capamesh.toml`."""


def build_digits() -> Built:
    """Train a small neural network on 8 x 8 pictures of digits, pixels 0 to 16."""
    data = load_digits()
    network = MLPClassifier(
        (64,), alpha=0.1, learning_rate_init=0.005, max_iter=400, random_state=SEED
    )
    return _trained(
        "digits",
        make_pipeline(StandardScaler(), network),
        data,
        "A handwritten digit from its 8 x 8 pixels (0 to 16): a network of 64 hidden units",
        title="digit",
    )


def build_breast_cancer() -> Built:
    """Fit a logistic regression on 30 measurements of cell nuclei."""
    return _trained(
        "breast_cancer",
        make_pipeline(StandardScaler(), LogisticRegression(random_state=SEED, max_iter=1000)),
        load_breast_cancer(),
        "Malignant or benign from 30 measurements of cell nuclei: a logistic regression",
        title="biopsy",
    )


def _trained(name: str, pipeline: Pipeline, data: Any, description: str, *, title: str) -> Built:  # noqa: ANN401  # a Bunch
    rows = data.data.astype(np.float32)
    train, test, train_labels, test_labels, _, test_index = train_test_split(
        rows, data.target, np.arange(len(rows)), random_state=SEED, stratify=data.target
    )
    pipeline.fit(train, train_labels)
    model = to_onnx(pipeline, train[:1], name=name, options={"zipmap": False}, target_opset=OPSETS)
    model.ir_version = IR_VERSION
    cases = Cases(
        rows=test,
        expected=test_labels.astype(np.int64),
        names=np.array([str(label) for label in data.target_names]),
        titles=np.array([f"{title} {index}" for index in test_index]),
        input="X",
        output="probabilities",
    )
    return Built(model.SerializeToString(), description, cases)


def build_magika() -> Built:
    """Take the file-type model out of its package, without importing that."""
    distribution = importlib.metadata.distribution("magika")
    folder = Path(str(distribution.locate_file(MAGIKA_MODEL)))
    names: list[str] = json.loads((folder / "config.min.json").read_bytes())["target_labels_space"]
    model = (folder / "model.onnx").read_bytes()
    files = list(file_cases())
    cases = Cases(
        rows=np.stack([magika_features(content) for _, _, content in files]),
        expected=np.array([names.index(label) for label, _, _ in files], dtype=np.int64),
        names=np.array(names),
        titles=np.array([title for _, title, _ in files]),
        input="bytes",
        output="target_label",
    )
    version = distribution.version
    return Built(model, f"A file's type from its first and last KiB: Magika {version}", cases)


def magika_features(content: bytes) -> np.ndarray:
    """Return int32 [2048]: 1024 bytes after leading and 1024 before trailing white space, padded with 256."""
    begin = list(content[:MAGIKA_BLOCK_BYTES].lstrip()[:MAGIKA_BEGIN_BYTES])
    end = list(content[-MAGIKA_BLOCK_BYTES:].rstrip()[-MAGIKA_END_BYTES:])
    begin += [MAGIKA_PADDING] * (MAGIKA_BEGIN_BYTES - len(begin))
    end = [MAGIKA_PADDING] * (MAGIKA_END_BYTES - len(end)) + end
    return np.array(begin + end, dtype=np.int32)


def file_cases() -> Iterator[tuple[str, str, bytes]]:
    """Yield small real files: the expected label, a title and the bytes."""
    source = Path(json.__file__).read_bytes()
    digits = load_digits()
    yield "python", "json/__init__.py", source
    yield (
        "json",
        "package.json",
        json.dumps({"names": list(digits.feature_names)}, indent=1).encode(),
    )
    yield (
        "html",
        "json.html",
        pydoc.HTMLDoc().page("json", pydoc.HTMLDoc().docmodule(json)).encode(),
    )
    yield "toml", "pyproject.toml", (REPOSITORY / "pyproject.toml").read_bytes()
    yield "zip", "json.zip", _zipped({"__init__.py": source})
    yield "gzip", "json.gz", gzip.compress(source, mtime=0)
    yield "tar", "json.tar", _tarred("json/__init__.py", source)
    yield "npy", "digits.npy", _saved(lambda stream: np.save(stream, digits.data[:64]))
    yield "pickle", "digits.pkl", pickle.dumps(digits.data[:64])
    yield "sqlite", "digits.db", _database(digits.target[:64].tolist())
    yield "wav", "tone.wav", _tone()
    yield "xml", "digits.xml", _marked_up(digits.target[:64].tolist())
    images = Path(sklearn.__file__).parent / "datasets"
    yield "csv", "iris.csv", (images / "data/iris.csv").read_bytes()
    yield "rst", "iris.rst", (images / "descr/iris.rst").read_bytes()
    yield "jpeg", "flower.jpg", (images / "images/flower.jpg").read_bytes()
    yield "png", "digit.png", _picture(digits.images[0])
    if sys.platform == "linux":
        yield "elf", "the Python interpreter", Path(sys.executable).resolve().read_bytes()


def _zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def _tarred(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _saved(write: Callable[[io.BytesIO], None]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _database(values: list[int]) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table digits (id integer primary key, label integer not null)")
    connection.executemany("insert into digits (label) values (?)", [(value,) for value in values])
    connection.commit()
    content = connection.serialize()
    connection.close()
    return content


def _tone() -> bytes:
    samples = (np.sin(np.arange(8000) * 0.345) * 20_000).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(samples.tobytes())
    return stream.getvalue()


def _picture(pixels: np.ndarray) -> bytes:
    """Return 8 x 8 pixels from 0 to 16 as a grey PNG."""
    rows = b"".join(b"\0" + row.tobytes() for row in (pixels * 15).astype(np.uint8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _marked_up(values: list[int]) -> bytes:
    root = ET.Element("digits")
    for index, value in enumerate(values):
        ET.SubElement(root, "digit", id=str(index)).text = str(value)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def build_silero_vad() -> Built:
    """Take the speech detector out of its package, without importing that, and a recording out of another."""
    distribution = importlib.metadata.distribution("silero-vad")
    model = Path(str(distribution.locate_file(SILERO_MODEL))).read_bytes()
    speech = importlib.metadata.distribution("useful-moonshine-onnx")
    rows = speech_windows(Path(str(speech.locate_file(SPEECH))))
    recording = Recording(
        rows=rows,
        expected=_probabilities(model, rows),
        titles=np.array(
            [f"{index * SILERO_WINDOW / SILERO_RATE_HZ:.3f} s" for index in range(len(rows))]
        ),
        rate_hz=SILERO_RATE_HZ,
    )
    description = f"Whether a window of 32 ms is speech: Silero VAD {distribution.version}"
    return Built(model, description, recording, SILERO_MANIFEST)


def speech_windows(path: Path) -> np.ndarray:
    """Return the whole windows of a 16-bit mono recording at 16 kHz, f32 [N, 576], as `Recording.rows`."""
    with wave.open(str(path)) as sound:
        form = sound.getnchannels(), sound.getsampwidth(), sound.getframerate()
        if form != (1, 2, SILERO_RATE_HZ):
            raise ValueError(f"{path} has channels, bytes and rate {form}; 1, 2, 16000 are needed")
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / np.float32(PCM_SCALE)
    padded = np.concatenate([np.zeros(SILERO_CONTEXT, np.float32), samples])
    whole = np.lib.stride_tricks.sliding_window_view(padded, SILERO_CONTEXT + SILERO_WINDOW)
    return whole[::SILERO_WINDOW].copy()


def _probabilities(model: bytes, rows: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    state = np.zeros(SILERO_STATE, np.float32)
    rate = np.array(SILERO_RATE_HZ)
    found: list[float] = []
    for row in rows:
        score, state = session.run(None, {"input": row[None], "state": state, "sr": rate})
        found.append(score[0, 0])
    return np.array(found, np.float32)


BUILDERS: dict[str, Callable[[], Built]] = {
    "digits": build_digits,
    "breast_cancer": build_breast_cancer,
    "magika": build_magika,
    "silero_vad": build_silero_vad,
}
SAMPLE_NAMES = ("digits", "breast_cancer")


def write(name: str, built: Built, models: Path) -> None:
    """Write one model in Triton's layout into `models`, and its cases into `cases` beside that.

    `labels.txt` in the model's folder names the classes, one a line, as Triton's label files do.
    """
    version = models / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "model.onnx").write_bytes(built.onnx)
    (models / name / "capamesh.toml").write_text(
        f'description = "{built.description}"\n{built.manifest}'
    )
    if isinstance(built.cases, Cases):
        (models / name / "labels.txt").write_text("\n".join(built.cases.names.tolist()) + "\n")
    built.cases.save(models.parent / "cases" / f"{name}.npz")


def decisions(models: Path, name: str, cases: Cases) -> np.ndarray:
    """Return the class that the model in `models` gives to each case, int64 [N], as a node would."""
    model = OnnxBackend().load(_source(models, name))
    inputs = [Tensor.from_numpy(cases.input, cases.rows)]
    model.validate(inputs, [cases.output])
    (scores,) = model.run(inputs, [cases.output])
    return scores.to_numpy().argmax(axis=1)


def _source(models: Path, name: str) -> ModelSource:
    return next(source for source in scan(models).models if source.name == name)


def main() -> int:
    """Build what is asked for and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--into", type=Path, default=REPOSITORY / "build/models")
    parser.add_argument("--only", choices=BUILDERS, action="append", help="may be repeated")
    parser.add_argument("--samples", action="store_true", help=f"write into {SAMPLES.name}/")
    options = parser.parse_args()
    models = SAMPLES / "models" if options.samples else options.into
    names = SAMPLE_NAMES if options.samples else options.only or tuple(BUILDERS)
    print(f"{'model':<16}{'bytes':>10}{'cases':>7}{'right':>7}  description")
    for name in names:
        try:
            built = BUILDERS[name]()
        except importlib.metadata.PackageNotFoundError:
            print(f"{name:<16}left out: pip install --no-deps -r requirements/models.txt")
            if options.only:
                return 1
            continue
        write(name, built, models)
        right = built.cases.right(models, name)
        print(
            f"{name:<16}{len(built.onnx):>10}{len(right):>7}{right.mean():>7.3f}  {built.description}"
        )
        for title in built.cases.titles[~right] if len(right) < 100 else ():
            print(f"{'':<16}wrong: {title}")
    print(f"models: {models}\ncases:  {models.parent / 'cases'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
