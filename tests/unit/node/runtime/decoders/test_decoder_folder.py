"""The folder of a decoder is read, and what is missing from it is named with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_llama

from capamesh.node.repository import scan
from capamesh.node.runtime.decoders.decoder_folder import (
    MAX_CONFIG_BYTES,
    MAX_TEMPLATE_CHARS,
    decoder_of,
    read_decoder_folder,
)
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
    assert found.special_tokens == {
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
    }
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
    other = tmp_path / "text_models"
    other.mkdir()
    from text_models import write_encoder  # noqa: PLC0415 - for this test alone

    write_encoder(other)
    shutil.copyfile(other / "words" / "1" / "model.onnx", folder / "model.onnx")
    shutil.rmtree(other)
    (source,) = scan(folder.parent.parent).models
    with pytest.raises(ModelInvalid, match="no operator GroupQueryAttention"):
        decoder_of(source)


def test_decoder_must_be_the_file_of_the_version(folder: Path) -> None:
    shutil.copyfile(folder / "model.onnx", folder / "other.onnx")
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["filename"] = "other.onnx"
    (folder / "genai_config.json").write_text(json.dumps(config))
    (source,) = scan(folder.parent.parent).models
    with pytest.raises(
        ModelInvalid, match=r"the decoder is in 'other\.onnx', and the version's file"
    ):
        decoder_of(source)
