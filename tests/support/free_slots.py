"""Tells whether anything of a node's models is still held: by its status, and by asking a language model for all that it can give at once. IO: HTTP, files."""

from __future__ import annotations

import aiohttp

from capamesh.cli.member import Member

SLOTS = 8
"""The answers that a node generates at once on a CPU, which is also the most of one request."""


def is_idle(node: Member) -> bool:
    """Return whether a node has told of its models, and none of them has a request."""
    models = node.status().get("models")  # a worker's counts come later
    return bool(models) and all(each.get("requests_in_flight") == 0 for each in models)


async def has_all_slots(url: str, model: str, tokens: int) -> bool:
    """Return whether one request gets all slots at once, each with the room of `tokens`, the most that a slot has."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hi"}],
        "n": SLOTS,
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{url}/v1/chat/completions", json=body) as answer,
    ):
        read = await answer.json()
    return answer.status == 200 and len(read["choices"]) == SLOTS
