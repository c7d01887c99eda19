"""Reads `genai_config.json`, which says how a decoder is run: its names, sizes and defaults. Pure: bytes in, a value out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated, Final, TypeAlias

from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.schema import Meta, Mismatch, Struct, json_value, read

MAX_LAYERS: Final = 1024  # guess: the largest have 126
MAX_HEADS: Final = 4096
MAX_SIZE: Final = 2**20  # guess: the largest hidden size is 16,384
MAX_CONTEXT: Final = 2**24  # guess: the longest contexts are 10 million tokens
MAX_VOCABULARY: Final = 2**22  # guess: vocabularies have up to 262,144 tokens
MAX_ENDS: Final = 64  # guess: models have one to three

_Size: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
_Optional: TypeAlias = Annotated[str, Meta(max_length=256)]
_Pattern: TypeAlias = Annotated[str, Meta(pattern=r"^[^%]{0,200}%d[^%]{0,200}$")]
_Id: TypeAlias = Annotated[int, Meta(ge=0, lt=MAX_VOCABULARY)]


@dataclass(frozen=True, slots=True)
class DecoderInputs:
    """The names of a decoder's inputs; empty: it has no such input.

    A decoder is told how long its sequences are in one of two ways: by `attention_mask`, i64 [sequences, slot length] of ones and zeros
    (and `position_ids`, i64 [sequences, tokens], with some), or by `seqlens_k`, i32 [sequences], and `total_sequence_length`, i32 [1].
    """

    input_ids: str
    past_keys: str
    """The name of a layer's keys, with %d for the layer's number; so is the next."""
    past_values: str
    attention_mask: str
    position_ids: str
    seqlens_k: str
    total_sequence_length: str
    rows: str
    """The input, i64 [rows], of the places whose logits are wanted; empty: a decoder gives those of all tokens, or of the last."""


@dataclass(frozen=True, slots=True)
class DecoderOutputs:
    """The names of a decoder's outputs."""

    logits: str
    present_keys: str
    """The name of a layer's keys, with %d for the layer's number; so is the next."""
    present_values: str


@dataclass(frozen=True, slots=True)
class SearchDefaults:
    """The way in which tokens are chosen where a request does not say."""

    is_sampled: bool
    """True if tokens are drawn by chance; false: the most likely one is taken."""
    temperature: float
    top_k: int
    """The number of likely tokens of which one is drawn; 0: all."""
    top_p: float
    repetition_penalty: float
    max_length: int
    """The most tokens of a sequence, its prompt included."""


@dataclass(frozen=True, slots=True)
class GenaiConfig:
    """The decoder that the file is of: names, sizes and defaults."""

    architecture: str
    """The architecture's name, for people: any will do whose decoder has the inputs and outputs above."""
    onnx_file: str
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    hidden_size: int
    vocabulary: int
    """The number of logits of a token; a tokenizer may have fewer tokens."""
    context: int
    """The most tokens of a sequence."""
    bos_id: int | None
    end_ids: tuple[int, ...]
    """The tokens that end an answer, one or more."""
    pad_id: int | None
    inputs: DecoderInputs
    outputs: DecoderOutputs
    search: SearchDefaults

    def past_names(self) -> list[str]:
        """Return the inputs of the cache: the keys and the values of the first layer, then those of the next."""
        pair = (self.inputs.past_keys, self.inputs.past_values)
        return [name % layer for layer in range(self.layers) for name in pair]

    def present_names(self) -> list[str]:
        """Return the outputs of the cache, in the order of `past_names`."""
        pair = (self.outputs.present_keys, self.outputs.present_values)
        return [name % layer for layer in range(self.layers) for name in pair]

    def run_with(self, inputs: Collection[str]) -> GenaiConfig:
        """Return how a decoder is run that has these inputs: the file may name `position_ids` of one that counts them itself.

        Raises ModelInvalid: it lacks an input that the file names, or has one that a node cannot fill.
        """
        told = self.inputs
        if told.position_ids not in inputs:
            told = replace(told, position_ids="")
        given = (
            told.input_ids,
            told.attention_mask,
            told.position_ids,
            told.seqlens_k,
            told.total_sequence_length,
            told.rows,
        )
        wanted = [*filter(None, given), *self.past_names()]
        for name in wanted:
            if name not in inputs:
                raise ModelInvalid(
                    f"the decoder has no input {name!r}, which genai_config.json names: export both anew"
                )
        others = sorted(set(inputs).difference(wanted))
        if others:
            raise ModelInvalid(
                f"the decoder has the input {others[0]!r}, which a node cannot fill: it serves models that take tokens alone, no"
                " pictures and no sound, and keep keys and values of them; take another model, or one that was exported so"
            )
        return replace(self, inputs=told)


class _Inputs(Struct, frozen=True):
    """The table of inputs; missing names are onnxruntime-genai's own."""

    input_ids: _Name = "input_ids"
    past_key_names: _Pattern = "past_key_values.%d.key"
    past_value_names: _Pattern = "past_key_values.%d.value"
    attention_mask: _Optional = ""
    position_ids: _Optional = ""
    seqlens_k: _Optional = ""
    total_sequence_length: _Optional = ""
    rows: _Optional = ""


class _Outputs(Struct, frozen=True):
    """The table of outputs; missing names are onnxruntime-genai's own."""

    logits: _Name = "logits"
    present_key_names: _Pattern = "present.%d.key"
    present_value_names: _Pattern = "present.%d.value"


class _Decoder(Struct, frozen=True):
    """The table of the decoder."""

    filename: _Name
    num_hidden_layers: Annotated[int, Meta(ge=1, le=MAX_LAYERS)]
    num_attention_heads: Annotated[int, Meta(ge=1, le=MAX_HEADS)]
    num_key_value_heads: Annotated[int, Meta(ge=1, le=MAX_HEADS)]
    head_size: _Size
    hidden_size: _Size = 1
    inputs: _Inputs = _Inputs()
    outputs: _Outputs = _Outputs()


class _Model(Struct, frozen=True):
    """The table of the model."""

    decoder: _Decoder
    vocab_size: Annotated[int, Meta(ge=1, le=MAX_VOCABULARY)]
    context_length: Annotated[int, Meta(ge=2, le=MAX_CONTEXT)]
    eos_token_id: _Id | Annotated[tuple[_Id, ...], Meta(min_length=1, max_length=MAX_ENDS)]
    bos_token_id: _Id | Annotated[tuple[_Id, ...], Meta(max_length=MAX_ENDS)] | None = None
    pad_token_id: _Id | None = None
    type: Annotated[str, Meta(max_length=256)] = ""


class _Search(Struct, frozen=True):
    """The table of defaults."""

    do_sample: bool = False
    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=MAX_VOCABULARY)] = 50
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    max_length: Annotated[int, Meta(ge=0, le=MAX_CONTEXT)] = 0


class _File(Struct, frozen=True):
    """The whole file."""

    model: _Model
    search: _Search = _Search()


def parse_genai_config(raw: bytes, file: str) -> GenaiConfig:
    """Return what `raw`, JSON in UTF-8, says.

    Raises ModelInvalid, which names `file`: it is no JSON, a value is missing, of the wrong type or over its limit, or values contradict
    each other.
    """
    try:
        said = read(json_value(raw), _File)
    except Mismatch as exc:
        raise ModelInvalid(f"{file}: {exc}") from exc
    model, decoder, search = said.model, said.model.decoder, said.search
    if decoder.num_attention_heads % decoder.num_key_value_heads:
        raise ModelInvalid(
            f"{file}: {decoder.num_attention_heads} heads are no multiple of {decoder.num_key_value_heads} heads of keys"
        )
    ends = model.eos_token_id if isinstance(model.eos_token_id, tuple) else (model.eos_token_id,)
    # a file may name several beginnings, of which the first is the one that texts begin with
    begins = model.bos_token_id if isinstance(model.bos_token_id, tuple) else (model.bos_token_id,)
    config = GenaiConfig(
        model.type,
        decoder.filename,
        decoder.num_hidden_layers,
        decoder.num_attention_heads,
        decoder.num_key_value_heads,
        decoder.head_size,
        decoder.hidden_size,
        model.vocab_size,
        model.context_length,
        begins[0] if begins else None,
        ends,
        model.pad_token_id,
        _inputs(decoder.inputs, file),
        DecoderOutputs(
            decoder.outputs.logits,
            decoder.outputs.present_key_names,
            decoder.outputs.present_value_names,
        ),
        SearchDefaults(
            search.do_sample,
            search.temperature,
            search.top_k,
            search.top_p,
            search.repetition_penalty,
            min(search.max_length or model.context_length, model.context_length),
        ),
    )
    outside = [number for number in (*ends, config.bos_id) if (number or 0) >= config.vocabulary]
    if outside:
        raise ModelInvalid(
            f"{file}: token {outside[0]} is special, and the model has the tokens 0 to {config.vocabulary - 1}"
        )
    return config


def _inputs(table: _Inputs, file: str) -> DecoderInputs:
    if bool(table.attention_mask) == bool(table.seqlens_k):
        raise ModelInvalid(
            f"{file}: model.decoder.inputs must have one of attention_mask and seqlens_k, by which a decoder is told how long its"
            " sequences are"
        )
    if table.seqlens_k and not table.total_sequence_length:
        raise ModelInvalid(
            f"{file}: model.decoder.inputs has seqlens_k and no total_sequence_length"
        )
    return DecoderInputs(
        table.input_ids,
        table.past_key_names,
        table.past_value_names,
        table.attention_mask,
        table.position_ids,
        table.seqlens_k,
        table.total_sequence_length if table.seqlens_k else "",
        table.rows,
    )
