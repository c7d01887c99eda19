"""The request as policies are shown it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.values import Value

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.fleet.replica import Replica


class RequestShape(Value):
    """The properties of a request that a policy may go by."""

    __slots__ = (
        "affinity",
        "beginnings",
        "bulk_rows",
        "home",
        "is_pinned",
        "is_urgent",
        "model",
        "size_bytes",
        "version",
    )

    def __init__(
        self,
        model: ModelName,
        version: ModelVersion,
        size_bytes: int,
        affinity: str = "",
        is_pinned: bool = False,
        is_urgent: bool = False,
        bulk_rows: int = 0,
        home: Replica | None = None,
        beginnings: tuple[int, ...] = (),
    ) -> None:
        self.model = model
        self.version = version
        self.size_bytes = size_bytes
        self.affinity = affinity
        """Requests of one key should meet at one node: a sequence's id, a session, a prompt's digest; "": none."""
        self.is_pinned = is_pinned
        """True where requests with this key must go to the same replica, however busy it is, because the node keeps state between
        them."""
        self.is_urgent = is_urgent
        """Nodes give it the places of others that wait."""
        self.bulk_rows = bulk_rows
        """The rows of a call of a batch job, which says nothing of what people have to wait; 0: it is none."""
        self.home = home
        """The replica that alone has what the request needs, and is asked if it is there; None: there is none."""
        self.beginnings = beginnings
        """The names of the beginnings of a prompt, the shortest first, of which a node that has run them has kept the state; empty: it is no
        prompt."""
