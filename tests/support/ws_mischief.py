"""What a client of WebSocket may send that means no good, drawn by a seed: bytes, and how they are cut. Pure."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from ws_client import frame, infer

MOST_STEPS = 12
GIB = 2**30
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
LAST = 0x80
CLOSE_CODES = (0, 999, 1000, 1001, 1004, 1005, 1006, 1011, 1015, 2999, 3000, 4999, 5000, 65535)


class Mischief:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def steps(self) -> Iterator[bytes]:
        """Yield what is sent, some of it sound."""
        for _ in range(self.rng.randrange(1, MOST_STEPS)):
            yield self._step()

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Yield bytes in pieces of any size."""
        while data:
            size = self.rng.choice((1, 2, 7, 100, 5000, len(data)))
            yield data[:size]
            data = data[size:]

    def _step(self) -> bytes:
        steps = (
            self._request,
            self._request,
            self._in_fragments,
            self._junk,
            self._any_frame,
            self._announced,
            self._closing,
            self._pings,
            self._unmasked,
            self._interrupted,
            self._end,
        )
        return self.rng.choice(steps)()

    def _request(self) -> bytes:
        """A request, maybe of raw tensors."""
        if self.rng.random() < 0.7:
            return frame(LAST | TEXT, infer(str(self.rng.random())).encode())
        text = infer().encode()
        length = self.rng.choice((len(text), 0, 2**32 - 1, len(text) + 1))
        return frame(LAST | BINARY, struct.pack("<I", length) + text)

    def _in_fragments(self) -> bytes:
        """A request in fragments, and whole control frames between them."""
        text = infer("cut").encode()
        pieces: list[bytes] = []
        first = TEXT
        while text:
            size = self.rng.randrange(1, len(text) + 1)
            piece, text = text[:size], text[size:]
            pieces.append(frame(first | (0 if text else LAST), piece))
            first = 0
            if self.rng.random() < 0.5:
                pieces.append(frame(LAST | self.rng.choice((PING, PONG)), b"between"))
        return b"".join(pieces)

    def _junk(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((1, 2, 14, 300, 70_000)))

    def _any_frame(self) -> bytes:
        """A frame with any first byte, mask and length, true or not."""
        payload = self.rng.randbytes(self.rng.choice((0, 1, 125, 126, 2000)))
        size = self.rng.choice((len(payload), 0, 1, 126, 2**16, 2**31, 2**63 - 1, 2**63))
        is_masked = self.rng.random() < 0.9
        return frame(self.rng.randrange(256), payload, is_masked=is_masked, size=size)

    def _announced(self) -> bytes:
        """The beginning of a message of a gigabyte."""
        kind = self.rng.choice((TEXT, BINARY, LAST | TEXT, LAST | BINARY))
        return frame(kind, b"x" * self.rng.choice((0, 1, 1000)), size=GIB)

    def _closing(self) -> bytes:
        code = struct.pack("!H", self.rng.choice(CLOSE_CODES))
        reason = self.rng.choice((b"", b"bye", b"\xff\xfe", b"r" * 123, b"r" * 124))
        return frame(LAST | CLOSE, self.rng.choice((code + reason, b"", b"\x03")))

    def _pings(self) -> bytes:
        kind = self.rng.choice((PING, PONG))
        return frame(LAST | kind, b"p" * self.rng.choice((0, 125))) * self.rng.choice((1, 50, 1200))

    def _unmasked(self) -> bytes:
        return frame(LAST | TEXT, infer().encode(), is_masked=False)

    def _interrupted(self) -> bytes:
        """A message that begins within another, or goes on where none has begun."""
        begun = frame(TEXT, b"{")
        return self.rng.choice((begun + frame(LAST | TEXT, b"}"), frame(0, b"x"), begun))

    def _end(self) -> bytes:
        return frame(LAST | TEXT, b'{"end": true}')
