"""What `genai_config.json` says is read with its bounds, and what it lacks is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from capamesh.node.runtime.decoders.genai_config import GenaiConfig, parse_genai_config
from capamesh.protocol.errors import ModelInvalid

FILE = "genai_config.json"


def said(**changes: Any) -> dict[str, Any]:
    """Return a file as onnxruntime-genai's builder writes it, with values at paths such as model__decoder__filename."""
    whole: dict[str, Any] = {
        "model": {
            "bos_token_id": 1,
            "context_length": 8192,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "head_size": 64,
                "hidden_size": 576,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": 9,
                "num_hidden_layers": 2,
                "num_key_value_heads": 3,
            },
            "eos_token_id": 2,
            "pad_token_id": 2,
            "type": "llama",
            "vocab_size": 49152,
        },
        "search": {
            "diversity_penalty": 0.0,
            "do_sample": True,
            "max_length": 8192,
            "num_beams": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.1,
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.9,
        },
    }
    for path, value in changes.items():
        *steps, last = path.split("__")
        table = whole
        for step in steps:
            table = table[step]
        if value is None:
            del table[last]
        else:
            table[last] = value
    return whole


def parsed(**changes: Any) -> GenaiConfig:
    return parse_genai_config(json.dumps(said(**changes)).encode(), FILE)


def test_file_of_the_builder_is_read() -> None:
    config = parsed()
    assert (config.architecture, config.onnx_file) == ("llama", "model.onnx")
    assert (config.layers, config.heads, config.kv_heads, config.head_size) == (2, 9, 3, 64)
    assert (config.vocabulary, config.context, config.hidden_size) == (49152, 8192, 576)
    assert (config.bos_id, config.end_ids, config.pad_id) == (1, (2,), 2)
    assert config.inputs.attention_mask == "attention_mask"
    assert config.inputs.seqlens_k == ""
    assert config.inputs.rows == ""
    assert config.past_names() == [
        f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value")
    ]
    assert config.present_names()[3] == "present.1.value"
    search = config.search
    assert (search.is_sampled, search.temperature, search.top_k) == (True, 0.6, 20)
    assert (search.top_p, search.repetition_penalty, search.max_length) == (0.9, 1.1, 8192)


def test_several_ends_and_other_architectures_are_fine() -> None:
    config = parsed(model__eos_token_id=[2, 7], model__type="never heard of it")
    assert config.end_ids == (2, 7)
    assert config.architecture == "never heard of it"


def test_lengths_may_be_told_by_numbers() -> None:
    inputs = {
        "seqlens_k": "seqlens_k",
        "total_sequence_length": "total_sequence_length",
        "rows": "rows",
    }
    found = parsed(model__decoder__inputs=inputs).inputs
    assert (found.seqlens_k, found.total_sequence_length, found.rows) == tuple(inputs.values())
    assert found.input_ids == "input_ids"


GIVEN = ("input_ids", "attention_mask")
CACHE = tuple(f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value"))


def test_positions_that_the_decoder_counts_itself_are_not_given() -> None:
    inputs = {"attention_mask": "attention_mask", "position_ids": "position_ids"}
    config = parsed(model__decoder__inputs=inputs)
    found = config.run_with((*GIVEN, *CACHE))
    assert (found.inputs.position_ids, found.inputs.attention_mask) == ("", "attention_mask")
    assert config.run_with((*GIVEN, "position_ids", *CACHE)) == config


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        (("input_ids", *CACHE), "no input 'attention_mask', which genai_config.json names"),
        ((*GIVEN, *CACHE[1:]), "no input 'past_key_values.0.key'"),
        ((*GIVEN, *CACHE, "inputs_embeds"), "the input 'inputs_embeds', which a node cannot fill"),
        ((*GIVEN, *CACHE, "past_conv.0"), "the input 'past_conv.0'"),
        ((*GIVEN, *CACHE, "position_ids"), "the input 'position_ids'"),
    ],
)
def test_decoder_whose_inputs_cannot_be_filled_is_refused_by_one(
    inputs: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(ModelInvalid) as caught:
        parsed().run_with(inputs)
    assert problem in caught.value.message


BOTH = {"attention_mask": "m", "seqlens_k": "s", "total_sequence_length": "t"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": None}, "genai_config.json: model is missing"),
        ({"model__decoder": None}, "decoder is missing"),
        ({"model__decoder__filename": 3}, "model.decoder.filename is 3"),
        ({"model__decoder__num_hidden_layers": 0}, "model.decoder.num_hidden_layers is 0"),
        ({"model__decoder__num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"model__decoder__head_size": 2**40}, "model.decoder.head_size is"),
        ({"model__decoder__num_key_value_heads": 2}, "9 heads are no multiple of 2"),
        ({"model__vocab_size": 2**30}, "model.vocab_size is"),
        ({"model__context_length": 1}, "model.context_length is 1"),
        ({"model__eos_token_id": None}, "eos_token_id is missing"),
        ({"model__eos_token_id": []}, "eos_token_id"),
        (
            {"model__eos_token_id": 49152},
            "token 49152 is special, and the model has the tokens 0 to 49151",
        ),
        ({"model__bos_token_id": 50000}, "token 50000 is special"),
        ({"model__decoder__inputs": {}}, "must have one of attention_mask and seqlens_k"),
        ({"model__decoder__inputs": BOTH}, "must have one of attention_mask and seqlens_k"),
        (
            {"model__decoder__inputs": {"seqlens_k": "s"}},
            "has seqlens_k and no total_sequence_length",
        ),
        ({"model__decoder__outputs": {"present_key_names": "present.%d.%s"}}, "present_key_names"),
        ({"model__decoder__outputs": {"present_key_names": "present"}}, "present_key_names"),
        ({"search__top_p": 2.0}, "search.top_p is 2.0"),
        ({"search__temperature": -1.0}, "search.temperature is -1.0"),
    ],
)
def test_file_that_does_not_fit_is_refused_by_its_key(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ModelInvalid) as caught:
        parsed(**changes)
    assert problem in caught.value.message


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_file_that_is_no_json_of_a_decoder_is_refused(raw: bytes) -> None:
    with pytest.raises(ModelInvalid, match=FILE):
        parse_genai_config(raw, FILE)
