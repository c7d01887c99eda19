"""The two ends of a router's one mesh."""

from __future__ import annotations

from typing import Any

from capamesh.protocol.ids import PeerId
from capamesh.protocol.mesh.client import MeshClient
from capamesh.router.process.workers.mesh import MainMesh, WorkerMesh
from capamesh.router.process.workers.messages import (
    Drains,
    MeshState,
    Revocations,
    ToMain,
    ToWorker,
)

PEER = PeerId("p")


class Membership:
    """A membership as far as the mesh looks at it."""

    def __init__(self) -> None:
        self.identity = self
        self.peer_id = PEER


class Ends:
    """Both ends, and what was said there."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.told: list[ToWorker] = []
        self.envelopes: list[tuple[PeerId, bytes]] = []
        self.sent: list[ToMain] = []
        member: Any = Membership()
        log: Any = self
        callbacks: dict[str, Any] = {
            "on_message": lambda topic, envelope, sender: self.heard.append(
                (topic, envelope, sender)
            ),
            "on_ready": lambda peer, addrs: self.heard.append((peer, addrs)),
            "on_revocations": self.heard.append,
            "on_drains": self.heard.append,
            "on_down": lambda _: self.heard.append("down"),
        }
        self.main = MainMesh(
            MeshClient,
            member,
            tell=self.told.append,
            hear=lambda sender, envelope: self.envelopes.append((sender, envelope)),
            listen=[],
            bootstrap=[],
            subscribe=[],
            log=log,
            **callbacks,
        )
        self.worker = WorkerMesh(member, send=self._send, listen=[], **callbacks)

    def bind(self, **_: object) -> Ends:
        return self

    def _send(self, message: ToMain) -> bool:
        self.sent.append(message)
        return True


def sidecar_of(mesh: MainMesh) -> Any:
    return mesh._mesh


def sidecar_says(mesh: MainMesh, kind: str, **fields: Any) -> None:
    sidecar_of(mesh)._receive({"type": kind, **fields})


def test_main_process_takes_in_what_it_hears_and_passes_it_on() -> None:
    ends = Ends()
    sidecar_says(ends.main, "ready", peer_id=PEER, addrs=["/a"])
    sidecar_says(ends.main, "message", topic="t", data=b"e", sender="s", via="v")
    sidecar_says(ends.main, "revocations", data=b"r")
    sidecar_says(ends.main, "drains", data=b"d")
    sidecar_of(ends.main)._lost("killed")
    assert ends.heard == [(PEER, ("/a",)), ("t", b"e", "s"), b"r", b"d", "down"]
    assert ends.envelopes == [(PeerId("s"), b"e")]
    assert ends.told == [MeshState(("/a",)), Revocations(b"r"), Drains(b"d"), MeshState(())]


def test_worker_hears_as_if_the_sidecar_were_its_own_and_announces_nothing() -> None:
    ends = Ends()
    ends.worker.heard(b"e")
    ends.worker.turned(("/a",))
    assert ends.worker.addrs == ("/a",)
    ends.worker.turned(())
    ends.worker.heard_drains(b"d")
    assert ends.heard == [("", b"e", ""), (PEER, ("/a",)), "down", b"d"]
    assert (ends.worker.addrs, ends.worker.pid) == ((), None)
    assert not ends.worker.publish("t", b"own")
