"""OpenAI's client, LiteLLM, LangChain's and Ollama's, unmodified, at a router whose nodes generate as the test says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from chat_nodes import CHAT, chatting, counting, words
from fleet_fakes import failing
from foreign_clients import answers
from router_http import serving

from capamesh.node.generation.admission import over_context
from capamesh.protocol.errors import InvalidRequest

TEXT = "1 2 3 4 5 "


async def told(client: str, program: str) -> Any:
    """Return what a program tells of two nodes that count to five, of one whose model takes no prompt, and one that breaks off."""
    async with serving() as http:
        for peer in "ab":
            http.node(peer, counting(5), models=(CHAT,))
        http.node("c", failing(over_context(70, 64)), models=(replace(CHAT, name="short"),))
        broken = replace(CHAT, name="broken")
        http.node("d", chatting(*words("a"), end=InvalidRequest("full")), models=(broken,))
        address = f"{http.client.host}:{http.client.port}"
        return await asyncio.to_thread(answers, client, program, address, "chat")


async def test_openai_chats() -> None:
    found = await told("openai", "openai_chats.py")
    assert found == {
        "whole": [TEXT, "stop"],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
        "stream": TEXT,
        "finish": "stop",
        "stream_usage": 14,
        "text": TEXT,
        "async": TEXT,
        "helped": TEXT,
        "response": [TEXT, "completed", 14],
        "events": ["response.created", "response.completed", TEXT],
        "errors": {
            "missing": ["NotFoundError", "model_not_found", None],
            "hot": ["BadRequestError", "invalid_request", "temperature"],
            "broken": ["APIError", "run_failed", None],
        },
    }


async def test_litellm_chats() -> None:
    found = await told("litellm", "litellm_chats.py")
    assert found == {
        "whole": [TEXT, "stop"],
        "usage": [9, 5],
        "stream": TEXT,
        "finish": "stop",
        "async": TEXT,
        "text": TEXT,
        "errors": {
            "missing": "NotFoundError",
            "hot": "BadRequestError",
            "long": "ContextWindowExceededError",
        },
    }


async def test_langchain_chats() -> None:
    found = await told("langchain", "langchain_chats.py")
    assert found == {
        "whole": [TEXT, "stop"],
        "usage": [9, 5],
        "stream": TEXT,
        "stream_usage": [14],
        "async": TEXT,
        "batch": [TEXT, TEXT],
        "text": TEXT,
        "errors": {
            "missing": ["model_not_found", 404],
            "hot": ["invalid_request", 400],
            "long": "ContextOverflowError",
        },
    }


async def test_ollama_chats() -> None:
    found = await told("ollama", "ollama_chats.py")
    errors = found.pop("errors")
    assert found == {
        "whole": [TEXT, "stop", True],
        "usage": [9, 5],
        "stream": TEXT,
        "end": [True, "stop"],
        "text": TEXT,
        "texts": TEXT,
        "models": ["broken", "chat", "short"],
        "async": TEXT,
    }
    assert [status for status, _ in errors.values()] == [404, 400]
    assert "nonesuch" in errors["missing"][1]
    assert "temperature is 3" in errors["hot"][1]
