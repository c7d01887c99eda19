"""One worker of a router as the main process sees it: the process, what it reported, what it is owed. IO: a process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from capamesh.protocol.child import Child
from capamesh.protocol.errors import ProtocolViolation, TooLarge
from capamesh.router.process.workers.messages import (
    Claim,
    Counts,
    Drains,
    Farewell,
    Figures,
    Forget,
    Gather,
    Heard,
    Held,
    Part,
    Recalled,
    Revocations,
    Start,
    Status,
    ToMain,
    ToWorker,
    Unclaim,
    Up,
    from_wire,
    to_wire,
)

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.channel.framing import Message
    from capamesh.protocol.child import Launch
    from capamesh.protocol.ids import PeerId
    from capamesh.router.page.others import Links, Models

ARGV: Final = (sys.executable, "-P", "-m", "capamesh.router.process.workers", "--http-fds")
FAREWELL_S: Final = 5.0
"""Seconds beyond a drain that a worker may take to end (guess: a hundred links are closed meanwhile)."""
SERVING: Final = frozenset({"ready", "waiting", "expired", "revoked"})
"""The states of a worker that accepts requests: it may have no node to send them to."""


class WorkerHandle:
    """One worker, which is started anew when it dies."""

    def __init__(
        self,
        number: int,
        opening: Callable[[], Start],
        http_fds: Sequence[int],
        metrics_fds: Sequence[int],
        *,
        on_message: Callable[[WorkerHandle, ToMain], None],
        on_down: Callable[[WorkerHandle], None],
        drain_s: float,
        log: FilteringBoundLogger,
        launch: Launch | None = None,
    ) -> None:
        """Start nothing yet. `http_fds` and `metrics_fds` are the numbers of the sockets that the worker shares with the others.

        `on_down` is called each time that it is lost, while `counts` and `history` are still what it reported last.
        """
        self.number = number
        self._on_message = on_message
        self._on_down = on_down
        self.status: Mapping[str, Any] = {}
        """The status as it reported it last; empty before it did."""
        self.is_up = False
        """True while it reads what it is sent, and can be asked."""
        self.serves = asyncio.Event()
        """The event that is set once it accepts requests."""
        self._is_leaving = asyncio.Event()
        self._drain_s = drain_s
        self.counts = b""
        """The metrics that it reported last; empty before it did."""
        self.figures: tuple[Links, Models] = ([], [])
        """The figures for the page that it reported last."""
        self.history: Mapping[str, Any] = {}
        """The counts for the history that it reported last; empty before it did."""
        self.last_down = ""
        """The reason for which it was last lost; empty while it never was."""
        self._owed: dict[str, ToWorker] = {}
        """The messages that it could not be sent, the newest of each kind, or of each sender's envelopes."""
        self._child = Child(
            f"worker-{number}",
            (*ARGV, *map(str, http_fds), "--metrics-fds", *map(str, metrics_fds)),
            opening=lambda: to_wire(opening()),
            on_message=self._received,
            on_down=self._lost,
            stop_grace_s=FAREWELL_S,
            inherited=(*http_fds, *metrics_fds),
            launch=launch,
            log=log,
        )

    @override
    def __repr__(self) -> str:
        return f"WorkerHandle({self._child!r})"

    @property
    def pid(self) -> int | None:
        """The process id, None while it is down."""
        return self._child.pid

    @property
    def is_serving(self) -> bool:
        """Return whether it accepts requests."""
        return self.pid is not None and self.status.get("state") in SERVING

    @property
    def link_address(self) -> str:
        """The address at which nodes dial it; empty while it takes no links."""
        return str(self.status.get("link_address", "")) if self.pid is not None else ""

    @property
    def row(self) -> dict[str, Any]:
        """Return what the router's status says of it."""
        return {
            "name": f"worker-{self.number}",
            "state": self.status.get("state", "starting") if self.pid is not None else "down",
            "reason": self.status.get("reason", ""),
            "pid": self.pid,
            "starts": self._child.starts,
            "last_down": self.last_down,
            "link_address": self.link_address,
        }

    async def run(self) -> None:
        """Keep it running until cancelled; then let it finish its requests."""
        await self._child.run()

    async def finish(self) -> None:
        """Let it finish its requests and report its last counts; return then, or when it takes too long or is gone."""
        if self._child.send({"type": "stop"}):
            self._is_leaving.clear()
            try:
                async with asyncio.timeout(self._drain_s + FAREWELL_S):
                    await self._is_leaving.wait()
            except TimeoutError:
                return

    def tell(self, message: ToWorker) -> None:
        """Send a message, now or when the worker reads again: of what it was not sent by then it gets the newest of each kind.

        Nodes to forget are a kind each.
        """
        kind = f"{message.TYPE} {message.peer}" if isinstance(message, Forget) else message.TYPE
        self._send_or_owe(kind, message)

    def hear(self, sender: PeerId, envelope: bytes) -> None:
        """Pass on an envelope likewise, the newest of each sender."""
        self._send_or_owe(sender, Heard(envelope))

    def ask(self, message: ToWorker) -> bool:
        """Send a message that is of no use later; return False where it cannot be sent."""
        return self._send(message)

    def flush(self) -> None:
        """Send what is owed, as far as it is read."""
        while self._owed:
            key = next(iter(self._owed))
            if not self._send(self._owed[key]):
                return
            del self._owed[key]

    def _send_or_owe(self, key: str, message: ToWorker) -> None:
        if self.pid is None:
            return  # it is told all when it is up
        if self._owed or not self._send(message):
            self._owed[key] = message

    def _send(self, message: ToWorker) -> bool:
        try:
            return self._child.send(to_wire(message))
        except TooLarge:
            return False

    def _received(self, raw: Message) -> None:
        message = from_wire(raw)
        match message:
            case Status(fields):
                self.status = fields
                if self.is_serving:
                    self.serves.set()
            case Counts(body, history):
                self.counts, self.history = body, history
            case Figures(links, models):
                self.figures = links, models
            case Up():
                self.is_up = True
            case Revocations() | Drains() | Held() | Gather() | Part() | Farewell():
                pass
            case Claim() | Unclaim() | Recalled():
                pass
            case other:
                raise ProtocolViolation(f"a worker sent {other.TYPE!r}, which is sent to it")
        if isinstance(message, Farewell):
            self._is_leaving.set()
        else:
            self._on_message(self, message)

    def _lost(self, reason: str) -> None:
        self.last_down = reason
        self._is_leaving.set()
        self.forget()

    def forget(self) -> None:
        """Take in that the process is gone, and all that it reported with it."""
        self._on_down(self)
        self._owed.clear()
        self.is_up = False
        self.figures = [], []
        self.status, self.counts, self.history = {}, b"", {}
