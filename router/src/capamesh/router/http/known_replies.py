"""Replies of which one differed in nothing but its tensors' bytes and its date: the rest is not written again. Pure.

What a reply with binary outputs begins with follows from what the client asked for and from what the node said of its
tensors, word for word. Neither a key nor a tenant is among it, and nothing is known of an answer before it was checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.values import Value
from capamesh.router.http.replies import Reply, head_of, size_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.oip import InferRequest, RequestedOutput

    _Key = tuple[bytes, str, str, str, tuple[RequestedOutput, ...], bool]

MAX_KNOWN: Final = 1024
"""Beginnings that are remembered (guess: some models on some nodes, their usual batch sizes); the oldest makes room."""
MAX_JSON_BYTES: Final = 1024
"""A reply with more JSON is written anew each time (guess: some six outputs)."""


class _Known(Value):
    """The common part of replies that differ in nothing but their tensors' bytes and their date."""

    __slots__ = ("beginning", "headers", "json", "order")

    def __init__(
        self,
        json: bytes | memoryview,
        order: tuple[int, ...],
        headers: Mapping[str, str],
        beginning: bytes,
    ) -> None:
        self.json = json
        self.order = order
        """The places of the reply's tensors among the answer's outputs."""
        self.headers = headers
        self.beginning = beginning


class KnownReplies:
    """The beginnings of the replies of one server."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[_Key, _Known] = {}

    @override
    def __repr__(self) -> str:
        return f"KnownReplies({len(self._known)})"

    def __len__(self) -> int:
        return len(self._known)

    def reply(
        self, asked: InferRequest, answer: InferAnswer, model: str, peer: str
    ) -> Reply | None:
        """Return the reply with an answer of `peer` to what was asked of `model`; None: none of its kind is known."""
        if not answer.described or asked.id or asked.classes:
            return None
        known = self._known.get(_key(asked, answer, model, peer))
        if known is None:
            return None
        outputs = answer.outputs
        buffers: list[bytes | memoryview] = [known.json]
        for place in known.order:
            data = outputs[place].data
            buffers.append(memoryview(data) if isinstance(data, bytearray) else data)
        return Reply(200, known.headers, buffers, known.beginning)

    def learn(
        self, asked: InferRequest, answer: InferAnswer, model: str, peer: str, reply: Reply
    ) -> None:
        """Remember how a reply begins that was written for an answer, if the next of its kind begins so too.

        That is so if all its tensors are binary. A request with an id is not remembered, because the id of the next
        differs; nor one that wants classes, which are rare.
        """
        if not answer.described or asked.id or asked.classes:
            return
        names = [output.name for output in answer.outputs]
        order = [names.index(wanted.name) for wanted in asked.outputs] or [*range(len(names))]
        json, *tensors = reply.buffers
        if len(tensors) != len(order) or len(json) > MAX_JSON_BYTES:
            return
        known = self._known
        if len(known) >= MAX_KNOWN:
            del known[next(iter(known))]
        body_bytes = sum(map(size_of, reply.buffers))
        beginning = head_of(reply, b"", body_bytes)
        known[_key(asked, answer, model, peer)] = _Known(
            json, tuple(order), reply.headers, beginning
        )


def _key(asked: InferRequest, answer: InferAnswer, model: str, peer: str) -> _Key:
    """Return all that the beginning of a reply follows from."""
    return answer.described, answer.version, model, peer, asked.outputs, asked.is_binary_default
