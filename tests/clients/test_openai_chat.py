"""OpenAI's own client, unmodified, with a language model on real nodes: whole answers, streams, choices, schemas, errors, batches."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from foreign_clients import answers
from tiny_llama import CONTEXT, write_decoder_folder

from capamesh.cli.local_cluster import LocalCluster

pytestmark = pytest.mark.asyncio(loop_scope="session")
TOOLS = "{% if tools %}{{ tools | tojson }}: within <tool_call></tool_call>{% endif %}"
"""The end of the model's template, which tells of tools."""


def check_calls(told: dict[str, Any]) -> None:
    """Look at what the client got of calls: the model knows nothing, and calls because it must."""
    kind, name, arguments = told["call"]
    assert (kind, name) == ("function", "look_up")
    assert json.loads(arguments).keys() == {"kind", "deep"}
    assert (told["finish"], told["content"], told["next"]) == ("tool_calls", None, None)
    streamed = told["streamed"]
    assert streamed.pop("pieces") > 2
    assert streamed == {
        "finish": "tool_calls",
        "ids": 1,
        "names": ["look_up"],
        "indexes": [0],
        "arguments": arguments,
        "content": "",
    }
    kind, name, arguments, status = told["response"]
    assert (kind, status) == ("function_call", "completed")
    assert json.loads(arguments).keys() == ({"kind", "deep"} if name == "look_up" else set())
    assert told["unknown"][0] == "tool_choice"
    assert "names 'sail'; the tools are: look_up, now" in told["unknown"][1]


async def test_client_chats_and_runs_batches_of_chats(tmp_path: Path) -> None:
    folder = write_decoder_folder(tmp_path / "models" / "tiny" / "1")
    template = folder.path / "chat_template.jinja"
    template.write_text(template.read_text() + TOOLS)
    (tmp_path / "models" / "tiny" / "capamesh.toml").write_text("task = 'chat'\n")
    async with LocalCluster(tmp_path / "cluster", tmp_path / "models", nodes=2) as running:
        await running.wait_routable(2)
        address = running.http_url.removeprefix("http://")
        told = await asyncio.to_thread(
            answers, "openai", "openai_chat.py", address, "tiny", tmp_path
        )
    assert told["text"] == "".join(filter(None, told["chunks"])) == told["async"] != ""
    assert told["finish"] == "length"
    assert told["usage"][1] == told["chunks_usage"] == 12
    assert told["several"] == [told["text"]] * 2
    assert told["logprobs"] == [[3] * 12] * 2
    assert json.loads(told["held"])["a"] in {True, False}
    assert told["completion"].startswith("The ferry left")
    check_calls(told["tools"])
    errors = told["errors"]
    assert errors["missing"][:2] == ["NotFoundError", "model_not_found"]
    assert errors["long"][:3] == ["BadRequestError", "context_length_exceeded", "messages"]
    assert f"maximum context length is {CONTEXT} tokens" in errors["long"][3]
    assert errors["temperature"][:3] == ["BadRequestError", "invalid_request", "temperature"]
    batch = told["batch"]
    assert (batch["status"], batch["counts"]) == ("completed", [13, 12, 1])
    assert batch["answers"] == batch["alone"]
    assert all(text for text, _ in batch["answers"].values())
    assert batch["error"] == ["long", 400, "context_length_exceeded"]
