"""The seat of a process in its router: it is the whole router, or one of several processes. IO: signals, the data folder.

What a router does once, however many processes it has, is asked of the seat: who keeps the data folder, who hears the
mesh, who announces, from whom orders to stop come, and what the other processes have to say on a page.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.mesh.client import MeshClient
from capamesh.router.access.operator_key import OperatorKey
from capamesh.router.http.elsewhere import NOBODY_ELSE
from capamesh.router.page.others import OthersFigures

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.network import Membership
    from capamesh.router.fleet.overrides import Hold
    from capamesh.router.http.elsewhere import Elsewhere
    from capamesh.router.page.history import Totals


class Mesh(Protocol):
    """The mesh as a router's process reaches it: by a sidecar of its own, or by the main process's."""

    @property
    def pid(self) -> int | None:
        """Return the process id of the sidecar, None while it is down."""
        ...

    @property
    def addrs(self) -> tuple[str, ...]:
        """Return the addresses of this member in the mesh; empty while the sidecar is down."""
        ...

    async def run(self) -> None:
        """Keep what it needs running until cancelled."""

    def publish(self, topic: str, envelope: bytes) -> bool:
        """Gossip a sealed envelope; return False where nothing was sent."""
        ...

    def update_revocations(self, encoded: bytes) -> None:
        """Enforce and spread a newer revocation list."""

    def update_drains(self, encoded: bytes) -> None:
        """Spread a newer drain order."""

    def renew(self, membership: Membership, bootstrap: Sequence[str] = ()) -> None:
        """Go on as `membership`, the renewed one."""


class Controls(Protocol):
    """The part of a router's process that is told what to do."""

    def stop(self) -> None:
        """Finish the requests under way and end."""

    def reload(self) -> None:
        """Read the rules anew, and look at the membership."""

    def take(self, hold: Hold) -> None:
        """Take the operator's word on a node."""

    async def part(self, page: str) -> bytes:
        """Return this process's part of a page, as `http.elsewhere` names it."""
        ...

    def totals(self) -> Totals:
        """Return what this process has counted."""
        ...


class Seat(Protocol):
    """The part of a router's process that differs from one process of the router to the other."""

    is_main: bool
    """True of the process that stands for the router in the network: it keeps the folder, and announces."""
    shared: Sequence[socket.socket]
    """The sockets on which HTTP comes to all processes of the router; none: this one listens by itself."""
    shared_metrics: Sequence[socket.socket]
    """The sockets on which operators come to all processes; none: this one listens by itself, if they have an address."""
    elsewhere: Elsewhere
    """The other processes of the router."""
    others: OthersFigures
    """The figures of the other processes, which are shown on the page."""
    make_mesh: Callable[..., Mesh]
    """Makes the end of the mesh, with the arguments of a `MeshClient`."""

    def take_home(self, folder: Path, log: FilteringBoundLogger) -> DataDir:
        """Take the data folder; raise `ConfigError` when another router has it."""
        ...

    def operator_key(self, folder: Path) -> OperatorKey:
        """Return the key by which the operator is known."""
        ...

    def obey(self, controls: Controls) -> None:
        """Hand on the orders that come to this process from now on."""
        ...

    def renewed(self) -> None:
        """Tell other processes that the folder holds a renewed membership."""
        ...

    async def settle(self) -> None:
        """Wait until this process may be sent requests."""
        ...

    async def run(self) -> None:
        """Do what the seat has to do while the process runs, until cancelled."""
        ...


class WholeRouter(Seat):
    """The seat of a router that is one process."""

    def __init__(self) -> None:
        self.is_main = True
        self.shared: Sequence[socket.socket] = ()
        self.shared_metrics: Sequence[socket.socket] = ()
        self.elsewhere = NOBODY_ELSE
        self.others = OthersFigures()
        self.make_mesh: Callable[..., Mesh] = MeshClient

    @override
    def take_home(self, folder: Path, log: FilteringBoundLogger) -> DataDir:
        home = DataDir(folder, log)
        home.lock()
        return home

    @override
    def operator_key(self, folder: Path) -> OperatorKey:
        return OperatorKey.create(folder)

    @override
    def obey(self, controls: Controls) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, controls.stop)
        loop.add_signal_handler(signal.SIGHUP, controls.reload)

    @override
    def renewed(self) -> None:
        """Do nothing: there is no other process."""

    @override
    async def settle(self) -> None:
        """Return at once: nobody else could take the requests."""

    @override
    async def run(self) -> None:
        await asyncio.Event().wait()
