"""The interface of a link to a node, as requests and probes need it. Pure.

A `protocol.links.link.Link` is one as it is; a simulation has links of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mypy_extensions import mypyc_attr

if TYPE_CHECKING:
    from capamesh.protocol.links.events import Answer
    from capamesh.protocol.links.handlers import LoadHandler, ResponseHandler
    from capamesh.protocol.links.outgoing import Buffer


@mypyc_attr(native_class=False)
class NodeLink(Protocol):
    """A link to a node that is up, or has been."""

    __slots__ = ()

    @property
    def is_usable(self) -> bool:
        """Return whether a new request may be sent."""
        ...

    @property
    def peer_process(self) -> bytes:
        """Return the process of the node at the other end; empty if it does not say."""
        ...

    def ask(self, meta: bytes, body: Sequence[Buffer], asker: ResponseHandler, /) -> int:
        """Send a request, whose answer `asker` is told; return its number. Raises `LinkLost`."""
        ...

    def withdraw(self, stream: int, /) -> None:
        """Want the answer to a request no more; its asker is told nothing."""
        ...

    def release(self, stream: int, part: Answer, /) -> None:
        """Let the node send more of an answer, for a part of it has been passed on."""
        ...

    def ask_load(self, meta: bytes, asker: LoadHandler, /) -> int:
        """Ask for the node's load, which `asker` is told; return the probe's number. Raises `LinkLost`."""
        ...

    def withdraw_load(self, stream: int, /) -> None:
        """Want the load no more; its asker is told nothing."""
        ...
