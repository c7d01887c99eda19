"""A reader of an answer in parts over a link, which keeps what it is given."""

from __future__ import annotations

import asyncio
from typing import Any

from link_sockets import within

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import decode_answer
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import PartsHandler
from capamesh.protocol.links.link import Link
from capamesh.protocol.tensors import Limits


class Reader(PartsHandler):
    """Keeps the outputs of every part as numbers."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.stream = 0
        self.is_releasing = True
        self.parts: list[Any] = []
        self.end: object = None
        self._news = asyncio.Event()

    def part_answered(self, part: Answer) -> None:
        self.parts.append(value_of(part))
        if self.is_releasing:
            self.link.release(self.stream, part)
        self._news.set()

    def answered(self, answer: Answer) -> None:
        self.end = value_of(answer)
        self._news.set()

    def failed(self, error: CapameshError) -> None:
        self.end = error
        self._news.set()

    async def until(self, parts: int, *, is_over: bool = False) -> None:
        async def come() -> None:
            while len(self.parts) < parts or (is_over and self.end is None):
                self._news.clear()
                await self._news.wait()

        await within(come())


def value_of(answer: Answer) -> float:
    (output,) = decode_answer(answer.meta, answer.body, Limits()).outputs
    return float(output.to_numpy()[0, 0])
