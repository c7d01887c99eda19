"""The requests that one side of a link has asked, and who is told the answers. IO: none but the loop's log of crashes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

from mypy_extensions import mypyc_attr

from capamesh.protocol.errors import CapameshError, LinkLost, ProtocolViolation
from capamesh.protocol.links.events import ErrorReceived, LoadReceived, ResponseReceived
from capamesh.protocol.values import Value

_T = TypeVar("_T")


class Answer(Value):
    """A response as it came: metadata and body."""

    __slots__ = ("body", "meta")

    def __init__(self, meta: bytes, body: memoryview) -> None:
        self.meta = meta
        self.body = body


@mypyc_attr(native_class=False)
class ResponseHandler(Protocol):
    """The receiver of an answer. Told once, in the event loop, unless it withdraws; must not raise.

    An answer in parts is an error to it (`PeerError`), and the request is withdrawn: its first part would pass for all.
    """

    __slots__ = ()

    def answered(self, answer: Answer) -> None:
        """The answer is here."""

    def failed(self, error: CapameshError) -> None:
        """The peer answered with an error, or the link has ended (`LinkLost`)."""


@mypyc_attr(native_class=False)
class PartsHandler(ResponseHandler, ABC):
    """The receiver of an answer in parts: none or more of them, then its end, which `answered` or `failed` tells once.

    Parts that are held too long end the request: see `Link.release`.
    """

    __slots__ = ()

    @abstractmethod
    def part_answered(self, part: Answer) -> None:
        """One more part of the answer is here; others follow."""


@mypyc_attr(native_class=False)
class LoadHandler(Protocol):
    """The receiver of a peer's load. Told once, in the event loop, unless it withdraws; must not raise."""

    __slots__ = ()

    def reported(self, meta: bytes) -> None:
        """The load is here."""

    def failed(self, error: CapameshError) -> None:
        """The peer answered with an error, or the link has ended (`LinkLost`)."""


class Askers:
    """The askers of one link. A bug in one costs its own request and not the link, on which all others wait."""

    __slots__ = ("_describe", "_loop", "loads", "requests")

    def __init__(self, loop: asyncio.AbstractEventLoop, describe: Callable[[], str]) -> None:
        """`describe` returns which link it is, for the loop's log of crashes."""
        self._loop = loop
        self._describe = describe
        self.requests: dict[int, ResponseHandler] = {}
        """The receivers of answers, by stream."""
        self.loads: dict[int, LoadHandler] = {}
        """The receivers of the peer's load, by stream."""

    def answered(self, event: ResponseReceived) -> None:
        """Tell whoever waits for it that a whole answer is here."""
        asker = self.requests.pop(event.stream, None)
        if asker is not None:
            try:
                asker.answered(Answer(event.meta, event.body))
            except Exception as crash:  # noqa: BLE001 - the loop's handler logs it
                self._crashed(crash)

    def part_answered(self, asker: PartsHandler, event: ResponseReceived) -> None:
        """Tell `asker` that a part of its answer is here."""
        self._tell(asker.part_answered, Answer(event.meta, event.body))

    def reported(self, event: LoadReceived) -> None:
        """Tell whoever waits for it that the load is here; raise `ProtocolViolation` when nobody has probed for it."""
        asker = self.loads.pop(event.stream, None)
        if asker is None:
            raise ProtocolViolation(f"a load for the request on stream {event.stream}")
        self._tell(asker.reported, event.meta)

    def failed(self, event: ErrorReceived) -> None:
        """Tell whoever waits on the stream that the peer answered with an error."""
        asker = self.requests.pop(event.stream, None) or self.loads.pop(event.stream, None)
        if asker is not None:
            self._tell(asker.failed, event.error)

    def fail_all(self, lost: LinkLost) -> None:
        """Tell each in its turn that the link has ended; no error is shared."""
        for waiting in (self.requests, self.loads):
            for stream in list(waiting):
                asker = waiting.pop(stream, None)  # whoever was told before may have withdrawn it
                if asker is not None:
                    reported = LinkLost(lost.message)
                    reported.is_sudden = lost.is_sudden
                    self._tell(asker.failed, reported)

    def _tell(self, told: Callable[[_T], None], what: _T) -> None:
        try:
            told(what)
        except Exception as crash:  # noqa: BLE001 - the loop's handler logs it
            self._crashed(crash)

    def _crashed(self, crash: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": f"an asker on {self._describe()} crashed", "exception": crash}
        )
