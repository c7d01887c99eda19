"""The methods that load and unload a model: on the nodes of the fleet, for who may command the router. IO: asyncio."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capamesh.protocol.ids import ModelName
from capamesh.protocol.links.calls import ControlAction
from capamesh.router.access.keys import check_scope
from capamesh.router.grpc.infer_request import plain_parameters
from capamesh.router.grpc.lookups import ListLookup, Running
from capamesh.router.requests.key_scope import constrained
from capamesh.router.requests.repository import RepositoryControl, WantedChange

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.access.keys import Key
    from capamesh.router.grpc.exchange import OnReply
    from capamesh.router.grpc.heads import CallHead
    from capamesh.router.grpc.messages import Message
    from capamesh.router.http.key_check import KeyCheck


class RepositoryCalls:
    """Makes what runs such a call."""

    def __init__(
        self, control: RepositoryControl, keys: KeyCheck, log: FilteringBoundLogger
    ) -> None:
        self._control = control
        self._keys = keys
        self._log = log

    def load(
        self, head: CallHead, key: Key | None, _: float, __: str, on_reply: OnReply
    ) -> Running:
        """Have nodes load a model from their folders."""
        return self._changes(ControlAction.LOAD, "RepositoryModelLoadRequest", head, key, on_reply)

    def unload(
        self, head: CallHead, key: Key | None, _: float, __: str, on_reply: OnReply
    ) -> Running:
        """Have nodes unload a model, until they are asked to load it."""
        return self._changes(
            ControlAction.UNLOAD, "RepositoryModelUnloadRequest", head, key, on_reply
        )

    def _changes(
        self,
        action: ControlAction,
        request: str,
        head: CallHead,
        key: Key | None,
        on_reply: OnReply,
    ) -> Running:
        return ListLookup(
            partial(self._change, action, head, key), request, self._log, key, on_reply
        )

    async def _change(
        self, action: ControlAction, head: CallHead, key: Key | None, request: Message
    ) -> bytes:
        """Make a change; return the empty message that says so."""
        by = self._keys.commander(key, head.authorization)
        if key is not None:
            check_scope(key, request.model_name)
        await self._control.change(
            WantedChange.read(
                action,
                ModelName(request.model_name),
                plain_parameters(request.parameters),
                constrained(head.options.constraints, key),
                by,
            )
        )
        return b""
