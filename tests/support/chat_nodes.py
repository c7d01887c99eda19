"""Nodes that generate as a test says: the parts of an answer, each once the one before is released."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fleet_fakes import Ask, Reply, answer_of, offer

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.events import Answer
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensors import Datatype, Tensor, join_elements, split_elements

CHAT = replace(offer("chat"), task=Task.CHAT, inputs=(), outputs=(), max_parts=100_000)
"""The offer of a model for chat."""
Pieces = list[dict[str, Any]]


def asked_of(ask: Ask) -> dict[str, Any]:
    """Return what a node is asked, as JSON has it, without whose it is."""
    found = all_asked_of(ask)
    del found["cache_salt"], found["share"]
    return found


def all_asked_of(ask: Ask) -> dict[str, Any]:
    """Return what a node is asked, as JSON has it."""
    (given,) = ask.call.inputs
    assert (given.name, given.datatype, given.shape) == ("generation", Datatype.BYTES, (1,))
    assert ask.call.outputs == ("parts",)
    found: dict[str, Any] = json.loads(split_elements(given.data, 1)[0])
    return found


def part_of(pieces: object) -> Answer:
    data = join_elements([pieces if isinstance(pieces, bytes) else json.dumps(pieces).encode()])
    return answer_of("1", Tensor("parts", Datatype.BYTES, (1,), data))


def words(*texts: str, choice: int = 0, first: int = 1, finish: str | None = None) -> list[Pieces]:
    """Return a part for each text, whose one token is its place from `first` on; the last has the `finish`."""
    found: list[Pieces] = [
        [{"c": choice, "t": [first + at], "x": text}] for at, text in enumerate(texts)
    ]
    if finish is not None:
        found[-1][0]["f"] = finish
    return found


def chatting(*parts: Pieces, end: Callable[[Ask], object] | CapameshError | None = None) -> Reply:
    """Answer in these parts; the last is the answer's end, unless `end` does something else behind it."""

    def reply(ask: Ask) -> None:
        left = list(parts)

        def send() -> None:
            if left and (len(left) > 1 or end is not None) and ask.call.takes_parts:
                ask.part(part_of(left.pop(0)))
            elif isinstance(end, CapameshError):
                ask.fail(end)
            elif end is not None:
                end(ask)
            else:
                ask.answer(part_of([piece for pieces in left for piece in pieces]))

        ask.link.on_release[ask.stream] = send
        asyncio.get_running_loop().call_soon(send)

    return reply


def counting(total: int, *, dies_after: Sequence[int | None] = (None,)) -> Reply:
    """Answer as a node with a state of tokens does: token and text `n` follow on `n - 1`, up to `total`, from where `so_far` ends.

    The link of the n-th request dies after so many parts as `dies_after` says, None: it lives; the last holds for all that follow.
    """
    asks = 0

    def reply(ask: Ask) -> None:
        nonlocal asks
        limit = dies_after[min(asks, len(dies_after) - 1)]
        asks += 1
        before = asked_of(ask).get("so_far", {}).get("0", [])
        assert before == [*range(1, len(before) + 1)]
        sent = 0

        def send() -> None:
            nonlocal sent
            token = len(before) + sent + 1
            if sent == limit:
                ask.link.end("the node died", is_sudden=True)
                return
            sent += 1
            piece = {"c": 0, "t": [token], "x": f"{token} ", "s": 77}
            if token < total:
                ask.part(part_of([piece]))
            else:
                ask.answer(part_of([{**piece, "f": "stop", "u": [9, 4, total]}]))

        ask.link.on_release[ask.stream] = send
        asyncio.get_running_loop().call_soon(send)

    return reply


def data_of(text: str) -> list[Any]:
    """Return the data of a stream's events as JSON; comments and the mark of the end are texts."""
    *blocks, end = text.split("\n\n")
    assert end == ""
    found: list[Any] = []
    for block in blocks:
        if not block.startswith("data: ") or block == "data: [DONE]":
            found.append(block)
        else:
            assert "\n" not in block
            found.append(json.loads(block[6:]))
    return found
