"""Unpacks what clients send packed: a piece at a time, each in a thread, as far as the budget has room. IO: threads.

What a few bytes unpack to is not known before it is done, so the size is watched from piece to piece.
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest, Overloaded, TooLarge
from capamesh.router.http.body_budget import Charge

if TYPE_CHECKING:
    from capamesh.router.http.body_budget import BodyBudget

CODINGS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""The codings, with zlib's window bits: 15 for its own format, 16 more for gzip's. Some send "deflate" without zlib's frame."""
MOST_RATIO: Final = 200
"""Bytes out of one byte in, beyond a first megabyte (guess: JSON of one number over and over packs to a hundredth; what
packs better is cheaper to leave out than to send)."""
FREE_BYTES: Final = 2**20
PIECE_BYTES: Final = 2**20
"""Unpacked at a time (measured: 3 ms in a thread, which holds the interpreter for none of it)."""
TAKEN_BYTES: Final = 2**18
"""The bytes that zlib is given at a time, which copies what it leaves of them each time (guess)."""
_UNPACKERS: Final = ThreadPoolExecutor(2, thread_name_prefix="unpack")
"""The threads that unpack bodies, one each (guess); others wait for their next piece."""


class WaitingCharge(Charge):
    """A charge of something for which a task waits until there is room."""

    __slots__ = ("_budget", "_woken", "is_given_up")

    def __init__(self, budget: BodyBudget | None, here_bytes: int, site: str = "") -> None:
        """Take room for `here_bytes`; without a budget nothing is counted. Raises `Overloaded`."""
        super().__init__(site=site)
        self._budget = budget
        self._woken: asyncio.Future[None] | None = None
        self.is_given_up = False
        if budget is not None and not budget.begin(self, here_bytes):
            raise no_room()

    async def charge(self, size_bytes: int) -> None:
        """Take room for so much more, as soon as there is some; raise `Overloaded` when others need it more."""
        budget = self._budget
        if budget is None:
            return
        while not self.is_given_up and not budget.grow(self, size_bytes):
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        if self.is_given_up:
            raise no_room()

    @override
    def go_on(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    @override
    def give_up(self) -> None:
        self.is_given_up = True
        self.go_on()


async def unpacked(
    packed: bytes | bytearray | memoryview, coding: str, most_bytes: int, charge: WaitingCharge
) -> bytearray:
    """Return what was `packed` by one of the `CODINGS`, for which room is taken ahead of each piece.

    Raises:
        TooLarge: it unpacks to more than `most_bytes`, or to far too much for what it is.
        InvalidRequest: it is broken.
        Overloaded: others need the room more.
    """
    loop = asyncio.get_running_loop()
    whole = bytearray()
    is_bare = coding == "deflate" and packed[:1] and packed[0] & 15 != zlib.DEFLATED
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else CODINGS[coding])
    view, at, charged_bytes = memoryview(packed), 0, 0
    rest: bytes | memoryview = b""
    try:
        while not unpacker.eof:
            if len(whole) + PIECE_BYTES > charged_bytes:
                await charge.charge(PIECE_BYTES)
                charged_bytes += PIECE_BYTES
            if not rest:
                rest = view[at : at + TAKEN_BYTES]
                at += len(rest)
            piece = await loop.run_in_executor(_UNPACKERS, unpacker.decompress, rest, PIECE_BYTES)
            rest = unpacker.unconsumed_tail
            whole += piece
            if len(whole) > most_bytes:
                raise too_large(most_bytes)
            if len(whole) > FREE_BYTES + MOST_RATIO * len(packed):
                raise TooLarge(
                    f"the request's body unpacks to more than {MOST_RATIO} times its {len(packed)} bytes; send it as it"
                    " is"
                )
            if not piece and not rest and at == len(view):
                break
    except zlib.error as exc:
        raise InvalidRequest(f"the request's body cannot be decoded: {coding}: {exc}") from exc
    if not unpacker.eof or unpacker.unused_data:
        what = "goes on behind its end" if unpacker.eof else "ends too early"
        raise InvalidRequest(f"the request's body cannot be decoded: {coding}: it {what}")
    return whole


def no_room() -> Overloaded:
    """Return the error for a body that there is no room for."""
    return Overloaded(
        "the router holds as many bytes of requests as it may; send it again later, or give the router a larger"
        " --body-budget-mib",
        1.0,
    )


def too_large(most_bytes: int) -> TooLarge:
    """Return the error for a body over a limit."""
    return TooLarge(f"the request's body is over the limit of {most_bytes} bytes")
