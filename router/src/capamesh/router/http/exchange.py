"""One inference request over HTTP, from its body to its reply. No IO of its own.

Each ends in exactly one `Reply`, unless whoever asked has left before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, ShutOut
from capamesh.protocol.oip import (
    HEADER_LENGTH_NAME,
    NO_PARAMETERS,
    InferRequest,
    InferResponse,
    RequestForms,
    TextForms,
    decode_request_in_steps,
    encode_response_in_steps,
)
from capamesh.router.access.operator_key import OperatorKey
from capamesh.router.http.errors import error_reply
from capamesh.router.http.kept_replies import add_form, form_of, marked
from capamesh.router.http.known_replies import KnownReplies
from capamesh.router.http.known_texts import KnownTexts
from capamesh.router.http.packing import LEAST_BYTES, Packer
from capamesh.router.http.replies import JSON, OCTETS, Reply, size_of
from capamesh.router.requests.inference import InferenceRequest, InferenceService, Target
from capamesh.router.requests.slices import Slices

if TYPE_CHECKING:
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.cache.entry import Entry
    from capamesh.router.requests.call import Outcome
    from capamesh.router.requests.slices import Job

NODE_HEADER = "X-Capamesh-Node"
"""Names the peer that ran the request."""
EXPLANATION_HEADER = "X-Capamesh-Explanation"
"""Says, as JSON, among whom and why it was chosen, or why nobody was, when X-Capamesh-Explain asks."""
JSON_WEIGHT = 4
"""Bytes that a byte of JSON takes with what is made of it: `0,` becomes an FP64 of 8 bytes."""
MAX_HEADER_BYTES = 8_000
"""The most characters of an explanation in a header: aiohttp's client reads 8,190 bytes of a header's line, its name included."""


@dataclass(frozen=True, slots=True)
class InferTarget(Target):
    """The target of a request, as its head tells."""

    header_length: int | None = None
    """The bytes of JSON at the body's start; None: all of it."""
    coding: str = ""
    """The coding in which the client takes a packed answer; empty: it takes none."""
    is_packed: bool = False
    """True if the request came packed: then raw tensors are packed, too."""


@dataclass(frozen=True, slots=True)
class Inference(InferenceService):
    """The services that exchanges need."""

    forms: RequestForms = field(default_factory=RequestForms)
    slices: Slices = field(default_factory=Slices)
    """Long JSON is read and written there."""
    text_forms: TextForms = field(default_factory=TextForms)
    replies: KnownReplies = field(default_factory=KnownReplies)
    texts: KnownTexts = field(default_factory=KnownTexts)
    operator: OperatorKey | None = None
    """The operator's key, which may do all; None: there is none."""
    packer: Packer = field(default_factory=Packer)
    """The packer of answers, for clients who take them packed."""


class Exchange(InferenceRequest):
    """One request."""

    __slots__ = ("_inference", "_job", "_on_reply", "_request", "_wire")

    def __init__(
        self,
        inference: Inference,
        target: InferTarget,
        on_reply: Callable[[Reply], None],
        client: str = "",
    ) -> None:
        """`on_reply` is told once, maybe before `begin` returns, and must not raise; `client` is the site of whoever asks."""
        super().__init__(inference, target, client)
        self._inference = inference
        self._wire = target
        self._on_reply: Callable[[Reply], None] | None = on_reply
        """The callback that takes the reply; None: it is over."""
        self._request: InferRequest | None = None
        self._job: Job[Any] | None = None
        """The long JSON that is being read or written here."""

    def begin(self, body: bytes | memoryview) -> None:
        """Read the request and send it on its way: short JSON at once, long in slices."""
        inference, target = self._inference, self._wire
        if inference.standing.shut_out:
            self.fail(ShutOut(inference.standing.shut_out))
            return
        header_bytes = target.header_length
        asked: InferRequest | None = None
        if header_bytes is not None:
            asked = inference.forms.read(target.model, target.version, body, header_bytes)
        else:
            most_bytes = inference.limits.max_json_bytes
            asked = inference.text_forms.read(target.model, target.version, body, most_bytes)
        if asked is None:
            try:
                steps = decode_request_in_steps(
                    target.model,
                    target.version,
                    body,
                    header_bytes,
                    inference.limits,
                    inference.forms.inputs,
                )
                next(steps)
            except StopIteration as done:
                asked = cast("InferRequest", done.value)
            except Exception as error:  # noqa: BLE001 - all end in one reply
                self.crash(error)
                return
            else:
                self._job = inference.slices.begin(steps, self._read, self.crash, target.model)
                return
            if header_bytes is not None:
                inference.forms.learn(body, header_bytes, asked)
            else:
                inference.text_forms.learn(body, asked)
        self._request = asked
        self.submit(asked)

    def run(self, asked: InferRequest) -> None:
        """Send on its way what a wire has decoded itself."""
        if self._inference.standing.shut_out:
            self.fail(ShutOut(self._inference.standing.shut_out))
            return
        self._read(asked)

    @override
    def _read_request(self) -> InferRequest | None:
        return self._request

    def _read(self, asked: InferRequest) -> None:
        """Send on its way what was read in slices."""
        self._job = None
        self._request = asked
        self.submit(asked)

    @override
    def cancel(self) -> None:
        """Withdraw the request, for whoever asked has left. Nothing happens when it is over."""
        self._on_reply = None
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        super().cancel()

    @override
    def complete(self, outcome: Outcome) -> None:
        """Write the answer as a reply: short JSON at once, long in slices."""
        asked, answer, target = self._request, outcome.answer, self._target
        assert asked is not None  # noqa: S101 - it was read before it was sent
        reply: Reply | None = None
        entry = outcome.entry
        if entry is not None:
            reply = form_of(entry, asked, self._age_s(entry), may_be_packed=bool(self._wire.coding))
        elif answer.described and not self._wire.is_packed and not target.is_explained:
            inference, model, peer = self._inference, target.model, outcome.peer
            if asked.is_binary_default or asked.outputs:
                reply = inference.replies.reply(asked, answer, model, peer)
            if reply is None:
                most_bytes = inference.limits.max_json_answer_bytes
                reply = inference.texts.reply(asked, answer, model, peer, most_bytes)
        if reply is None:
            try:
                steps = encode_response_in_steps(
                    InferResponse(
                        target.model, answer.version, asked.id, answer.outputs, NO_PARAMETERS
                    ),
                    asked,
                    self._inference.limits,
                )
                next(steps)
            except StopIteration as done:
                reply = self._written(outcome, asked, done.value)
            except Exception as error:  # noqa: BLE001 - all end in one reply
                self.crash(error)
            else:
                self._job = self._inference.slices.begin(
                    steps,
                    lambda done: self._sliced(outcome, asked, done),
                    self.crash,
                    target.model,
                )
            if reply is None:
                return
        self.count_answer(outcome)
        on_reply, self._on_reply = self._on_reply, None  # as `_end`: each answer comes by here
        self._is_over = True
        self._handle = self._request = None
        if on_reply is not None:
            on_reply(reply)

    def _sliced(
        self,
        outcome: Outcome,
        asked: InferRequest,
        written: tuple[list[bytes | memoryview], int | None],
    ) -> None:
        """Reply with the body that was made of an answer in slices."""
        self._job = None
        reply = self._written(outcome, asked, written)
        if reply is not None:
            self.count_answer(outcome)
            self._end(reply)

    def _written(
        self,
        outcome: Outcome,
        asked: InferRequest,
        written: tuple[list[bytes | memoryview], int | None],
    ) -> Reply | None:
        """Return the reply with the body that was made of an answer; None: it is being packed, or an error was told."""
        buffers, json_bytes = written
        target, peer = self._target, outcome.peer
        headers = {"Content-Type": JSON if json_bytes is None else OCTETS, NODE_HEADER: peer}
        if json_bytes is not None:
            headers[HEADER_LENGTH_NAME] = str(json_bytes)
        if target.is_explained:
            try:
                explanation = outcome.picker.explain(self._inference.routing.clock())
                headers[EXPLANATION_HEADER] = shortened(explanation.to_json())
            except Exception as error:  # noqa: BLE001 - all end in one reply
                self.crash(error)
                return None
        reply = Reply(200, headers, buffers)
        wire, entry = self._wire, outcome.entry
        if entry is not None:
            add_form(self._inference.routing.pipeline.cache.store, entry, asked, reply)
            reply = marked(reply, entry, self._age_s(entry))
        elif not target.is_explained:
            inference = self._inference
            known = inference.texts if json_bytes is None else inference.replies
            known.learn(asked, outcome.answer, target.model, peer, reply)
        if wire.coding and (json_bytes is None or wire.is_packed) and self._packs(reply):
            self.count_answer(outcome)
            return None
        return reply

    def _age_s(self, entry: Entry) -> float:
        """Return for how long an answer has been kept."""
        return self._inference.routing.clock() - entry.stored_s

    def _packs(self, reply: Reply) -> bool:
        """Begin to pack a long answer; return whether it is under way."""
        if sum(map(size_of, reply.buffers)) < LEAST_BYTES:
            return False

        def done(packed: bytes | None) -> None:
            if packed is None:
                self._end(reply)
            else:
                coded = {"Content-Encoding": coding, "Vary": "Accept-Encoding"}
                self._end(Reply(reply.status, {**reply.headers, **coded}, (packed,)))

        coding = self._wire.coding
        return self._inference.packer.begin(reply.buffers, done, coding)

    @override
    def _render_error(self, error: CapameshError, explanation: Explanation | None) -> None:
        self._job = None
        reply = error_reply(error)
        if explanation is not None:
            headers = {**reply.headers, EXPLANATION_HEADER: shortened(explanation.to_json())}
            reply = reply.replace(headers=headers)
        self._end(reply)

    def _end(self, reply: Reply) -> None:
        on_reply, self._on_reply = self._on_reply, None
        self._is_over = True
        self._handle = self._request = None
        if on_reply is not None:
            on_reply(reply)


def shortened(explanation: str) -> str:
    """Return an explanation's JSON with as many of its endpoints, the chosen first, as a header can hold."""
    if len(explanation) <= MAX_HEADER_BYTES:
        return explanation
    body = json.loads(explanation)
    while len(explanation) > MAX_HEADER_BYTES and body["replicas"]:
        body["replicas"].pop()
        explanation = json.dumps(body, separators=(",", ":"))
    return explanation
