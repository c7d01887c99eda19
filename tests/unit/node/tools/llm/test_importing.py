"""A source becomes a folder that a node's scan takes, with a report; where it fails, nothing is left behind."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf_writer
import pytest
import tiny_llama
from model_files import write_onnx
from text_models import encoder

from capamesh.node.repository import scan
from capamesh.node.runtime.decoders.decoder_folder import decoder_of
from capamesh.node.tools.llm import genai_builder
from capamesh.node.tools.llm.importing import STAGES, ImportOrder, import_llm
from capamesh.node.tools.llm.quantising import WeightKind
from capamesh.node.tools.llm.report import ImportReport
from capamesh.protocol.errors import ConfigError, ModelInvalid


def done(order: ImportOrder, **how: Any) -> tuple[ImportReport, Path]:
    """Import by a clock that is a second further each time."""
    count = itertools.count()
    return import_llm(order, clock_s=lambda: float(next(count)), **how)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "Tiny.Q4_1.gguf"
    path.write_bytes(tiny_llama.gguf(gguf_writer.Q4_1, token_embd=gguf_writer.Q8_0))
    return path


@pytest.fixture
def genai(tmp_path: Path) -> Path:
    """Return a folder as onnxruntime-genai's builder writes it: lengths by a mask, all logits, another file's name."""
    folder = tmp_path / "tiny-onnx"
    tiny_llama.write_genai_folder(folder)
    return folder


def left(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir()) if models.exists() else []


@pytest.mark.seeds
@pytest.mark.parametrize("kind", list(WeightKind))
def test_gguf_becomes_a_node_s_folder(source: Path, tmp_path: Path, kind: WeightKind) -> None:
    stages: list[str] = []
    report, folder = done(
        ImportOrder(source, tmp_path / "models", kind),
        tell=lambda what, part: stages.append(what) if 0 <= part <= 1 else None,
    )
    assert folder == tmp_path / "models" / f"Tiny-{kind}" / "1"
    (model,) = scan(tmp_path / "models").models
    assert decoder_of(model).chat_template == tiny_llama.TEMPLATE
    configs = ("genai_config", "generation_config", "special_tokens_map", "tokenizer_config")
    others = {"LICENSE", "chat_template.jinja", "model.onnx", "model.onnx.data", "tokenizer.json"}
    assert {file.name for file in model.files} == others | {f"{name}.json" for name in configs}
    assert "Licence: apache-2.0" in (folder / "LICENSE").read_text()
    assert (report.name, report.version, report.digest) == (model.name, "1", model.digest)
    assert (report.architecture, report.weights) == ("llama", str(kind))
    assert report.size_bytes == model.size_bytes
    assert report.source_bytes == source.stat().st_size
    assert report.parameters == sum(array.size for array in tiny_llama.weights().values())
    assert (report.score.decode_tokens_per_s, report.score.tokens) == (1.0, 479)
    assert report.score.prompt_tokens_per_s == 480.0
    assert report.comparison.loss == pytest.approx(report.score.loss, rel=0.05)
    assert report.comparison.agreement > (0.99 if kind.startswith("fp") else 0.75)
    assert len(dict.fromkeys(stages)) == (STAGES if kind is WeightKind.W8A8 else STAGES - 1)
    written = json.loads((folder.parent / "report.json").read_text())
    assert written == json.loads(json.dumps(report.to_json()))
    assert left(tmp_path / "models") == [f"Tiny-{kind}"]


def test_four_bits_are_told_to_be_the_sources_own(source: Path, tmp_path: Path) -> None:
    report, _ = done(ImportOrder(source, tmp_path / "models", WeightKind.Q4, is_compared=False))
    assert report.notes == ("blocks of 4 bits are the source's own, to the bit",)
    assert report.comparison is None
    source.write_bytes(tiny_llama.gguf(gguf_writer.Q4_1, attn_v=gguf_writer.Q8_0))
    report, _ = done(ImportOrder(source, tmp_path / "mixed", WeightKind.Q4, is_compared=False))
    assert report.notes[1] == "2 of 14 matrices have more than 4 bits in the source, and have 8"


def test_earlier_import_is_replaced_only_where_asked(source: Path, tmp_path: Path) -> None:
    order = ImportOrder(source, tmp_path / "models", name="a", is_compared=False)
    first, _ = done(order)
    with pytest.raises(ConfigError, match="replace it with --force"):
        done(order)
    second, folder = done(replace(order, weights=WeightKind.Q4, may_replace=True))
    assert first.digest != second.digest == scan(tmp_path / "models").models[0].digest
    assert json.loads((folder.parent / "report.json").read_text())["weights"] == "q4"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda raw: raw[:-500], "the GGUF file is cut off"),
        (lambda raw: raw.replace(b"llama.block_count", b"llama.block_xount"), "is missing"),
        (lambda raw: raw[: len(raw) // 2] + b"\xff" * (len(raw) - len(raw) // 2), "are no numbers"),
        (lambda raw: raw.replace(b"<|unused1|>", b"<|unused0|>"), "has 1 tokens twice"),
    ],
)
def test_broken_source_is_no_model(
    source: Path, tmp_path: Path, change: Callable[[bytes], bytes], error: str
) -> None:
    source.write_bytes(change(tiny_llama.gguf(gguf_writer.F32)))
    with pytest.raises(ModelInvalid, match=error):
        done(ImportOrder(source, tmp_path / "models", WeightKind.FP32))
    assert left(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("no.gguf", "does not exist; give a .gguf file, a folder that"),
        ("empty", "is no folder of a model; give a .gguf file"),
    ],
)
def test_source_that_is_none_is_told_what_may_be_one(tmp_path: Path, name: str, error: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=error):
        done(ImportOrder(tmp_path / name, tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_source_may_be_called_anything(tmp_path: Path) -> None:
    source = tmp_path / 'a "quoted" \N{GRINNING FACE}\x7f\n.gguf'
    source.write_bytes(tiny_llama.gguf())
    done(ImportOrder(source, tmp_path / "models", name="a", is_compared=False))
    (model,) = scan(tmp_path / "models").models
    assert model.manifest.description.startswith('Imported from a "quoted" \N{GRINNING FACE}')


@pytest.mark.parametrize(
    ("breaking", "error"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "'tokenizer.json' is not in"),
        (lambda folder: write_onnx(folder / "decoder.onnx", encoder()), "no operator GroupQuery"),
        (lambda folder: changed(folder, vocab_size=500), "512 tokens, and the model logits of 500"),
        (lambda folder: changed(folder, context_length=20), "a context of 20 tokens; at least 34"),
        (lambda folder: changed(folder, decoder={"head_size": 8}), "the decoder does not run"),
    ],
)
def test_folder_that_does_not_fit_together_is_refused(
    genai: Path, tmp_path: Path, breaking: Callable[[Path], object], error: str
) -> None:
    breaking(genai)
    with pytest.raises(ModelInvalid, match=error):
        done(ImportOrder(genai, tmp_path / "models"))
    assert left(tmp_path / "models") == []


def changed(folder: Path, decoder: dict[str, Any] | None = None, **values: Any) -> None:
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"] |= values
    config["model"]["decoder"] |= decoder or {}
    (folder / "genai_config.json").write_text(json.dumps(config))


@pytest.fixture
def hugging_face(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-hf"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    (folder / "LICENSE.txt").write_text("Apache-2.0")
    return folder


PRECISIONS = {
    WeightKind.Q4: ("int4", "cpu"),
    WeightKind.Q8: ("int8", "cpu"),
    WeightKind.FP16: ("fp16", "cuda"),
    WeightKind.FP32: ("fp32", "cpu"),
}


@pytest.mark.parametrize("kind", PRECISIONS)
def test_folder_of_hugging_face_goes_through_the_builder(
    hugging_face: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: WeightKind
) -> None:
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        out = Path(command[command.index("-o") + 1])
        tiny_llama.write_genai_folder(out, onnx_name="model.onnx")
        (out / ".cache").mkdir()
        return subprocess.CompletedProcess(command, 0, "", "")

    build = partial(genai_builder.build, run=run, is_installed=lambda _: True)
    monkeypatch.setattr(genai_builder, "build", build)
    report, folder = done(ImportOrder(hugging_face, tmp_path / "models", kind))
    (command,) = asked
    assert list(command[1:5]) == ["-m", "onnxruntime_genai.models.builder", "-i", str(hugging_face)]
    said = tuple(command[command.index(option) + 1] for option in ("-p", "-e"))
    assert said == PRECISIONS[kind]
    assert command[-2:] == ["--extra_options", "prune_lm_head=true"]
    assert (report.name, report.weights) == (f"tiny-hf-{kind}", str(kind))
    assert (folder / "LICENSE.txt").read_text() == "Apache-2.0"
    assert not (folder / ".cache").exists()


def test_builder_is_given_no_weights_that_may_run_code(hugging_face: Path, tmp_path: Path) -> None:
    (hugging_face / "model.safetensors").rename(hugging_face / "pytorch_model.bin")
    with pytest.raises(ModelInvalid, match=r"no weights as \.safetensors"):
        genai_builder.build(hugging_face, tmp_path, WeightKind.FP32, is_installed=lambda _: True)
