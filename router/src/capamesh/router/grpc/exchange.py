"""One inference request over gRPC, from its message to its reply. No IO of its own.

Each ends in exactly one `GrpcReply`, unless whoever asked has left before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, DeadlineExceeded, InvalidRequest, ShutOut
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.values import Value
from capamesh.router.access.keys import check_model
from capamesh.router.grpc.infer_answer import KnownAnswers, empty_final, in_stream
from capamesh.router.grpc.infer_request import KnownRequests, decode_in_steps, parsed, raw_apart
from capamesh.router.grpc.status import OK_TRAILERS, error_trailers
from capamesh.router.http.exchange import EXPLANATION_HEADER, NODE_HEADER, Inference, shortened
from capamesh.router.http.kept_replies import CACHE_HEADER
from capamesh.router.http.options import IDEMPOTENCY_KEY
from capamesh.router.http.packing import CODINGS, LEAST_BYTES
from capamesh.router.http.replies import size_of
from capamesh.router.requests.inference import InferenceRequest, Target
from capamesh.router.requests.key_scope import within_scope

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.oip import InferRequest
    from capamesh.router.access.keys import Key
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.grpc.heads import CallHead
    from capamesh.router.grpc.http2 import Headers
    from capamesh.router.grpc.messages import Message
    from capamesh.router.requests.call import Outcome, Part
    from capamesh.router.requests.slices import Job

WIRE: Final = "grpc"
"""The name of this wire in metrics."""
EMPTY_FINAL: Final = "triton_enable_empty_final_response"
"""The parameter by which a client asks for a last message without outputs, from a model that answers in parts."""
MAX_ID_CHARS: Final = 1024
"""The most of the id of a request that could not be read which is told with its error (guess)."""
MAX_NODES: Final = 1024
"""The nodes whose metadata is remembered (guess: more than a router asks); then all are forgotten."""
_NODE = NODE_HEADER.lower().encode()
_EXPLANATION = EXPLANATION_HEADER.lower().encode()
_CACHE = CACHE_HEADER.lower().encode()


class GrpcReply(Value):
    """The reply to a request: a message in pieces, or trailers that tell of an error."""

    __slots__ = (
        "error",
        "headers",
        "is_last",
        "is_packed",
        "part",
        "pieces",
        "request_id",
        "trailers",
    )

    def __init__(
        self,
        pieces: Sequence[bytes | memoryview],
        headers: Headers = (),
        trailers: Headers = OK_TRAILERS,
        error: CapameshError | None = None,
        *,
        is_last: bool = True,
        is_packed: bool = False,
        request_id: str = "",
        part: Part | None = None,
    ) -> None:
        self.pieces = pieces
        self.headers = headers
        """The metadata before the message."""
        self.trailers = trailers
        self.error = error
        """The error that the trailers tell of; None: there is a message, maybe an empty one."""
        self.is_last = is_last
        """False for one that others to the same request follow."""
        self.is_packed = is_packed
        """True if the message is packed, as its headers say."""
        self.request_id = request_id
        """The id of the request that failed; empty: it has none."""
        self.part = part
        """The part that the message tells of, to be released once the client's window has taken it."""


def error_reply(error: CapameshError) -> GrpcReply:
    """Return the reply that tells of an error."""
    return GrpcReply((), (), error_trailers(error), error)


OnReply = Callable[[GrpcReply], None]


class GrpcInference:
    """The services that exchanges need: those of all wires, and what is remembered of messages."""

    __slots__ = ("_nodes", "answers", "inference", "requests")

    def __init__(self, inference: Inference) -> None:
        self.inference = replace(inference, wire=WIRE)
        self.requests = KnownRequests()
        self.answers = KnownAnswers()
        self._nodes: dict[PeerId, tuple[tuple[bytes, bytes], ...]] = {}

    def node_headers(self, peer: PeerId) -> tuple[tuple[bytes, bytes], ...]:
        """Return the metadata that names the node which has answered."""
        headers = self._nodes.get(peer)
        if headers is None:
            if len(self._nodes) >= MAX_NODES:
                self._nodes.clear()
            headers = self._nodes[peer] = ((_NODE, peer.encode()),)
        return headers


class GrpcExchange(InferenceRequest):
    """One request."""

    __slots__ = (
        "_asked",
        "_grpc",
        "_head",
        "_is_streamed",
        "_job",
        "_key",
        "_most_s",
        "_on_reply",
        "_request_id",
    )

    def __init__(
        self,
        grpc: GrpcInference,
        head: CallHead,
        key: Key | None,
        deadline_s: float,
        client: str,
        on_reply: OnReply,
        *,
        is_streamed: bool = False,
    ) -> None:
        """`deadline_s` is on the router's clock, `client` the site of whoever asks. `on_reply` is told once, maybe before `begin` returns, and must not raise.

        If `is_streamed`, it may be told of parts before that.
        """
        super().__init__(grpc.inference, head.nobody, client)
        self._grpc = grpc
        self._head = head
        self._key = key
        self._most_s = deadline_s - self._started_s
        self._on_reply: OnReply | None = on_reply
        """The callback that takes the reply; None: it is over."""
        self._is_streamed = is_streamed
        self._asked: InferRequest | None = None
        self._request_id = ""
        self._job: Job[Any] | None = None
        """The long request that is being read."""

    def begin(self, message: memoryview) -> None:
        """Read the request and send it on its way: a short one at once, a long one in slices."""
        grpc, inference = self._grpc, self._grpc.inference
        if inference.standing.shut_out:
            self.fail(ShutOut(inference.standing.shut_out))
            return
        if self._most_s <= 0:
            self.fail(DeadlineExceeded("the request's time was over before all of it had come"))
            return
        rest = b""
        raw: list[memoryview] = []
        found: Message | None = None
        try:
            asked = grpc.requests.read_whole(message)
            if asked is None:
                rest, raw = raw_apart(message, inference.limits)
                asked = grpc.requests.read(rest, raw)
                found = parsed(rest) if asked is None else None
            if asked is not None:
                self._name(asked.model, asked.version)
            elif found is not None:
                self._request_id = found.id[:MAX_ID_CHARS]
                self._name(found.model_name, found.model_version)
        except CapameshError as error:
            self.fail(error.with_traceback(None))
            return
        if asked is not None:
            self._send(asked)
            return
        assert found is not None  # noqa: S101 - one of them is there
        steps = decode_in_steps(found, raw, inference.limits)
        try:
            next(steps)
        except StopIteration as done:
            asked = cast("InferRequest", done.value)
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self.crash(error)
            return
        else:
            self._job = inference.slices.begin(steps, self._read, self.crash, self._target.model)
            return
        grpc.requests.learn(message, rest, raw, asked)
        self._send(asked)

    def _name(self, model: str, version: str) -> None:
        """Note what is asked of whom, which only the message tells. Raises `InvalidRequest` or `Forbidden`."""
        head, key = self._head, self._key
        if self._is_streamed and head.idempotency_key:
            raise InvalidRequest(
                f"a stream has many requests, and one {IDEMPOTENCY_KEY} would name them all: leave it out, or send the"
                " request by ModelInfer"
            )
        most_chars = self._grpc.inference.limits.max_name_chars
        if max(len(model), len(version)) > most_chars:  # they are kept, in what failed of late
            raise InvalidRequest(
                f"model_name has {len(model)} characters and model_version {len(version)}; the limit of each is {most_chars}"
            )
        target = head.last
        if target is None or not (
            target.model == model and target.version == version and target.key is key
        ):
            self._target = target = Target(
                ModelName(model),
                ModelVersion(version),
                head.options,
                head.is_explained,
                head.parent,
                key=key,
                idempotency_key=head.idempotency_key,
            )
            if key is not None:
                check_model(key, model)
                target = replace(target, options=within_scope(head.options, key))
            head.last = target
        self._target = target

    @override
    def _read_request(self) -> InferRequest | None:
        return self._asked

    def _read(self, asked: InferRequest) -> None:
        """Send on its way what was read in slices."""
        self._job = None
        self._send(asked)

    def _send(self, asked: InferRequest) -> None:
        self._asked = asked
        self._request_id = asked.id
        self.submit(asked, self._most_s, takes_parts=self._is_streamed)

    @override
    def cancel(self) -> None:
        """Withdraw the request, for whoever asked has left. Nothing happens when it is over."""
        self._on_reply = None
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        super().cancel()

    @override
    def take_part(self, part: Part) -> None:
        """Write a part of the answer as a message."""
        asked, on_reply = self._asked, self._on_reply
        if asked is None or on_reply is None:
            return
        try:
            pieces = self._grpc.answers.written(
                asked, part.outcome.answer, self._target.model, is_final=False
            )
        except Exception as error:  # noqa: BLE001 - all end in one reply
            if self._handle is not None:
                self._handle.cancel()
            self.crash(error)
            return
        headers = self._grpc.node_headers(part.outcome.peer)
        on_reply(GrpcReply(in_stream(pieces), headers, is_last=False, part=part))

    @override
    def complete(self, outcome: Outcome) -> None:
        """Write the answer, or the last part of it, as a message."""
        asked, target, answer = self._asked, self._target, outcome.answer
        assert asked is not None  # noqa: S101 - it was read before it was sent
        headers: Headers = self._grpc.node_headers(outcome.peer)
        entry, replica = outcome.entry, outcome.replica
        if entry is not None:
            age_s = self._service.routing.clock() - entry.stored_s
            kept = ((_CACHE, entry.word.encode()), (b"age", b"%d" % max(0, int(age_s))))
            headers = (*headers, *kept)
        has_parts = replica is not None and replica.offer.max_parts > 0
        is_final = True if self._is_streamed else None
        rest: list[bytes | memoryview] | None = None
        if is_final and asked.parameters.get(EMPTY_FINAL) and has_parts:
            is_final, rest = False, empty_final(asked, answer, target.model)
        try:
            pieces = self._grpc.answers.written(asked, answer, target.model, is_final=is_final)
            if target.is_explained:
                explanation = outcome.picker.explain(self._service.routing.clock())
                why = shortened(explanation.to_json()).encode()
                headers = (*headers, (_EXPLANATION, why))
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self.crash(error)
            return
        self.count_answer(outcome)
        if self._is_streamed:
            if rest is not None and self._on_reply is not None:
                self._on_reply(GrpcReply(in_stream(pieces), headers, is_last=False))
                pieces = rest
            pieces = in_stream(pieces)
        if self._head.coding not in CODINGS or not self._packs(pieces, headers):
            self._end(GrpcReply(pieces, headers))

    def _packs(self, pieces: Sequence[bytes | memoryview], headers: Headers) -> bool:
        """Begin to pack a long answer for a client that packs its requests; return whether it is under way."""
        coding = self._head.coding
        if self._is_streamed or sum(map(size_of, pieces)) < LEAST_BYTES:
            return False

        def done(packed: bytes | None) -> None:
            if packed is None:
                self._end(GrpcReply(pieces, headers))
            else:
                told = [*headers, (b"grpc-encoding", coding.encode())]
                self._end(GrpcReply((packed,), told, is_packed=True))

        return self._grpc.inference.packer.begin(pieces, done, coding)

    @override
    def _render_error(self, error: CapameshError, explanation: Explanation | None) -> None:
        self._job = None
        reply = error_reply(error).replace(request_id=self._request_id)
        if explanation is not None:
            told = (_EXPLANATION, shortened(explanation.to_json()).encode())
            reply = reply.replace(trailers=[*reply.trailers, told])
        self._end(reply)

    def _end(self, reply: GrpcReply) -> None:
        on_reply, self._on_reply = self._on_reply, None
        self._is_over = True
        self._handle = self._asked = None
        if on_reply is not None:
            on_reply(reply)


NO_DEADLINE = math.inf
"""The deadline of a call whose head names no time: the router's own holds."""
