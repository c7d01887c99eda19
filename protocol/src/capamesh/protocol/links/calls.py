"""The messages of routers and nodes inside a link's metadata: an inference call, its answer, a load. Pure.

Maps with short keys, so that a later version can add some and this one ignores them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, cast

from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    ProtocolViolation,
    TooLarge,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.answer_fields import (
    LoadFields,
    read_answer_fields,
    read_load_fields,
    read_told_fields,
)
from capamesh.protocol.links.call_marks import read_classes, read_trace
from capamesh.protocol.links.hello import MAX_ARRAY_ITEMS, unpack_map
from capamesh.protocol.links.outgoing import Buffer
from capamesh.protocol.links.sequence_mark import SequenceMark, read_sequence_mark
from capamesh.protocol.links.tensor_descriptions import (
    KnownLayouts,
    described,
    listed,
    read_tensors,
)
from capamesh.protocol.msgpack_codec import pack, shown, unpack
from capamesh.protocol.schema import read
from capamesh.protocol.tensors import Limits, Tensor
from capamesh.protocol.values import Value

MAX_PRIORITY = 255
DEFAULT_PRIORITY = 128
TELL_S: Final = 0.05
"""Seconds from a withdrawal until routers are told the load, which is also the least between two such reports of a model (guess: clients
that leave together do so in a moment; 20 frames a second are nothing to a link)."""
MAX_TOLD_BYTES: Final = 4096
"""The metadata of such a report (guess: ten times what it takes with long names)."""
_ANY = ModelVersion("")
_MAP_OF_FIVE: Final = b"\x85"
"""The first byte of an answer's metadata, as msgpack has it."""
_U64: Final = 0xCF
_TAIL: Final = struct.Struct(">3sQ3sQ3sBQBQBQBQBQBQBQBQBQBQBQ")
_TOKENS: Final = struct.Struct(">BQBQBQBQ")
"""The counts of tokens behind the others: only language models have them, so that all other answers go without."""


class InferCall(Value):
    """One inference as a node sees it.

    `version` is empty for whichever the node serves; `outputs` is empty for all. The time left travels
    beside it as `budget_ms`, because it shrinks between attempts.
    """

    __slots__ = (
        "classes",
        "inputs",
        "is_alone",
        "is_bulk",
        "model",
        "outputs",
        "priority",
        "sequence",
        "takes_parts",
        "trace",
        "version",
    )

    def __init__(
        self,
        model: ModelName,
        version: ModelVersion,
        inputs: tuple[Tensor, ...],
        outputs: tuple[str, ...] = (),
        priority: int = DEFAULT_PRIORITY,
        is_bulk: bool = False,
        sequence: SequenceMark | None = None,
        takes_parts: bool = False,
        classes: tuple[int, ...] = (),
        trace: str = "",
        is_alone: bool = False,
    ) -> None:
        self.model = model
        self.version = version
        self.inputs = inputs
        self.outputs = outputs
        self.priority = priority
        """0..`MAX_PRIORITY`; lower goes first."""
        self.is_bulk = is_bulk
        """True for a request that nobody waits for, as those of batch jobs: it gives way to online requests, but for its share."""
        self.sequence = sequence
        self.takes_parts = takes_parts
        """True if its answer may come in parts, each as soon as it is there; else it comes whole."""
        self.classes = classes
        """The number of largest scores to answer as texts for each of `outputs`, 0 for it as it is; empty: no output is classified."""
        self.trace = trace
        """The `traceparent` of a request that its caller samples; empty: it is not sampled."""
        self.is_alone = is_alone
        """True for rows of which a worker may have ended: nothing else is in their run. A node of an earlier version does not know that."""


class ControlAction(StrEnum):
    """The actions that a router may ask of a node's models."""

    LOAD = "load"
    UNLOAD = "unload"
    """Both where the node's operator allows it."""
    WANT = "want"
    """Load it if it is away for want of memory, for a request has come; models that were idle give way to it."""


@dataclass(frozen=True, slots=True)
class ControlCall:
    """A change to the models that a node hosts. Answered once it is done, with an empty body.

    `version` is empty for all that the model's policy names.
    """

    action: ControlAction
    model: ModelName
    version: ModelVersion


class LoadReport(NamedTuple):
    """The load of a worker with one model: counts of requests, where nothing else is named, and times in microseconds."""

    in_flight: int = 0
    """The requests that are queued or run."""
    queued: int = 0
    limit: int = 0
    """More in flight than this are refused. It is a limit of rows, told in requests: in such as are in flight now, or of one row
    each where none are. So a call of a whole batch counts like one of a row: `limit_rows` is for those who send such."""
    queue_us: int = 0
    """The time that a request that comes now and is not bulk would wait, as estimated."""
    run_us: int = 0
    """A run, smoothed."""
    free_bytes: int = 0
    """The device's memory."""
    latency_us: int = 0
    """The time from arrival to answer of late, of requests that are not bulk, when as many were in flight as now."""
    device_in_flight: int = 0
    """The requests in flight of all the worker's models."""
    bulk_in_flight: int = 0
    """The rows of bulk requests that are queued or run."""
    online_queue_us: int = 0
    """The time for which requests that are not bulk have queued of late: the longest of each run, averaged over about a second.
    It falls to nothing within two seconds after the last."""
    limit_rows: int = 0
    """More rows in flight than this are refused; 0: the peer does not say."""
    token_ns: int = 0
    """The time of a token of a prompt, in nanoseconds; 0, as the next three: it is not known, or no language model."""
    held_tokens: int = 0
    """The tokens that are held of prompts and answers under way, of `most_tokens`."""
    most_tokens: int = 0
    kept_tokens: int = 0
    """The most tokens of which the state is kept after they were run."""


_LOAD_FIELDS = len(LoadReport._fields)
"""Later versions append more, which are left out; what an earlier one does not tell is 0."""
_NO_TOKENS: Final = (0, 0, 0, 0)
"""The counts of tokens of a model that generates none, which an answer leaves out."""


class InferAnswer(Value):
    """A call's outputs, how long it queued and ran, and the worker's load after it."""

    __slots__ = ("described", "load", "outputs", "queue_us", "run_us", "version")

    def __init__(
        self,
        version: ModelVersion,
        outputs: tuple[Tensor, ...],
        queue_us: int,
        run_us: int,
        load: LoadReport,
        described: bytes = b"",
    ) -> None:
        self.version = version
        self.outputs = outputs
        self.queue_us = queue_us
        self.run_us = run_us
        self.load = load
        self.described = described
        """The words in which the node described the outputs, where others so described were right, and these are if those
        were; else empty."""


def encode_call(
    call: InferCall, budget_ms: int | None = None, version: ModelVersion = _ANY
) -> tuple[bytes, list[Buffer]]:
    """Return metadata and body buffers; the tensors' bytes are not copied.

    `budget_ms` is the time left from now, None without a deadline; a `version` goes before the call's own.
    """
    descriptions, body = described(call.inputs)
    meta: dict[str, Any] = {"m": call.model, "i": descriptions}
    version = version or call.version
    if version:
        meta["v"] = version
    if call.outputs:
        meta["o"] = call.outputs
    if budget_ms is not None:
        meta["b"] = budget_ms
    if call.priority != DEFAULT_PRIORITY:
        meta["p"] = call.priority
    if call.is_bulk:
        meta["k"] = True
    if call.sequence is not None:
        meta["s"] = call.sequence
    if call.takes_parts:
        meta["w"] = True
    if call.classes:
        meta["c"] = call.classes
    if call.trace:
        meta["t"] = call.trace
    if call.is_alone:
        meta["a"] = True
    return pack(meta), body


def decode_call(
    meta: bytes, body: memoryview, limits: Limits
) -> tuple[InferCall | ControlCall, int | None]:
    """Return the call and its budget in milliseconds, None without one; its tensors are slices of `body`.

    Raises `InvalidRequest` or `TooLarge`.
    """
    try:
        raw = unpack_map(meta, "REQUEST")
    except ProtocolViolation as exc:
        raise InvalidRequest(exc.message) from exc
    if "x" in raw:
        return _control(raw), None
    model, version, outputs = raw.get("m"), raw.get("v", ""), raw.get("o", [])
    budget_ms = raw.get("b")
    if not isinstance(model, str) or not isinstance(version, str):
        raise InvalidRequest(
            f"a call for model {shown(model)} version {shown(version)}: both must be text"
        )
    if not isinstance(outputs, list) or not all(
        isinstance(name, str) for name in cast(list[object], outputs)
    ):
        raise InvalidRequest("a call whose outputs are not a list of names")
    if budget_ms is not None and type(budget_ms) is not int:
        raise InvalidRequest(
            f"a call with budget {shown(budget_ms)}: whole milliseconds are expected"
        )
    priority, sequence = raw.get("p", DEFAULT_PRIORITY), raw.get("s")
    if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
        raise InvalidRequest(
            f"a call with priority {shown(priority)}: a whole number from 0 to {MAX_PRIORITY} is expected"
        )
    names = tuple(cast(list[str], outputs))
    call = InferCall(
        ModelName(model),
        ModelVersion(version),
        read_tensors(raw.get("i"), body, limits),
        names,
        priority,
        _mark(raw, "k", "bulk mark"),
        None if sequence is None else read_sequence_mark(sequence),
        _mark(raw, "w", "mark for parts"),
        read_classes(raw["c"], names) if "c" in raw else (),
        read_trace(raw.get("t")),
        _mark(raw, "a", "mark to run alone"),
    )
    return call, budget_ms


def _mark(raw: dict[str, Any], key: str, what: str) -> bool:
    """Return whether a call has a mark, which it has not where it does not say. Raises `InvalidRequest`."""
    mark = raw.get(key, False)
    if not isinstance(mark, bool):
        raise InvalidRequest(f"a call whose {what} is {shown(mark)}, not true or false")
    return mark


def encode_control(call: ControlCall) -> bytes:
    """Return the metadata of a request that changes what a node hosts; it has no body."""
    return pack({"x": call.action.value, "m": call.model, "v": call.version})


def _control(raw: dict[str, Any]) -> ControlCall:
    action, model, version = raw["x"], raw.get("m"), raw.get("v", "")
    if not isinstance(model, str) or not isinstance(version, str):
        raise InvalidRequest(
            f"a change of model {shown(model)} version {shown(version)}: both must be text"
        )
    try:
        return ControlCall(ControlAction(action), ModelName(model), ModelVersion(version))
    except ValueError as exc:
        raise InvalidRequest(
            f"a change {shown(action)}; known are {', '.join(ControlAction)}"
        ) from exc


def encode_answer(answer: InferAnswer) -> tuple[bytes, list[Buffer]]:
    """Return metadata and body buffers; the tensors' bytes are not copied."""
    head, body = encode_answer_head(answer.version, answer.outputs)
    return head + encode_answer_tail(answer.queue_us, answer.run_us, answer.load), body


def encode_answer_head(
    version: ModelVersion, outputs: Sequence[Tensor]
) -> tuple[bytes, list[Buffer]]:
    """Return the beginning of an answer's metadata, up to what answers of the same form differ in, and the body buffers."""
    descriptions, body = described(outputs)
    meta = pack({"v": version, "o": descriptions})
    return _MAP_OF_FIVE + meta[1:], body


def encode_answer_tail(queue_us: int, run_us: int, load: LoadReport) -> bytes:
    """Return the end of an answer's metadata; its numbers have eight bytes each, so that none needs a look of its own."""
    (
        in_flight, queued, limit, wait_us, mean_us, free_bytes, latency_us, device_in_flight, bulk_in_flight,
        online_queue_us, limit_rows, token_ns, held_tokens, most_tokens, kept_tokens,
    ) = load  # fmt: skip
    has_tokens = token_ns or held_tokens or most_tokens or kept_tokens
    try:
        tail = _TAIL.pack(
            b"\xa1q\xcf", queue_us, b"\xa1r\xcf", run_us, b"\xa1l\x9f" if has_tokens else b"\xa1l\x9b", _U64, in_flight,
            _U64, queued, _U64, limit, _U64, wait_us, _U64, mean_us, _U64, free_bytes, _U64, latency_us,
            _U64, device_in_flight, _U64, bulk_in_flight, _U64, online_queue_us, _U64, limit_rows,
        )  # fmt: skip
        if not has_tokens:
            return tail
        return tail + _TOKENS.pack(
            _U64, token_ns, _U64, held_tokens, _U64, most_tokens, _U64, kept_tokens
        )
    except struct.error:  # no counts: that is for the receiver to say
        return pack({"q": queue_us, "r": run_us, "l": load})[1:]


def decode_answer(
    meta: bytes, body: memoryview, limits: Limits, known: KnownLayouts | None = None
) -> InferAnswer:
    """Return the answer; its tensors are slices of `body`. Raises `ProtocolViolation`.

    Descriptions of tensors that are `known` are not read again.
    """
    try:
        raw = read_answer_fields(meta)
        descriptions = bytes(raw.outputs)
        layout = known.get(descriptions) if known is not None else None
        described = b""
        if layout is not None and layout.body_bytes == len(body):
            outputs = layout.cut(body, limits)
            if not layout.is_data_checked:
                described = descriptions
        else:
            unpacked = unpack(descriptions, max_array_items=MAX_ARRAY_ITEMS)
            outputs = read_tensors(unpacked, body, limits)
            if known is not None:
                known.learn(descriptions, outputs)
    except (ValueError, RecursionError) as exc:
        raise ProtocolViolation(
            f"the metadata of a RESPONSE is not that of an answer: {exc}"
        ) from exc
    except (InvalidRequest, TooLarge) as exc:
        raise ProtocolViolation(f"an answer with bad tensors: {exc.message}") from exc
    counts = raw.load
    if len(counts) == _LOAD_FIELDS - len(_NO_TOKENS):
        counts += _NO_TOKENS
    # without a call of a named tuple's own: each answer comes by here
    load = (
        tuple.__new__(LoadReport, counts)  # pyright: ignore[reportUnknownMemberType] - a tuple of what, the class says
        if len(counts) == _LOAD_FIELDS
        else LoadReport(*counts[:_LOAD_FIELDS])
    )
    return InferAnswer(
        ModelVersion(raw.version), outputs, raw.queue_us, raw.run_us, load, described
    )


def encode_done() -> bytes:
    """Return the metadata of the answer to a change that was made."""
    return pack({})


def encode_probe(model: ModelName, version: ModelVersion) -> bytes:
    """Return the metadata of a PROBE for one model's load."""
    return pack({"m": model, "v": version})


def decode_probe(meta: bytes) -> tuple[ModelName, ModelVersion]:
    """Return which model a probe asks about, both empty for the whole worker; junk asks about that too."""
    if meta:
        try:
            raw = unpack_map(meta, "PROBE")
        except ProtocolViolation:
            raw = {}
        model, version = raw.get("m"), raw.get("v", "")
        if isinstance(model, str) and isinstance(version, str):
            return ModelName(model), ModelVersion(version)
    return ModelName(""), ModelVersion("")


def encode_load(load: LoadReport) -> bytes:
    """Return the metadata of a LOAD frame."""
    return pack({"l": load})


def decode_load(meta: bytes) -> LoadReport:
    """Return the load; raise `ProtocolViolation` when it is none."""
    try:
        return LoadReport(*read_load_fields(meta).load[:_LOAD_FIELDS])
    except (ValueError, RecursionError) as exc:
        raise ProtocolViolation(f"the metadata of a LOAD is not that of a load: {exc}") from exc


def encode_told_load(model: ModelName, version: ModelVersion, load: LoadReport) -> bytes:
    """Return the metadata of a LOAD frame that nobody asked for."""
    return pack({"m": model, "v": version, "l": load})


def decode_told_load(meta: bytes) -> tuple[ModelName, ModelVersion, LoadReport]:
    """Return of which model it tells the load; raise `ProtocolViolation` when it is none, or too long to be read unasked."""
    if len(meta) > MAX_TOLD_BYTES:
        raise ProtocolViolation(
            f"the metadata of a LOAD is not that of a load: {len(meta)} bytes, of at most {MAX_TOLD_BYTES}"
        )
    try:
        told = read_told_fields(meta)
    except (ValueError, RecursionError) as exc:
        raise ProtocolViolation(f"the metadata of a LOAD is not that of a load: {exc}") from exc
    load = LoadReport(*told.load[:_LOAD_FIELDS])
    return ModelName(told.model), ModelVersion(told.version), load


def load_with(error: CapameshError) -> LoadReport | None:
    """Return the load that a peer told with an error; None where it told none, or junk. No long list is looked through."""
    if error.load is None or isinstance(error.load, LoadReport):
        return error.load
    try:
        return LoadReport(*read({"l": listed(error.load)[:_LOAD_FIELDS]}, LoadFields).load)
    except ValueError:
        return None
