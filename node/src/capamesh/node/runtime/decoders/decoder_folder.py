"""Reads the folder of a language model, and says what is missing from it and what to do. Reads files, loads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from capamesh.node.runtime.decoders.genai_config import GenaiConfig, parse_genai_config
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.schema import Meta, Mismatch, Struct, json_value, read

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource

CONFIG_FILE: Final = "genai_config.json"
TOKENIZER_FILE: Final = "tokenizer.json"
TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
TEMPLATE_FILE: Final = "chat_template.jinja"

MAX_CONFIG_BYTES: Final = 2**20  # guess: those of models with 128 layers have 20 KB
MAX_TOKENIZER_CONFIG_BYTES: Final = 16 * 2**20  # guess: some list all of their added tokens
MAX_TEMPLATE_CHARS: Final = 2**20  # guess: the longest have 20,000
_SPECIAL: Final = ("bos_token", "eos_token", "pad_token", "unk_token")
_HOW: Final = (
    "make the folder with capamesh model import-llm, or with onnxruntime-genai's model builder"
)


@dataclass(frozen=True, slots=True)
class DecoderFolder:
    """The folder of one language model: what it takes to generate texts with it."""

    path: Path
    config: GenaiConfig
    chat_template: str
    """The Jinja template that makes a prompt of messages; empty: the model continues texts alone."""
    special_tokens: dict[str, str] = field(default_factory=dict[str, str])
    """The texts of "bos_token", "eos_token", "pad_token" and "unk_token", of those that there are; templates use them."""

    @property
    def onnx_file(self) -> Path:
        """Return the path of the decoder's ONNX file."""
        return self.path / self.config.onnx_file

    @property
    def tokenizer_file(self) -> Path:
        """Return the path of the tokenizer's file, as Hugging Face's tokenizers read it."""
        return self.path / TOKENIZER_FILE


class _Named(Struct, frozen=True):
    """A special token with how it is looked for."""

    content: str


class _Template(Struct, frozen=True):
    """One of several templates."""

    name: str
    template: str


class _TokenizerConfig(Struct, frozen=True):
    """The keys of `tokenizer_config.json` that are read."""

    bos_token: str | _Named | None = None
    eos_token: str | _Named | None = None
    pad_token: str | _Named | None = None
    unk_token: str | _Named | None = None
    chat_template: str | Annotated[tuple[_Template, ...], Meta(max_length=64)] | None = None


def read_decoder_folder(folder: Path) -> DecoderFolder:
    """Return what is in `folder`.

    Raises ModelInvalid: a file is missing, too large, or not as it must be.
    """
    config = parse_genai_config(_read(folder, CONFIG_FILE, MAX_CONFIG_BYTES), CONFIG_FILE)
    for name in (config.onnx_file, TOKENIZER_FILE):
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelInvalid(f"{name!r} is not in the model's folder: {_HOW}")
    said = _tokenizer_config(folder)
    return DecoderFolder(folder, config, _template(folder, said), _special(said))


def decoder_of(source: ModelSource) -> DecoderFolder:
    """Return the folder of a model that a scan found; its files may change afterwards, see `VerifiedContent.reading`.

    Raises ModelInvalid: as `read_decoder_folder`, the ONNX file is another one, or no operator of it keeps sequences apart.
    """
    found = read_decoder_folder(source.path.parent)
    if found.onnx_file != source.path:
        raise ModelInvalid(
            f"{CONFIG_FILE}: the decoder is in {found.config.onnx_file!r}, and the version's file is {source.path.name!r}:"
            " give both one name"
        )
    if not source.content.onnx.has_slots:
        raise ModelInvalid(
            "the decoder has no operator GroupQueryAttention, by which a node keeps the sequences of a batch apart:"
            " onnxruntime-genai's model builder makes it with -e cpu for int4, int8 and fp32, and of fp16 with -e cuda: build the"
            " folder anew with one of these"
        )
    return found


def _read(folder: Path, name: str, most: int) -> bytes:
    try:
        with (folder / name).open("rb") as stream:
            raw = stream.read(most + 1)
    except FileNotFoundError as exc:
        raise ModelInvalid(f"{name!r} is not in the model's folder: {_HOW}") from exc
    except OSError as exc:
        raise ModelInvalid(f"{name} cannot be read: {exc.strerror}") from exc
    if len(raw) > most:
        raise ModelInvalid(f"{name} has more than {most} bytes")
    return raw


def _tokenizer_config(folder: Path) -> _TokenizerConfig:
    if not (folder / TOKENIZER_CONFIG_FILE).exists():
        return _TokenizerConfig()
    raw = _read(folder, TOKENIZER_CONFIG_FILE, MAX_TOKENIZER_CONFIG_BYTES)
    try:
        return read(json_value(raw), _TokenizerConfig)
    except Mismatch as exc:
        raise ModelInvalid(f"{TOKENIZER_CONFIG_FILE}: {exc}") from exc


def _template(folder: Path, said: _TokenizerConfig) -> str:
    """Return the chat template: that of a file of its own before that of the tokenizer's settings."""
    if (folder / TEMPLATE_FILE).exists():
        raw = _read(folder, TEMPLATE_FILE, 4 * MAX_TEMPLATE_CHARS)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ModelInvalid(f"{TEMPLATE_FILE} is not UTF-8") from exc
    elif isinstance(said.chat_template, tuple):
        text = next((one.template for one in said.chat_template if one.name == "default"), "")
    else:
        text = said.chat_template or ""
    if len(text) > MAX_TEMPLATE_CHARS:
        raise ModelInvalid(
            f"the chat template has {len(text)} characters; at most {MAX_TEMPLATE_CHARS} are allowed"
        )
    return text


def _special(said: _TokenizerConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _SPECIAL:
        token: str | _Named | None = getattr(said, name)
        if token is not None:
            found[name] = token if isinstance(token, str) else token.content
    return found
