"""Puts answers into their wire form; what those have in common that differ in nothing but data and times is made once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.links.calls import LoadReport, encode_answer_head, encode_answer_tail
from capamesh.protocol.links.tensor_descriptions import check_outputs
from capamesh.protocol.tensors import BYTES, Limits, Tensor

if TYPE_CHECKING:
    from capamesh.node.models.registry import HostedModel
    from capamesh.node.scheduling import Batch, PendingRequest
    from capamesh.protocol.links.outgoing import Buffer

MAX_HEADS: Final = 1024
"""Beginnings of metadata that are remembered (guess: the models of a node, their usual batch sizes); the oldest makes room."""
MAX_HEAD_BYTES: Final = 1024
"""A longer one is written anew each time (guess: ten tensors)."""


class AnswerEncoder:
    """The encoder of a worker's answers.

    An answer's metadata begins with what the outputs look like, which is written once for all that look alike, and ends
    with times and the load. The requests of a batch that came in one read have queued and run equally long and are told
    one load, so that their metadata end alike.
    """

    __slots__ = ("_batch", "_heads", "_limits", "_load", "_load_of", "_queue_us", "_tail")

    def __init__(self, limits: Limits, load_of: Callable[[HostedModel], LoadReport]) -> None:
        """`load_of` is asked once for all requests that ran together."""
        self._limits = limits
        self._load_of = load_of
        self._heads: dict[tuple[object, ...], bytes] = {}
        """The beginnings, by the version and the name, datatype, shape and size of each output."""
        self._batch: Batch | None = None
        self._load = LoadReport()
        self._queue_us: int = 0
        self._tail = b""
        """The end for the batch and the time in the queue of the answer before; empty: of another batch."""

    @override
    def __repr__(self) -> str:
        return f"AnswerEncoder({len(self._heads)} beginnings)"

    def encode(
        self, hosted: HostedModel, request: PendingRequest, outputs: Sequence[Tensor]
    ) -> tuple[bytes, list[Buffer]]:
        """Return the metadata and the body of an answer.

        Raises:
            TooLarge: the receiver would refuse the outputs.
        """
        batch = request.batch
        if batch is None or batch is not self._batch or len(batch.requests) == 1:
            self._batch = batch
            self._load = self._load_of(hosted)
            self._tail = b""
        form: list[object] = [hosted.version]
        body: list[Buffer] = []
        has_texts = False
        for tensor in outputs:
            data = tensor.data
            size_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
            form += (tensor.name, tensor.datatype, tensor.shape, size_bytes)
            body.append(data)
            if tensor.datatype is BYTES:
                has_texts = True
        key = tuple(form)
        head = None if has_texts else self._heads.get(key)
        if head is None:
            head = self._head(hosted, outputs, None if has_texts else key)
        queue_us: int = int((request.started_s - request.arrived_s) * 1e6)
        if not self._tail or queue_us != self._queue_us:
            self._queue_us = queue_us
            self._tail = encode_answer_tail(queue_us, int(request.run_s * 1e6), self._load)
        return head + self._tail, body

    def _head(
        self, hosted: HostedModel, outputs: Sequence[Tensor], key: tuple[object, ...] | None
    ) -> bytes:
        """Return the beginning of the metadata of outputs that may be sent, and remember it by `key`.

        Raises `TooLarge`, and depends on the form alone but for texts, whose form is no key.
        """
        check_outputs(outputs, self._limits)
        head, _ = encode_answer_head(hosted.version, outputs)
        if key is not None and len(head) <= MAX_HEAD_BYTES:
            heads = self._heads
            if len(heads) >= MAX_HEADS:
                del heads[next(iter(heads))]
            heads[key] = head
        return head
