"""Writes the files beside a decoder's ONNX file, in onnxruntime-genai's layout. Writes files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from capamesh.node.runtime.decoders.decoder_folder import (
    CONFIG_FILE,
    TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)
from capamesh.node.tools.llm import decoder_graph as names

if TYPE_CHECKING:
    from capamesh.node.tools.llm.gguf_file import GgufFile
    from capamesh.node.tools.llm.gguf_tokenizer import SpecialTokens
    from capamesh.node.tools.llm.llama_shape import LlamaShape

LICENCE_FILE: Final = "LICENSE"
GENERATION_FILE: Final = "generation_config.json"
SPECIAL_FILE: Final = "special_tokens_map.json"


def write_files(
    folder: Path,
    *,
    onnx_name: str,
    shape: LlamaShape,
    special: SpecialTokens,
    tokenizer: bytes,
    template: str,
    licence: str,
) -> None:
    """Write all files but the ONNX file and its weights; without a `template` or a `licence` there are none."""
    ends: int | list[int] = (
        special.end_ids[0] if len(special.end_ids) == 1 else list(special.end_ids)
    )
    _write(folder / CONFIG_FILE, _config(onnx_name, shape, special, ends))
    (folder / TOKENIZER_FILE).write_bytes(tokenizer)
    _write(
        folder / TOKENIZER_CONFIG_FILE,
        {
            **special.texts,
            "add_bos_token": special.is_bos_added,
            "clean_up_tokenization_spaces": False,
            "model_max_length": shape.context,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    _write(folder / SPECIAL_FILE, special.texts)
    first = {} if special.bos_id is None else {"bos_token_id": special.bos_id}
    _write(
        folder / GENERATION_FILE,
        {**first, "eos_token_id": ends, "pad_token_id": special.pad_id},
    )
    if template:
        (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    if licence:
        (folder / LICENCE_FILE).write_text(licence, encoding="utf-8")


def licence_of(file: GgufFile) -> str:
    """Return what a GGUF file says of its licence, as lines for people; "" where it says nothing."""
    lines = [
        f"{words}: {file.text(key)}"
        for words, key in (
            ("Model", "general.name"),
            ("Licence", "general.license"),
            ("Name of the licence", "general.license.name"),
            ("Text of the licence", "general.license.link"),
        )
        if key in file.metadata
    ]
    if not any(line.startswith(("Licence", "Name of the", "Text of the")) for line in lines):
        return ""
    return "\n".join([*lines, "This is what the file says that the model was imported from.", ""])


def _config(
    onnx_name: str, shape: LlamaShape, special: SpecialTokens, ends: int | list[int]
) -> dict[str, Any]:
    first = {} if special.bos_id is None else {"bos_token_id": special.bos_id}
    return {
        "model": {
            **first,
            "context_length": shape.context,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": onnx_name,
                "head_size": shape.head_size,
                "hidden_size": shape.hidden,
                "inputs": {
                    "input_ids": names.INPUT_IDS,
                    "seqlens_k": names.LENGTHS,
                    "total_sequence_length": names.TOTAL,
                    "rows": names.ROWS,
                    "past_key_names": names.PAST_KEYS,
                    "past_value_names": names.PAST_VALUES,
                },
                "outputs": {
                    "logits": names.LOGITS,
                    "present_key_names": names.PRESENT_KEYS,
                    "present_value_names": names.PRESENT_VALUES,
                },
                "num_attention_heads": shape.heads,
                "num_hidden_layers": shape.layers,
                "num_key_value_heads": shape.kv_heads,
            },
            "eos_token_id": ends,
            "pad_token_id": special.pad_id,
            "type": shape.architecture,
            "vocab_size": shape.vocabulary,
        },
        "search": {
            "do_sample": False,
            "max_length": shape.context,
            "min_length": 0,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(
        json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
