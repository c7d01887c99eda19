"""Callers of a language model by OpenAI's route for texts, who note when each token comes. IO: sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from typing_extensions import override

_ACCEPTED: Final = b"HTTP/1.1 200 "
_EVENT: Final = b"data: "
_LAST: Final = b"data: [DONE]"
_TAIL: Final = 64
"""The bytes at the end of what came among which the last event is looked for: behind it are only ends of lines and of chunks."""


def request_of(host: str, model: str, prompt: Sequence[int], answer: int, **more: object) -> bytes:
    """Return a request for `answer` tokens behind `prompt`, greedy and without an earlier end; `more` has other fields of it."""
    asked = {"model": model, "prompt": list(prompt), "max_tokens": answer, "temperature": 0}
    body = json.dumps({**asked, "ignore_eos": True, **more}).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (host.encode(), len(body), body)
    )


class Caller:
    """One request for a text, in parts: each token's time, and the tokens that the server has counted.

    The caller shares the cores with what it measures, so it only notes when bytes come, and reads them when all have come.
    """

    def __init__(self, address: tuple[str, int], model: str, **more: object) -> None:
        """`more` has fields of the request beside the usual ones."""
        self._address = address
        self._model = model
        self._more = more
        self.times: list[float] = []
        self.started = 0.0
        self.tokens = 0

    @property
    def first_ms(self) -> float:
        """The milliseconds until the first token."""
        return (self.times[0] - self.started) * 1e3

    def gaps_ms(self, since: float, until: float) -> list[float]:
        """Return the milliseconds between two parts, of those that overlap the time from `since` until `until`."""
        return [(b - a) * 1e3 for a, b in pairwise(self.times) if b >= since and a <= until]

    async def ask(
        self, prompt: Sequence[int], answer: int, begun: asyncio.Event | None = None, at: int = 20
    ) -> None:
        """Ask for `answer` tokens behind `prompt`; `begun` is set with part `at`. SystemExit: they do not come."""
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        loop, (host, port) = asyncio.get_running_loop(), self._address
        transport, answered = await loop.create_connection(lambda: _Answer(begun, at), host, port)
        self.started = time.perf_counter()
        transport.write(request_of(host, self._model, prompt, answer, **streamed, **self._more))
        try:
            await answered.ended
        finally:
            transport.close()
        for moment, said in answered.events():
            self._take(moment, said)
        if self.tokens != answer:
            raise SystemExit(f"{self.tokens} tokens came of {answer}")

    def _take(self, moment: float, said: dict[str, Any]) -> None:
        """Take an event; what has no text is an end, or tells what was counted."""
        if any(choice["text"] for choice in said["choices"]):
            self.times.append(moment)
        if said.get("usage"):
            self.tokens = said["usage"]["completion_tokens"]


class _Answer(asyncio.Protocol):
    """The bytes of one answer, and when they came."""

    def __init__(self, begun: asyncio.Event | None, at: int) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with the last event; SystemExit: the answer is none, or ends before."""
        self._begun = begun
        self._left = at
        self._came: list[tuple[float, bytes]] = []
        self._tail = b""
        """The last bytes that came."""

    @override
    def data_received(self, data: bytes) -> None:
        self._came.append((time.perf_counter(), data))
        if self._begun is not None:
            self._left -= data.count(_EVENT)
            if self._left <= 0:
                self._begun.set()
                self._begun = None
        self._tail = (self._tail + data[-_TAIL:])[-_TAIL:]
        if _LAST in self._tail:
            if not self.ended.done():
                self.ended.set_result(None)
        elif len(self._came) == 1 and not data.startswith(_ACCEPTED):
            self._fail(f"a text is refused: {data[:500]!r}")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        first = self._came[0][1][:100] if self._came else b""
        self._fail(f"a text ended early; the answer began with {first!r}")

    def _fail(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(SystemExit(why))

    def events(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yield each event that came whole with the time of its last bytes, but for the one that says that it was the last."""
        line = b""
        for moment, data in self._came:
            *whole, line = (line + data).split(b"\n")
            for each in whole:
                if each.startswith(_EVENT) and each != _LAST:
                    yield moment, json.loads(each[len(_EVENT) :])
