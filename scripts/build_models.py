"""Builds the sample models and their test cases into a folder that a node can serve.

    python scripts/build_models.py                 # build/models and build/cases
    python scripts/build_models.py --samples       # into the `capamesh` package, which carries them all

`digits` and `breast_cancer` are trained here in a second, on data that scikit-learn carries; `magika`
(file types) and `silero_vad` (speech, window by window) are copied out of the packages of those names
(`pip install --no-deps -r requirements/models.txt`).
What a case is says `model_cases`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from model_cases import SILERO_STATE, Cases, Recording
from sample_files import file_cases
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

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
SILERO_WINDOW = 512  # these are the model's own, from its package's utils_vad.py
SILERO_CONTEXT = 64
SILERO_RATE_HZ = 16_000
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


def main() -> int:
    """Build what is asked for and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--into", type=Path, default=REPOSITORY / "build/models")
    parser.add_argument("--only", choices=BUILDERS, action="append", help="may be repeated")
    parser.add_argument("--samples", action="store_true", help=f"write into {SAMPLES.name}/")
    options = parser.parse_args()
    models = SAMPLES / "models" if options.samples else options.into
    names = options.only or tuple(BUILDERS)
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
