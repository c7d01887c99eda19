"""The body of an answer while it arrives, laid out so that its first tensor can be used where it lies. Pure."""

from __future__ import annotations

from typing import Final

from capamesh.protocol.errors import TooLarge

ALIGNMENT: Final = 16
"""The bytes of which the first tensor's address is a multiple: what memory allocators give, and as much as any datatype needs."""
_MOST_DIGITS: Final = 10


class ArrivingBody:
    """The bytes that have come of a body; its raw tensors begin at an aligned address.

    Memory is taken as bytes come, whatever length was announced.
    """

    __slots__ = ("_buffer", "_length", "_most_bytes", "_start")

    def __init__(self, length_bytes: int | None, json_bytes: str | None, limit_bytes: int) -> None:
        """Expect `length_bytes`, None: not known; `json_bytes` is the header that says where raw tensors begin.

        Raises:
            TooLarge: it is announced with more than `limit_bytes`.
        """
        if length_bytes is not None and length_bytes > limit_bytes:
            raise TooLarge(
                f"the answer has {length_bytes} bytes; the limit is {limit_bytes}: ask for fewer outputs or rows"
            )
        header = json_bytes or ""
        is_number = header.isascii() and header.isdigit() and len(header) <= _MOST_DIGITS
        self._start = -int(header) % ALIGNMENT if is_number else 0
        """The bytes that lie before the body, so that what follows its JSON is aligned."""
        self._buffer = bytearray(self._start)
        self._length = length_bytes
        self._most_bytes = limit_bytes if length_bytes is None else length_bytes

    @property
    def is_whole(self) -> bool:
        """Return whether all that was announced has come."""
        return self._length is not None and not self.missing_bytes

    @property
    def missing_bytes(self) -> int:
        """Return how many bytes of those announced have not come."""
        return 0 if self._length is None else self._length + self._start - len(self._buffer)

    def add(self, chunk: bytes) -> None:
        """Take the bytes that came next; raise `TooLarge` where they are over the limit, or more than was announced."""
        self._buffer += chunk
        if len(self._buffer) - self._start > self._most_bytes:
            raise TooLarge(
                f"the answer has more than {self._most_bytes} bytes, which is all that is taken of it"
            )

    def view(self) -> memoryview:
        """Return what has come, as memory that belongs to nobody else."""
        return memoryview(self._buffer)[self._start :]
