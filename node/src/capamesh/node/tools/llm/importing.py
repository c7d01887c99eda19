"""Makes a model that a node generates texts from out of a source, and measures it. Reads, runs and writes models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from capamesh.node.repository import scan
from capamesh.node.repository.folder_files import MANIFEST_FILE
from capamesh.node.repository.rule_checks import MODEL_NAME
from capamesh.node.runtime.decoders.decoder_folder import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    decoder_of,
)
from capamesh.node.runtime.onnxruntime.binding import ort
from capamesh.node.runtime.tasks.task import PackageMissing
from capamesh.node.runtime.tasks.tokenizers import TextTokenizer
from capamesh.node.tools.llm import genai_builder
from capamesh.node.tools.llm.decoder_graph import write_decoder
from capamesh.node.tools.llm.genai_files import licence_of, write_files
from capamesh.node.tools.llm.genai_folder import take_over
from capamesh.node.tools.llm.gguf_file import GgufFile, read_gguf
from capamesh.node.tools.llm.gguf_llama import LlamaWeights, read_llama
from capamesh.node.tools.llm.gguf_tokenizer import special_tokens, tokenizer_json
from capamesh.node.tools.llm.quantising import Form, WeightKind, form_of
from capamesh.node.tools.llm.reference import reference_logits
from capamesh.node.tools.llm.report import Comparison, ImportReport
from capamesh.node.tools.llm.sample_text import OTHER_TEXT, SAMPLE_TEXT
from capamesh.node.tools.llm.scoring import (
    DECODE_STEPS,
    MAX_TOKENS,
    TrialDecoder,
    compared,
    score,
)
from capamesh.node.tools.llm.smoothing import smoothed
from capamesh.node.tools.optimise.onnx_files import require_onnx
from capamesh.node.tools.optimise.placing import REPORT_FILE, Building, Place
from capamesh.protocol.errors import ConfigError, ModelInvalid
from capamesh.protocol.plain_text import plain

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource

STAGES: Final = 5
"""The most stages that `tell` hears of."""
VERSION: Final = "1"
_QUANTISATION: Final = re.compile(
    r"[-._](?:I?Q[0-9]\w*|T?F(?:P)?(?:16|32)|BF16)$", re.IGNORECASE | re.ASCII
)
"""The end of a file's name that says of how many bits the source is."""
_SOURCES: Final = (
    "give a .gguf file, a folder that onnxruntime-genai's builder wrote (with genai_config.json), or one of"
    " Hugging Face (with config.json)"
)

Tell = Callable[[str, float], None]
"""The type of a function that hears which stage goes on, and which part of it is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """The order to import a model: what is wanted."""

    source: Path
    to: Path
    """The folder of models that takes the new one."""
    weights: WeightKind | None = None
    """The kind of weights; None: 8 bits of a GGUF file, and those of a folder that was made already."""
    name: str = ""
    """The model's name; "": as the source is called."""
    may_replace: bool = False
    is_linked: bool = False
    """True if files of a folder that was made already are linked, not copied."""
    is_compared: bool = True
    """True if the source is run too, in 32 bits, and the model held against it."""
    threads: int = 1


@dataclass(frozen=True, slots=True)
class _Imported:
    """The model that was made, before it was run."""

    weights: LlamaWeights | None
    """The source's weights where it can be run in 32 bits."""
    kind: str
    notes: tuple[str, ...]


def import_llm(
    order: ImportOrder, *, clock_s: Callable[[], float], tell: Tell = lambda _what, _part: None
) -> tuple[ImportReport, Path]:
    """Write `NAME/1/` with the model's files and its manifest, and a report beside it; return the report and that folder.

    The source stays as it is. Where it fails nothing is left behind.
    Raises:
        ConfigError: the source cannot be read, the place is taken, or a package is missing.
        ModelInvalid: the source cannot be converted, or what was made of it does not run.
    """
    name = order.name or default_name(order.source, order.weights)
    if not MODEL_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no model name: 1 to 256 letters, digits, '.', '_' and '-', no dot first; give --name"
        )
    place = Place(order.to, name, VERSION)
    place.check_free(may_replace=order.may_replace)
    # Weights that are no numbers are told of once the model has run.
    with place.building() as building, np.errstate(all="ignore"):
        imported = _import(order, building, tell)
        _write_manifest(building, order.source)
        source = _scanned(building)
        report = _measured(order, source, imported, clock_s, tell)
        text = json.dumps(report.to_json(), indent=1, allow_nan=False)
        (building.model_folder / REPORT_FILE).write_text(f"{text}\n", encoding="utf-8")
        place.take(building)
    return report, place.path


def default_name(source: Path, kind: WeightKind | None) -> str:
    """Return what a model is called where nobody says: as its source, with the kind of weights that are made of it."""
    is_file = source.is_file()
    stem = _QUANTISATION.sub("", source.stem) if is_file else source.resolve().name
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")
    kind = kind or (WeightKind.Q8 if is_file else None)
    return f"{stem}-{kind}" if kind is not None and stem else stem


def _import(order: ImportOrder, building: Building, tell: Tell) -> _Imported:
    """Write the files of the version, by what the source is."""
    source, folder = order.source, building.version_folder
    if source.is_file():
        return _from_gguf(source, order.weights or WeightKind.Q8, building, tell)
    if (source / CONFIG_FILE).is_file():
        if order.weights is not None:
            raise ConfigError(
                f"{source} was made by onnxruntime-genai's builder already and keeps its weights: leave --weights out"
            )
        tell("taking over the files", 0.0)
        take_over(source, folder, is_linked=order.is_linked)
        return _Imported(None, "", ())
    if (source / "config.json").is_file():
        tell("running onnxruntime-genai's builder", 0.0)
        genai_builder.build(source, folder, order.weights)
        return _Imported(None, str(order.weights or ""), ())
    said = "is no folder of a model" if source.exists() else "does not exist"
    raise ConfigError(f"{source} {said}; {_SOURCES}")


def _from_gguf(path: Path, kind: WeightKind, building: Building, tell: Tell) -> _Imported:
    require_onnx()
    tell("reading the GGUF file", 0.0)
    file = read_gguf(path)
    weights = read_llama(file)
    special = special_tokens(file)
    template = file.text("tokenizer.chat_template", default="")
    write_files(
        building.version_folder,
        onnx_name=building.onnx_file.name,
        shape=weights.shape,
        special=special,
        tokenizer=tokenizer_json(file, special),
        template=template,
        licence=licence_of(file),
    )
    made = weights
    if kind is WeightKind.W8A8:
        tokenizer_file = building.version_folder / TOKENIZER_FILE
        ids = _sample_ids(
            OTHER_TEXT, tokenizer_file, weights.shape.vocabulary, weights.shape.context
        )
        smoothing = "running the source to smooth its weights"
        made = smoothed(weights, ids, tell=lambda part: tell(smoothing, part))
    stage = f"writing the weights as {kind}"
    write_decoder(made, kind, building.onnx_file, tell=lambda part: tell(stage, part))
    return _Imported(weights, str(kind), tuple(_notes(file, weights, kind, template)))


def _notes(file: GgufFile, weights: LlamaWeights, kind: WeightKind, template: str) -> list[str]:
    """Return what a person should know of a conversion."""
    notes: list[str] = []
    if not template:
        notes.append(
            "the source has no chat template: the model continues texts, and takes no messages"
        )
    if not licence_of(file):
        notes.append("the source names no licence: find out whether you may serve the model")
    if kind is WeightKind.Q4 and weights.has_four_bits:
        matrices = [
            name
            for name, shape in weights.shape.tensors().items()
            if len(shape) == 2 and ".blk" in f".{name}"
        ]
        widened = sum(form_of(weights, name, kind) is Form.EIGHT for name in matrices)
        notes.append("blocks of 4 bits are the source's own, to the bit")
        if widened:
            notes.append(
                f"{widened} of {len(matrices)} matrices have more than 4 bits in the source, and have 8"
            )
    return notes


def _write_manifest(building: Building, source: Path) -> None:
    name = plain(
        source.name.encode("utf-8", "replace").decode()
    )  # TOML takes no control characters
    description = json.dumps(f"Imported from {name}", ensure_ascii=False)
    (building.model_folder / MANIFEST_FILE).write_text(
        f'description = {description}\ntask = "chat"\n', encoding="utf-8"
    )


def _scanned(building: Building) -> ModelSource:
    found = scan(building.root)
    if found.refused:
        raise ModelInvalid(f"a node would refuse the model: {found.refused[0].reason}")
    return found.models[0]


def _measured(
    order: ImportOrder,
    source: ModelSource,
    imported: _Imported,
    clock_s: Callable[[], float],
    tell: Tell,
) -> ImportReport:
    folder = decoder_of(source)
    tell("running it", 0.0)
    ids = _sample_ids(
        SAMPLE_TEXT, folder.tokenizer_file, folder.config.vocabulary, folder.config.context
    )
    decoder = TrialDecoder(folder, threads=order.threads, length=len(ids) + DECODE_STEPS)
    found, logits = score(decoder, ids, clock_s=clock_s)
    comparison: Comparison | None = None
    if imported.weights is not None and order.is_compared:
        stage = "running the source in 32 bits"
        reference = reference_logits(imported.weights, ids, tell=lambda part: tell(stage, part))
        comparison = compared(logits, reference, ids)
    shape = None if imported.weights is None else imported.weights.shape
    return ImportReport(
        source.name,
        source.version,
        source.digest,
        str(order.source),
        folder.config.architecture,
        imported.kind,
        0 if shape is None else shape.parameters,
        source.size_bytes,
        _size_bytes(order.source),
        found,
        comparison,
        f"onnxruntime {ort.__version__}",
        imported.notes,
    )


def _sample_ids(text: str, tokenizer_file: Path, vocabulary: int, context: int) -> list[int]:
    """Return the tokens of a text that a model is measured by. Raises ModelInvalid: the tokenizer is not this model's."""
    try:
        tokenizer = TextTokenizer(
            tokenizer_file.read_bytes(), max_tokens=context, is_truncated=False
        )
    except PackageMissing as exc:
        raise ConfigError(
            "this needs the tokenizers package; run: pip install 'capamesh[tasks]'"
        ) from exc
    if tokenizer.vocabulary > vocabulary:
        raise ModelInvalid(
            f"the tokenizer has {tokenizer.vocabulary} tokens, and the model logits of {vocabulary}: it is another model's"
        )
    (ids,) = tokenizer.encode([text])
    room = min(MAX_TOKENS, context - DECODE_STEPS)
    if room < 2:
        raise ModelInvalid(
            f"the model has a context of {context} tokens; at least {DECODE_STEPS + 2} are needed"
        )
    return ids[:room]


def _size_bytes(source: Path) -> int:
    files = [source] if source.is_file() else list(source.iterdir())
    return sum(path.stat().st_size for path in files if path.is_file())
