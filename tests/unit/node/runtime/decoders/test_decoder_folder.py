"""The folder of a decoder is read, and what is missing from it is named with what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import text_models
import tiny_llama
from model_files import write_onnx

from capamesh.node.repository import scan
from capamesh.node.runtime.decoders.decoder_folder import (
    MAX_CONFIG_BYTES,
    MAX_TEMPLATE_CHARS,
    decoder_of,
    read_decoder_folder,
)
from capamesh.node.runtime.decoders.genai_config import GenaiConfig, parse_genai_config
from capamesh.protocol.errors import ModelInvalid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of models with a decoder, "tiny"."""
    tiny_llama.write_decoder_folder(tmp_path / "tiny" / "1")
    (tmp_path / "tiny" / "capamesh.toml").write_text("task = 'chat'")
    return tmp_path / "tiny" / "1"


def test_folder_is_read(folder: Path) -> None:
    found = read_decoder_folder(folder)
    assert found.path == folder
    assert found.onnx_file == folder / "model.onnx"
    assert found.tokenizer_file.read_bytes()
    assert found.chat_template == tiny_llama.TEMPLATE
    end = "<|end|>"
    special = {"bos_token": "<|begin|>", "eos_token": end, "pad_token": end}
    assert found.special_tokens == special
    assert (found.config.bos_id, found.config.end_ids, found.config.pad_id) == (0, (1, 3), 1)
    assert (found.config.vocabulary, found.config.context) == (512, 512)


@pytest.mark.parametrize("name", ["genai_config.json", "model.onnx", "tokenizer.json"])
def test_missing_file_is_named_with_what_makes_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelInvalid, match=f"'{name}' is not in .* capamesh model import-llm"):
        read_decoder_folder(folder)


def test_decoder_outside_of_the_folder_is_refused(folder: Path) -> None:
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["filename"] = "../1/model.onnx"
    (folder / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match=r"'\.\./1/model\.onnx' is not in the model's folder"):
        read_decoder_folder(folder)


def test_template_may_be_in_the_settings_of_the_tokenizer(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    settings = folder / "tokenizer_config.json"
    assert read_decoder_folder(folder).chat_template == ""
    settings.write_text(json.dumps({"chat_template": "a", "eos_token": {"content": "</s>"}}))
    found = read_decoder_folder(folder)
    assert (found.chat_template, found.special_tokens) == ("a", {"eos_token": "</s>"})
    several = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    settings.write_text(json.dumps({"chat_template": several}))
    assert read_decoder_folder(folder).chat_template == "d"
    settings.unlink()
    assert read_decoder_folder(folder).chat_template == ""


def test_files_are_bounded_and_are_what_they_must_be(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelInvalid, match=r"chat_template\.jinja is not UTF-8"):
        read_decoder_folder(folder)
    (folder / "chat_template.jinja").write_text("x" * (MAX_TEMPLATE_CHARS + 1))
    with pytest.raises(ModelInvalid, match="the chat template has 1048577 characters; at most"):
        read_decoder_folder(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelInvalid, match=r"tokenizer_config\.json: "):
        read_decoder_folder(folder)
    (folder / "genai_config.json").write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ModelInvalid, match=r"genai_config\.json has more than 1048576 bytes"):
        read_decoder_folder(folder)
    (folder / "genai_config.json").unlink()
    (folder / "genai_config.json").mkdir()
    with pytest.raises(ModelInvalid, match=r"genai_config\.json cannot be read"):
        read_decoder_folder(folder)


def test_file_that_keeps_no_sequences_apart_is_no_decoder(folder: Path, tmp_path: Path) -> None:
    write_onnx(folder / "model.onnx", text_models.encoder())
    (source,) = scan(tmp_path).models
    with pytest.raises(ModelInvalid, match="no operator GroupQueryAttention"):
        decoder_of(source)


FILE = "genai_config.json"


def said(**changes: Any) -> dict[str, Any]:
    """Return a file as onnxruntime-genai's builder writes it, with values at paths such as model__decoder__filename."""
    inputs = {name: name for name in ("input_ids", "attention_mask")}
    outputs = {"logits": "logits"}
    for part in ("key", "value"):
        inputs[f"past_{part}_names"] = f"past_key_values.%d.{part}"
        outputs[f"present_{part}_names"] = f"present.%d.{part}"
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": 64,
        "hidden_size": 576,
        "inputs": inputs,
        "outputs": outputs,
        "num_attention_heads": 9,
        "num_hidden_layers": 2,
        "num_key_value_heads": 3,
    }
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "vocab_size": 49152}
    sampling = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.9}
    whole: dict[str, Any] = {
        "model": {"context_length": 8192, "decoder": decoder, "type": "llama", **tokens},
        "search": {"max_length": 8192, "num_beams": 1, "repetition_penalty": 1.1, **sampling},
    }
    for path, value in changes.items():
        *steps, last = path.split("__")
        table = whole
        for step in steps:
            table = table[step]
        table[last] = value
        if value is None:
            del table[last]
    return whole


def parsed(**changes: Any) -> GenaiConfig:
    return parse_genai_config(json.dumps(said(**changes)).encode(), FILE)


GIVEN = ("input_ids", "attention_mask")
CACHE = tuple(f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value"))


def test_file_of_the_builder_is_read() -> None:
    config = parsed()
    assert (config.architecture, config.onnx_file) == ("llama", "model.onnx")
    assert (config.layers, config.heads, config.kv_heads, config.head_size) == (2, 9, 3, 64)
    assert (config.vocabulary, config.context, config.hidden_size) == (49152, 8192, 576)
    assert (config.bos_id, config.end_ids, config.pad_id) == (1, (2,), 2)
    inputs = config.inputs
    assert (inputs.attention_mask, inputs.seqlens_k, inputs.rows) == ("attention_mask", "", "")
    assert config.past_names() == [*CACHE]
    assert config.present_names()[3] == "present.1.value"
    search = config.search
    assert (search.is_sampled, search.temperature, search.top_k) == (True, 0.6, 20)
    assert (search.top_p, search.repetition_penalty, search.max_length) == (0.9, 1.1, 8192)


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
def test_decoder_with_unknown_inputs_is_refused(inputs: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ModelInvalid, match=re.escape(problem)):
        parsed().run_with(inputs)


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
        ({"model__eos_token_id": 49152}, "token 49152 is special, and the model has the tokens 0"),
        ({"model__bos_token_id": 50000}, "token 50000 is special"),
        ({"model__decoder__inputs": {}}, "must have one of attention_mask and seqlens_k"),
        ({"model__decoder__inputs": BOTH}, "must have one of attention_mask and seqlens_k"),
        ({"model__decoder__inputs": {"seqlens_k": "s"}}, "seqlens_k and no total_sequence_length"),
        ({"model__decoder__outputs": {"present_key_names": "present.%d.%s"}}, "present_key_names"),
        ({"model__decoder__outputs": {"present_key_names": "present"}}, "present_key_names"),
        ({"search__top_p": 2.0}, "search.top_p is 2.0"),
        ({"search__temperature": -1.0}, "search.temperature is -1.0"),
    ],
)
def test_file_that_does_not_fit_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelInvalid, match=re.escape(problem)):
        parsed(**changes)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_file_that_is_no_json_of_a_decoder_is_refused(raw: bytes) -> None:
    with pytest.raises(ModelInvalid, match=FILE):
        parse_genai_config(raw, FILE)
