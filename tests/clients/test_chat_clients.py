"""LiteLLM, LangChain's client and Ollama's, unmodified, at a router whose nodes generate as the test says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from chat_nodes import CHAT, counting
from fleet_fakes import failing
from foreign_clients import answers
from router_http import serving

from capamesh.node.generation.admission import over_context

TEXT = "1 2 3 4 5 "


async def told(client: str, program: str) -> Any:
    """Return what a program tells of two nodes that count to five, and of one with a model that takes no prompt."""
    async with serving() as http:
        for peer in "ab":
            http.node(peer, counting(5), models=(CHAT,))
        http.node("c", failing(over_context(70, 64)), models=(replace(CHAT, name="short"),))
        address = f"{http.client.host}:{http.client.port}"
        return await asyncio.to_thread(answers, client, program, address, "chat")


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
        "models": ["chat", "short"],
        "async": TEXT,
    }
    assert [status for status, _ in errors.values()] == [404, 400]
    assert "nonesuch" in errors["missing"][1]
    assert "temperature is 3" in errors["hot"][1]
