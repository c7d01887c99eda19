"""Callers of a language model by OpenAI's route for texts, who note when each token comes. IO: sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_MOST_LINE: Final = 2**20


def request_of(host: str, model: str, prompt: Sequence[int], answer: int, **more: object) -> bytes:
    """Return a request for `answer` tokens behind `prompt`, greedy and without an earlier end; `more` has other fields of it."""
    asked = {"model": model, "prompt": list(prompt), "max_tokens": answer, "temperature": 0}
    body = json.dumps({**asked, "ignore_eos": True, **more}).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (host.encode(), len(body), body)
    )


class Caller:
    """One request for a text, in parts: each token's time, and the tokens that the server has counted."""

    def __init__(self, address: tuple[str, int], model: str, **more: object) -> None:
        """`more` has fields of the request beside the usual ones."""
        self._address = address
        self._model = model
        self._more = more
        self.times: list[float] = []
        self.started = 0.0
        self.tokens = 0
        self.text = ""

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
        host, port = self._address
        reader, writer = await asyncio.open_connection(host, port, limit=_MOST_LINE)
        self.started = time.perf_counter()
        writer.write(request_of(host, self._model, prompt, answer, **streamed, **self._more))
        status = await reader.readline()
        while (line := await reader.readline()) != b"data: [DONE]\n":
            if not line:
                raise SystemExit(f"a text ended early; the answer began with {status!r}")
            if line.startswith(b"data: "):
                self._take(line[6:], begun, at)
            elif line.startswith(b"{"):
                raise SystemExit(f"a text is refused: {line[:500]!r}")
        writer.close()
        if self.tokens != answer:
            raise SystemExit(f"{self.tokens} tokens came of {answer}")

    def _take(self, raw: bytes, begun: asyncio.Event | None, at: int) -> None:
        """Take an event; what has no text is an end, or tells what was counted."""
        said = json.loads(raw)
        text = "".join(choice["text"] for choice in said["choices"])
        if text:
            self.times.append(time.perf_counter())
            self.text += text
            if begun is not None and len(self.times) == at:
                begun.set()
        if said.get("usage"):
            self.tokens = said["usage"]["completion_tokens"]
