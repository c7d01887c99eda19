"""The mesh as an asyncio process sees it: publish, hear, and never notice that the sidecar died. Does IO."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.child import Child, RestartPolicy
from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import PeerId
from capamesh.protocol.mesh.messages import (
    Dial,
    Drains,
    Heard,
    Members,
    Publish,
    Ready,
    Revocations,
    Start,
    Subscribed,
    ToSidecar,
    Warned,
    from_wire,
    to_wire,
)
from capamesh.protocol.network import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.channel.framing import Message
    from capamesh.protocol.network import Membership

SIDECAR_ARGV: Final = (sys.executable, "-P", "-m", "capamesh.protocol.mesh")
"""`-P`: the working folder must not lend the sidecar a module by accident."""


def _ignore(*_: object) -> None:
    """Stand in for a callback that its owner does not need."""


class MeshClient:
    """Joins the mesh as `membership` says, through a supervised sidecar process.

    Callbacks run on the event loop and must not block:

    `on_message(topic, envelope, sender)`: a sealed envelope that passed the sidecar's checks (member,
        signature, network, age, not a replay); the sender's peer id is authenticated.
    `on_ready(peer_id, addrs)`: the sidecar listens; again after each restart, so re-announce here.
    `on_subscribed(topic, peers)`: a topic got its first remote listener: publish what it must hear.
    `on_members(peers)`: who is connected and proved membership changed; peer id to role.
    `on_revocations(encoded)`: a newer list was heard; it is not verified again here.
    `on_drains(encoded)`: a newer drain order was heard.
    `on_down(reason)`: the sidecar was lost and will be restarted; `publish` returns False until then.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        listen: Sequence[str],
        bootstrap: Sequence[str],
        subscribe: Sequence[str],
        log: FilteringBoundLogger,
        use_mdns: bool = False,
        revocations: bytes = b"",
        drains: bytes = b"",
        on_message: Callable[[str, bytes, PeerId], None] = _ignore,
        on_ready: Callable[[PeerId, tuple[str, ...]], None] = _ignore,
        on_subscribed: Callable[[str, tuple[PeerId, ...]], None] = _ignore,
        on_members: Callable[[Mapping[PeerId, Role]], None] = _ignore,
        on_revocations: Callable[[bytes], None] = _ignore,
        on_drains: Callable[[bytes], None] = _ignore,
        on_down: Callable[[str], None] = _ignore,
        restart: RestartPolicy | None = None,
        silent_limit_s: float = 10.0,
        argv: Sequence[str] = SIDECAR_ARGV,
    ) -> None:
        self._membership = membership
        self._listen = list(listen)
        self.bootstrap = list(bootstrap)
        """The addresses of the members that are dialled."""
        self._subscribe = list(subscribe)
        self._use_mdns = use_mdns
        self._revocations = revocations
        self._drains = drains
        self._on_message = on_message
        self._on_ready = on_ready
        self._on_subscribed = on_subscribed
        self._on_members = on_members
        self._on_revocations = on_revocations
        self._on_drains = on_drains
        self._on_down = on_down
        self._log = log
        self._last_listen = self._listen
        self._is_ready = False
        self._addrs: tuple[str, ...] = ()
        self._members: dict[PeerId, Role] = {}
        self.warnings: dict[str, int] = {}
        """The number of each of the sidecar's warnings, by event name."""
        self._child = Child(
            "mesh",
            argv,
            opening=lambda: to_wire(self._start_message()),
            on_message=self._receive,
            on_down=self._lost,
            restart=restart,
            silent_limit_s=silent_limit_s,
            log=log,
        )

    @override
    def __repr__(self) -> str:
        return f"MeshClient({self._child!r}, {len(self._members)} members connected)"

    @property
    def pid(self) -> int | None:
        """The sidecar's process id, or None while it is down."""
        return self._child.pid

    @property
    def is_ready(self) -> bool:
        """Return whether the sidecar runs and has joined, so that `publish` reaches all that listen."""
        return self._is_ready

    @property
    def addrs(self) -> tuple[str, ...]:
        """The addresses this member listens on, each ending in `/p2p/<peer id>`; empty while it is not ready."""
        return self._addrs

    @property
    def members(self) -> Mapping[PeerId, Role]:
        """Connected peers that proved membership, with their role; empty while the sidecar is down."""
        return dict(self._members)

    async def run(self) -> None:
        """Keep the sidecar running until cancelled."""
        await self._child.run()

    def publish(self, topic: str, envelope: bytes) -> bool:
        """Gossip a sealed envelope; False when the sidecar is down or stuck, and nothing was sent."""
        return self._is_ready and self._send(Publish(topic, envelope))

    def update_revocations(self, encoded: bytes) -> None:
        """Enforce and spread a newer revocation list; a sidecar that is down gets it when it starts."""
        self._revocations = encoded
        self._send(Revocations(encoded))

    def update_drains(self, encoded: bytes) -> None:
        """Spread a newer drain order; a sidecar that is down gets it when it starts."""
        self._drains = encoded
        self._send(Drains(encoded))

    def dial(self, addrs: Sequence[str]) -> None:
        """Keep connections to these members as well; survives a restart of the sidecar."""
        new = [addr for addr in addrs if addr not in self.bootstrap]
        self.bootstrap += new
        self._send(Dial(new))

    def renew(self, membership: Membership, bootstrap: Sequence[str] = ()) -> None:
        """Go on as `membership`, the renewed one: the sidecar is started anew, for its peers believe the old one."""
        self._membership = membership
        self.bootstrap += [addr for addr in bootstrap if addr not in self.bootstrap]
        self._child.restart("the membership was renewed")

    def _send(self, message: ToSidecar) -> bool:
        return self._child.send(to_wire(message))

    def _start_message(self) -> Start:
        membership = self._membership
        return Start(
            private_key=membership.identity.private_bytes,
            chain=list(membership.chain),
            ca_der=membership.ca_der,
            revocations=self._revocations,
            drains=self._drains,
            listen=self._last_listen,
            bootstrap=self.bootstrap,
            use_mdns=self._use_mdns,
            subscribe=self._subscribe,
        )

    def _receive(self, raw: Message) -> None:
        match from_wire(raw):
            case Heard(topic, data, sender):
                self._on_message(topic, data, PeerId(sender))
            case Subscribed(topic, peers):
                self._on_subscribed(topic, tuple(PeerId(peer) for peer in peers))
            case Members(nodes, routers):
                self._members = dict.fromkeys(map(PeerId, nodes), Role.NODE)
                self._members |= dict.fromkeys(map(PeerId, routers), Role.ROUTER)
                self._on_members(self.members)
            case Ready(peer_id, addrs):
                self._is_ready = True
                # A port that was picked by chance is kept over a restart: others know it by now.
                self._last_listen = [addr.partition("/p2p/")[0] for addr in addrs]
                self._addrs = tuple(addrs)
                self._on_ready(PeerId(peer_id), self._addrs)
            case Revocations(data):
                self._revocations = data
                self._on_revocations(data)
            case Drains(data):
                self._drains = data
                self._on_drains(data)
            case Warned(event, detail, count):
                self.warnings[event] = self.warnings.get(event, 0) + count
                self._log.warning("mesh_warning", mesh_event=event, detail=detail, count=count)
            case other:
                raise ProtocolViolation(
                    f"the sidecar sent {other.TYPE!r}, which only its owner sends"
                )

    def _lost(self, reason: str) -> None:
        if not self._is_ready:
            # The port may be what kept it from starting.
            self._last_listen = self._listen
        self._is_ready = False
        self._addrs = ()
        self._members = {}
        self._on_down(reason)
