"""The two ends of a router's one mesh: the main process passes on what its sidecar hears, a worker hears that. IO: the sidecar."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from capamesh.protocol.ids import PeerId
from capamesh.router.process.seat import Mesh
from capamesh.router.process.workers.messages import (
    Drains,
    MeshState,
    Revocations,
    ToMain,
    ToWorker,
)

if TYPE_CHECKING:
    from capamesh.protocol.network import Membership

Tell = Callable[[ToWorker], None]
Hear = Callable[[PeerId, bytes], None]


class MainMesh(Mesh):
    """The mesh of a main process: all that comes from it, or from an operator, goes to the workers too."""

    def __init__(
        self,
        make_mesh: Callable[..., Mesh],
        membership: Membership,
        *,
        tell: Tell,
        hear: Hear,
        on_message: Callable[[str, bytes, PeerId], None],
        on_ready: Callable[[PeerId, tuple[str, ...]], None],
        on_revocations: Callable[[bytes], None],
        on_drains: Callable[[bytes], None],
        on_down: Callable[[str], None],
        **options: Any,  # noqa: ANN401 - as they are handed on
    ) -> None:
        """`make_mesh` makes the mesh itself; `tell` sends a message to each worker, `hear` an envelope of a member."""
        self._tell = tell

        def message(topic: str, envelope: bytes, sender: PeerId) -> None:
            on_message(topic, envelope, sender)
            hear(sender, envelope)

        def ready(peer: PeerId, addrs: tuple[str, ...]) -> None:
            on_ready(peer, addrs)
            tell(MeshState(addrs))

        def revocations(encoded: bytes) -> None:
            on_revocations(encoded)
            tell(Revocations(encoded))

        def drains(encoded: bytes) -> None:
            on_drains(encoded)
            tell(Drains(encoded))

        def down(reason: str) -> None:
            on_down(reason)
            tell(MeshState(()))

        self._mesh = make_mesh(
            membership,
            on_message=message,
            on_ready=ready,
            on_revocations=revocations,
            on_drains=drains,
            on_down=down,
            **options,
        )

    @property
    @override
    def pid(self) -> int | None:
        return self._mesh.pid

    @property
    @override
    def addrs(self) -> tuple[str, ...]:
        return self._mesh.addrs

    @override
    async def run(self) -> None:
        await self._mesh.run()

    @override
    def publish(self, topic: str, envelope: bytes) -> bool:
        return self._mesh.publish(topic, envelope)

    @override
    def renew(self, membership: Membership, bootstrap: Sequence[str] = ()) -> None:
        self._mesh.renew(membership, bootstrap)

    @override
    def update_revocations(self, encoded: bytes) -> None:
        self._mesh.update_revocations(encoded)
        self._tell(Revocations(encoded))

    @override
    def update_drains(self, encoded: bytes) -> None:
        self._mesh.update_drains(encoded)
        self._tell(Drains(encoded))


class WorkerMesh(Mesh):
    """The mesh of a worker: what the main process tells of it. What an operator posts here goes to the main process."""

    def __init__(
        self,
        membership: Membership,
        *,
        send: Callable[[ToMain], bool],
        on_message: Callable[[str, bytes, PeerId], None],
        on_ready: Callable[[PeerId, tuple[str, ...]], None],
        on_revocations: Callable[[bytes], None],
        on_drains: Callable[[bytes], None],
        on_down: Callable[[str], None],
        **_: Any,  # noqa: ANN401 - not used
    ) -> None:
        """`send` sends a message to the main process. Of the arguments of a `MeshClient` those are used that are heard."""
        self._peer_id = membership.identity.peer_id
        self._send = send
        self._on_message = on_message
        self._on_ready = on_ready
        self._on_down = on_down
        self.heard_revocations = on_revocations
        self.heard_drains = on_drains
        self._addrs: tuple[str, ...] = ()

    @property
    @override
    def pid(self) -> int | None:
        return None

    @property
    @override
    def addrs(self) -> tuple[str, ...]:
        return self._addrs

    @override
    async def run(self) -> None:
        await asyncio.Event().wait()

    @override
    def publish(self, topic: str, envelope: bytes) -> bool:
        return False

    @override
    def update_revocations(self, encoded: bytes) -> None:
        self._send(Revocations(encoded))

    @override
    def update_drains(self, encoded: bytes) -> None:
        self._send(Drains(encoded))

    @override
    def renew(self, membership: Membership, bootstrap: Sequence[str] = ()) -> None:
        """Do nothing: the main process's sidecar is renewed."""

    def heard(self, envelope: bytes) -> None:
        """Take in an envelope that the main process passes on."""
        self._on_message("", envelope, PeerId(""))

    def turned(self, addrs: tuple[str, ...]) -> None:
        """Take in that the mesh is up at these addresses, or down if there are none."""
        self._addrs = addrs
        if addrs:
            self._on_ready(self._peer_id, addrs)
        else:
            self._on_down("the main process's sidecar is down")
