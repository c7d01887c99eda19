"""OpenAI's own client, unmodified, at a router whose nodes generate as the test says: chats, texts, responses, streams, errors."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from chat_nodes import CHAT, chatting, counting, words
from foreign_clients import answers
from router_http import serving

from capamesh.protocol.errors import InvalidRequest


async def test_client_chats() -> None:
    async with serving() as http:
        for peer in "ab":
            http.node(peer, counting(5), models=(CHAT,))
        broken = replace(CHAT, name="broken")
        http.node("c", chatting(*words("a"), end=InvalidRequest("full")), models=(broken,))
        address = f"{http.client.host}:{http.client.port}"
        told = await asyncio.to_thread(answers, "openai", "openai_chats.py", address, "chat")
    text = "1 2 3 4 5 "
    assert told["whole"] == [text, "stop"]
    assert told["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert (told["stream"], told["finish"], told["stream_usage"]) == (text, "stop", 14)
    assert (told["text"], told["async"], told["helped"]) == (text, text, text)
    assert told["response"] == [text, "completed", 14]
    assert told["events"] == ["response.created", "response.completed", text]
    assert told["errors"] == {
        "missing": ["NotFoundError", "model_not_found", None],
        "hot": ["BadRequestError", "invalid_request", "temperature"],
        "broken": ["APIError", "run_failed", None],
    }
