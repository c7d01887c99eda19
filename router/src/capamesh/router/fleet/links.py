"""Links to all nodes: dials those that can be dialled, takes in those that dial. IO: asyncio."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import NotMember, ProtocolViolation
from capamesh.protocol.links.calls import decode_told_load
from capamesh.protocol.links.keeper import UNANSWERED, LinkKeeper
from capamesh.protocol.links.link import Link, LinkHandler
from capamesh.protocol.links.transport import LinkTransport, check_hello, is_one_too_many
from capamesh.protocol.network import Member, Membership, NetworkTrust, Role
from capamesh.protocol.reach import Inside
from capamesh.protocol.tensors import DEFAULT_LIMITS
from capamesh.router.fleet.dialing import Dialling
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.updates import Dialler

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.protocol.links.hello import Hello

MAX_VISITS_OF_PEER = 128
"""A node has up to 64 devices, each with a worker that dials; the rest is for links that linger."""
MAX_VISITS_OF_INVITE_MEMBER = 8
"""All members of an invite together may have this many links from their side, times what the invite admits (guess: few
nodes have more devices)."""
RECHECK_MEMBERS_S = 60.0
"""Links are checked this often for peers whose membership has expired (guess)."""


class _NodeSide(LinkHandler):
    """The owner of links to nodes: they answer and never ask, so little comes from them."""

    def __init__(self, pool: LinkPool, endpoint: Endpoint | None) -> None:
        self._pool = pool
        self._endpoint = endpoint

    @override
    def verify(self, hello: Hello, certificate: bytes) -> Member:
        """Check that the peer is the node that was dialled, or a node where the peer dialled.

        A node that takes smaller messages than this router takes requests is of no use: requests that it cannot
        have would be sent to it all the same. Raises `ProtocolViolation` for that.
        """
        least_bytes = self._pool.least_message_bytes
        if hello.message_bytes < least_bytes:
            raise ProtocolViolation(
                f"the node takes messages of at most {hello.message_bytes} bytes, this router takes requests of"
                f" {least_bytes}: upgrade the node"
            )
        peer: PeerId | None = self._endpoint.peer if self._endpoint is not None else None
        return check_hello(
            self._pool.trust,
            hello,
            certificate,
            self._pool.now(),
            role=Role.NODE,
            peer=peer,
        )

    @override
    def link_up(self, link: Link) -> None:
        if self._endpoint is None:
            if is_one_too_many(self._pool.visiting(), link, MAX_VISITS_OF_PEER):
                return
            assert link.member is not None  # noqa: S101 - `link_up` comes after verification
            refusal = self._pool.refusal_of_visit(link.member)
            if refusal:
                link.close(refusal)
                return
            self._endpoint = self._pool.visited(link)
        self._pool.links[self._endpoint] = self._endpoint.link = link
        link.on_round_trip = self._endpoint.network.round_trip
        self._pool.linked(self._endpoint)

    @override
    def link_down(self, link: Link, reason: str) -> None:
        endpoint = self._endpoint
        if endpoint is not None and endpoint.link is link:
            endpoint.link = None
            del self._pool.links[endpoint]
            self._pool.unlinked(endpoint, reason)

    @override
    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        """Refuse the request: a node has nothing to ask of a router."""
        del meta, body
        link.fail(stream, NotMember("routers run no models; send requests to their HTTP address"))

    @override
    def request_cancelled(self, link: Link, stream: int) -> None:
        """Do nothing: every request was refused at once."""

    @override
    def parts_released(self, link: Link, stream: int) -> None:
        """Do nothing: a router answers nothing."""

    @override
    def load(self, meta: bytes) -> bytes:
        """Return an empty load: a router has none."""
        del meta
        return b"\x80"

    @override
    def load_told(self, link: Link, meta: bytes) -> None:
        """Take in the load that the node tells, for requests there were withdrawn."""
        endpoint = self._endpoint
        if endpoint is None or endpoint.link is not link:
            return
        try:
            told = decode_told_load(meta)
        except ProtocolViolation as error:
            link.close(f"{error.code}: {error.message}")
            return
        self._pool.on_load(endpoint, *told)

    @override
    def goaway_received(self, link: Link, reason: str) -> None:
        """Do nothing: the link takes no new requests by itself."""

    @override
    def read_ended(self, link: Link) -> None:
        """Do nothing: every frame was acted on as it came."""


class LinkPool(Dialler):
    """One kept link for each endpoint that can be dialled, and the links of those that dialled."""

    def __init__(
        self,
        transport: LinkTransport,
        trust: NetworkTrust,
        *,
        on_visit: Callable[[Endpoint], None],
        on_leave: Callable[[Endpoint], None],
        on_linked: Callable[[Endpoint], None] = lambda _: None,
        least_message_bytes: int = DEFAULT_LIMITS.max_message_bytes,
        invite_of: Callable[[PeerId], str] = str,
        innermost: Inside = Inside.LOOPBACK,
        name_of: Callable[[PeerId], str] = lambda _: "",
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        on_unlinked: Callable[[Endpoint], None] = lambda _: None,
        on_load: Callable[
            [Endpoint, ModelName, ModelVersion, LoadReport], None
        ] = lambda _node, _model, _version, _load: None,
        dial_share: float = 1.0,
        log: FilteringBoundLogger,
    ) -> None:
        """`least_message_bytes` is what a node must take of one request.

        `invite_of` tells which invite admitted a node: dials are rationed by it; `name_of` its name, for the log. What a node's name leads to is
        dialled if it lies no further inside than `innermost`. Memberships are judged by `now`. `dial_share` is the part of a router's dials that this
        process of it has.
        """
        self._transport = transport
        self.trust = trust
        self.least_message_bytes = least_message_bytes
        self._on_visit = on_visit
        self._on_leave = on_leave
        self._on_linked = on_linked
        self._invite_of = invite_of
        self._innermost = innermost
        self._name_of = name_of
        self.now = now
        self._on_unlinked = on_unlinked
        self.on_load = on_load
        """The callback that is told the load of a model that a node tells unasked."""
        self._dial_share = dial_share
        self._log = log
        self._dialling: Dialling | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._early: dict[Endpoint, None] = {}
        self._keepers: dict[Endpoint, tuple[LinkKeeper, asyncio.Task[None]]] = {}
        self._visitors: set[Endpoint] = set()
        self.links: dict[Endpoint, Link] = {}
        """The links that are up."""
        self._visit_numbers = itertools.count(1)

    async def run(self, replica: str, port: int, on_listening: Callable[[int], None]) -> None:
        """Keep links until cancelled; `on_listening` is told the port that nodes may dial."""
        server = await self._transport.listen(replica, port, lambda: _NodeSide(self, None))
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks, self._dialling = tasks, Dialling(self._dial_share)
                early, self._early = self._early, {}
                for endpoint in early:
                    self.keep(endpoint)
                on_listening(server.sockets[0].getsockname()[1])
                try:
                    while True:
                        await asyncio.sleep(RECHECK_MEMBERS_S)
                        self.recheck_members()
                finally:
                    self._tasks = None  # a group that ends takes no new tasks
        finally:
            server.close()
            for endpoint in self._visitors:
                if endpoint in self.links:
                    self.links[endpoint].close("the router is stopping")

    def keep(self, endpoint: Endpoint) -> None:
        """Dial an endpoint and keep its link up; before `run`, as soon as that begins."""
        if self._tasks is None or self._dialling is None:
            self._early[endpoint] = None
            return
        if endpoint.is_retired:
            return
        side, dialling, peer = _NodeSide(self, endpoint), self._dialling, endpoint.peer
        keeper = LinkKeeper(
            lambda: self._transport.dial(endpoint.address, side, innermost=self._innermost),
            permit=lambda is_known: dialling.permit(self._invite_of(peer), is_known=is_known),
            unanswered=UNANSWERED,
        )
        self._keepers[endpoint] = (keeper, self._tasks.create_task(keeper.run()))

    def let_go(self, endpoint: Endpoint) -> None:
        """Hang up once the requests under way are answered."""
        self._early.pop(endpoint, None)
        endpoint.retire(lambda: self._hang_up(endpoint))

    @property
    def dials_waiting(self) -> int:
        """The number of dials that wait for their turn."""
        return self._dialling.waiting if self._dialling is not None else 0

    @override
    def hurry(self, endpoint: Endpoint, *, is_changed: bool = True) -> None:
        """An endpoint's node was heard: if its link is down, dial now.

        Unless it says something else than before (`is_changed`), an address that never answered is not hurried.
        """
        kept = self._keepers.get(endpoint)
        if kept is not None and endpoint.link is None and (is_changed or kept[0].has_answered):
            kept[0].hurry()

    def redial_s(self, endpoint: Endpoint) -> float:
        """Return in how long an endpoint is dialled next; 0: at once, or nobody knows as it dials itself."""
        kept = self._keepers.get(endpoint)
        return kept[0].due_in_s() if kept is not None else 0.0

    def renew(self, membership: Membership) -> None:
        """Show this router's renewed membership on open links and new ones; raise `ConfigError` as the endpoint does."""
        hello = self._transport.renew(membership)
        for endpoint in (*self._keepers, *self._visitors):
            if endpoint in self.links:
                self.links[endpoint].introduce(hello)

    def recheck_members(self) -> None:
        """End the links of peers that are revoked or have expired."""
        for endpoint in (*self._keepers, *self._visitors):
            link = self.links.get(endpoint)
            if link is None:
                continue
            try:
                link.recheck()
            except NotMember as error:
                link.close(f"{error.code}: {error.message}")

    def last_error(self, endpoint: Endpoint) -> str:
        """Return why the endpoint's link is down, for people."""
        kept = self._keepers.get(endpoint)
        return kept[0].last_error if kept is not None else ""

    # told by links

    def visiting(self) -> list[Link | None]:
        """Return the links of the nodes that dialled this router."""
        return [self.links.get(endpoint) for endpoint in self._visitors]

    def refusal_of_visit(self, member: Member) -> str:
        """Return why a node that dialled has no place beside the others of its invite, for people; "" when it has."""
        links = [
            link.member.peer_id
            for link in self.visiting()
            if link is not None
            and link.member is not None
            and link.member.invite_serial == member.invite_serial
        ]
        peers = set(links)
        if member.peer_id not in peers and len(peers) >= member.invite_members:
            return f"its invite admits {member.invite_members} members, and as many have dialled this router"
        most = max(MAX_VISITS_OF_PEER, MAX_VISITS_OF_INVITE_MEMBER * member.invite_members)
        if len(links) >= most:
            return (
                f"{len(links)} links of members of its invite are open, the limit; close one first"
            )
        return ""

    def visited(self, link: Link) -> Endpoint:
        """A node has dialled this router."""
        assert link.member is not None  # noqa: S101 - `link_up` comes after verification
        endpoint = Endpoint(link.member.peer_id, f"dialled-in-{next(self._visit_numbers)}")
        self._visitors.add(endpoint)
        return endpoint

    def linked(self, endpoint: Endpoint) -> None:
        """An endpoint's link is up."""
        if endpoint in self._visitors:
            self._on_visit(endpoint)
        self._on_linked(endpoint)
        self._log.info(
            "node_linked",
            node=self._name_of(endpoint.peer),
            peer=endpoint.peer,
            address=endpoint.address,
        )

    def unlinked(self, endpoint: Endpoint, reason: str) -> None:
        """An endpoint's link has ended."""
        self._on_unlinked(endpoint)
        if endpoint in self._visitors:
            self._visitors.discard(endpoint)
            self._on_leave(endpoint)
        self._log.info(
            "node_unlinked",
            node=self._name_of(endpoint.peer),
            peer=endpoint.peer,
            address=endpoint.address,
            reason=reason,
        )

    def _hang_up(self, endpoint: Endpoint) -> None:
        kept = self._keepers.pop(endpoint, None)
        if kept is not None:
            kept[1].cancel()
