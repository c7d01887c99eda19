"""Puts answers into their wire form; those of one run that differ in nothing but their data do so once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from capamesh.protocol.links.calls import InferAnswer, LoadReport, encode_answer
from capamesh.protocol.links.tensor_descriptions import check_outputs
from capamesh.protocol.tensors import Datatype, Limits, Tensor

if TYPE_CHECKING:
    from capamesh.node.models.registry import HostedModel
    from capamesh.node.scheduling import Batch, PendingRequest
    from capamesh.protocol.links.outgoing import Buffer

    _Form = list[tuple[str, Datatype, tuple[int, ...]]]


class AnswerEncoder:
    """The encoder of a worker's answers, with the metadata of the one before.

    The requests of a batch that came in one read have queued and run equally long and are told one load. Where their
    outputs look alike, too, their metadata are the same bytes.
    """

    __slots__ = ("_batch", "_form", "_limits", "_load", "_load_of", "_meta", "_queue_us")

    def __init__(self, limits: Limits, load_of: Callable[[HostedModel], LoadReport]) -> None:
        """`load_of` is asked once for all requests that ran together."""
        self._limits = limits
        self._load_of = load_of
        self._batch: Batch | None = None
        self._load = LoadReport()
        self._queue_us = 0
        self._form: _Form | None = None
        """The name, datatype and shape of each output of the answer that has `_meta`; None where others of the same
        form may be too large."""
        self._meta = b""

    def encode(
        self, hosted: HostedModel, request: PendingRequest, outputs: Sequence[Tensor]
    ) -> tuple[bytes, list[Buffer]]:
        """Return the metadata and the body of an answer.

        Raises:
            TooLarge: the receiver would refuse the outputs.
        """
        queue_us = int((request.started_s - request.arrived_s) * 1e6)
        batch = request.batch
        is_alone = batch is None or len(batch.requests) == 1
        form: _Form | None = (
            None
            if is_alone
            else [(tensor.name, tensor.datatype, tensor.shape) for tensor in outputs]
        )
        if is_alone or batch is not self._batch:
            self._batch = batch
            self._load = self._load_of(hosted)
        elif form == self._form and queue_us == self._queue_us:
            return self._meta, [tensor.data for tensor in outputs]
        self._form = None
        check_outputs(outputs, self._limits)
        run_us = int(request.run_s * 1e6)
        answer = InferAnswer(hosted.version, tuple(outputs), queue_us, run_us, self._load)
        self._meta, body = encode_answer(answer)
        self._queue_us = queue_us
        if form is not None and all(tensor.datatype is not Datatype.BYTES for tensor in outputs):
            self._form = form
        return self._meta, body
