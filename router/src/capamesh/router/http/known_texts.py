"""Replies in JSON of which one differed in nothing but its numbers and its date: the rest is not written again. Pure.

What stands between the numbers follows from what the client asked for and from what the node said of its tensors, word for word.
Neither a key nor a tenant is among it, and nothing is known of an answer before it was checked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import NotInJson
from capamesh.protocol.oip.number_text import numbers_text
from capamesh.protocol.tensors import Datatype
from capamesh.protocol.values import Value
from capamesh.router.http.replies import Reply, head_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.oip import InferRequest, RequestedOutput

    _Key = tuple[bytes, str, str, str, tuple[RequestedOutput, ...], bool]

MAX_KNOWN: Final = 1024
"""Replies that are remembered (guess: some models on some nodes, their usual batch sizes); the oldest makes room."""
MAX_NUMBERS: Final = 1024
"""A reply with more numbers is written anew each time: most of its time is theirs (guess)."""
MAX_AROUND_BYTES: Final = 1024
"""A reply with more around its numbers is written anew each time (guess: some six outputs)."""


class _Known(Value):
    """The common part of replies that differ in nothing but their numbers and their date."""

    __slots__ = ("head", "headers", "outputs", "tail")

    def __init__(
        self,
        outputs: tuple[tuple[bytes, int], ...],
        tail: bytes,
        headers: Mapping[str, str],
        head: bytes,
    ) -> None:
        self.outputs = outputs
        """The text before each output's numbers, and its place among the answer's outputs."""
        self.tail = tail
        """The text after the last one's."""
        self.headers = headers
        self.head = head
        """The reply's head up to the number of its body's bytes."""


class KnownTexts:
    """The replies in JSON of one server."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[_Key, _Known] = {}

    @override
    def __repr__(self) -> str:
        return f"KnownTexts({len(self._known)})"

    def __len__(self) -> int:
        return len(self._known)

    def reply(
        self, asked: InferRequest, answer: InferAnswer, model: str, peer: str, most_bytes: int
    ) -> Reply | None:
        """Return the reply with an answer of `peer` to what was asked of `model`; None: none of its kind is known.

        None, too, where a number is none that JSON has, or the text has more than `most_bytes`.
        """
        if not answer.described or asked.id or asked.classes or asked.is_non_finite_text:
            return None
        known = self._known.get(_key(asked, answer, model, peer))
        if known is None:
            return None
        pieces: list[bytes] = []
        try:
            for before, place in known.outputs:
                pieces.append(before)
                pieces.append(numbers_text(answer.outputs[place]))
        except NotInJson:
            return None
        pieces.append(known.tail)
        body = b"".join(pieces)
        if len(body) > most_bytes:
            return None
        return Reply(200, known.headers, (body,), b"%b%d\r\n" % (known.head, len(body)))

    def learn(
        self, asked: InferRequest, answer: InferAnswer, model: str, peer: str, reply: Reply
    ) -> None:
        """Remember what stands around the numbers of a reply in JSON alone that was written for an answer.

        A request with an id is not remembered, because the id of the next differs; nor one that wants classes or texts for
        numbers that JSON does not have, which are rare; nor an answer of BYTES, or of many numbers.
        """
        if not answer.described or asked.id or asked.classes or asked.is_non_finite_text:
            return
        numbers = 0
        for output in answer.outputs:
            if output.datatype is Datatype.BYTES or output.datatype is Datatype.BOOL:
                return
            numbers += math.prod(output.shape)
        if numbers > MAX_NUMBERS or len(reply.buffers) != 1:
            return
        body = bytes(reply.buffers[0])
        names = [output.name for output in answer.outputs]
        order = [names.index(wanted.name) for wanted in asked.outputs] or [*range(len(names))]
        outputs: list[tuple[bytes, int]] = []
        at = 0
        for place in order:
            text = numbers_text(answer.outputs[place])
            begin = body.find(b'"data":[%b]}' % text, at) + len(b'"data":[')
            outputs.append((body[at:begin], place))
            at = begin + len(text)
        tail = body[at:]
        if sum(len(before) for before, _ in outputs) + len(tail) > MAX_AROUND_BYTES:
            return
        known = self._known
        if len(known) >= MAX_KNOWN:
            del known[next(iter(known))]
        head = head_of(reply, b"", len(body))
        end = head.rindex(b": ") + 2
        known[_key(asked, answer, model, peer)] = _Known(
            tuple(outputs), tail, reply.headers, head[:end]
        )


def _key(asked: InferRequest, answer: InferAnswer, model: str, peer: str) -> _Key:
    """Return all that the text around a reply's numbers follows from."""
    return answer.described, answer.version, model, peer, asked.outputs, asked.is_binary_default
