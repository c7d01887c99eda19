"""What routers and nodes say inside a link's metadata: an inference call, its answer, a load. Pure.

Maps with short keys, so that a later version can add some and this one ignores them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from capamesh.protocol.errors import InvalidRequest, ProtocolViolation
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.hello import unpack_map
from capamesh.protocol.links.outgoing import Buffer
from capamesh.protocol.packed import pack, shown
from capamesh.protocol.tensors import Datatype, Limits, Tensor, checked


@dataclass(frozen=True, slots=True)
class InferCall:
    """One inference as a node sees it.

    `version` is empty for whichever the node serves; `outputs` is empty for all. The time left travels
    beside it as `budget_ms`, because it shrinks between attempts.
    """

    model: ModelName
    version: ModelVersion
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A worker's load when it was asked. In flight includes queued; times in microseconds."""

    in_flight: int = 0
    queued: int = 0
    limit: int = 0
    queue_us: int = 0
    run_us: int = 0
    free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """A call's outputs, how long it queued and ran, and the worker's load after it."""

    version: ModelVersion
    outputs: tuple[Tensor, ...]
    queue_us: int
    run_us: int
    load: LoadReport


def encode_call(call: InferCall, budget_ms: int | None = None) -> tuple[bytes, list[Buffer]]:
    """Return metadata and body buffers; the tensors' bytes are not copied.

    `budget_ms` is the time left from now, None without a deadline.
    """
    meta: dict[str, Any] = {"m": call.model, "i": _describe(call.inputs)}
    if call.version:
        meta["v"] = call.version
    if call.outputs:
        meta["o"] = call.outputs
    if budget_ms is not None:
        meta["b"] = budget_ms
    return pack(meta), [tensor.data for tensor in call.inputs]


def decode_call(meta: bytes, body: memoryview, limits: Limits) -> tuple[InferCall, int | None]:
    """Return the call and its budget in milliseconds, None without one; its tensors are slices of `body`.

    Raises `InvalidRequest` or `TooLarge`.
    """
    try:
        raw = unpack_map(meta, "REQUEST")
    except ProtocolViolation as exc:
        raise InvalidRequest(exc.message) from exc
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
    call = InferCall(
        model=ModelName(model),
        version=ModelVersion(version),
        inputs=_tensors(raw.get("i"), body, limits),
        outputs=tuple(cast(list[str], outputs)),
    )
    return call, budget_ms


def encode_answer(answer: InferAnswer) -> tuple[bytes, list[Buffer]]:
    """Return metadata and body buffers; the tensors' bytes are not copied."""
    meta = {
        "v": answer.version,
        "o": _describe(answer.outputs),
        "q": answer.queue_us,
        "r": answer.run_us,
        "l": _load_values(answer.load),
    }
    return pack(meta), [tensor.data for tensor in answer.outputs]


def decode_answer(meta: bytes, body: memoryview, limits: Limits) -> InferAnswer:
    """Return the answer; its tensors are slices of `body`. Raises `ProtocolViolation`."""
    raw = unpack_map(meta, "RESPONSE")
    version, queue_us, run_us = raw.get("v"), raw.get("q"), raw.get("r")
    if not isinstance(version, str) or type(queue_us) is not int or type(run_us) is not int:
        raise ProtocolViolation(
            f"an answer with version {shown(version)}, times {shown(queue_us)}, {shown(run_us)}"
        )
    try:
        outputs = _tensors(raw.get("o"), body, limits)
    except InvalidRequest as exc:
        raise ProtocolViolation(f"an answer with bad tensors: {exc.message}") from exc
    return InferAnswer(ModelVersion(version), outputs, queue_us, run_us, _load(raw.get("l")))


def encode_load(load: LoadReport) -> bytes:
    """Return the metadata of a LOAD frame."""
    return pack({"l": _load_values(load)})


def decode_load(meta: bytes) -> LoadReport:
    """Return the load; raise `ProtocolViolation` when it is none."""
    return _load(unpack_map(meta, "LOAD").get("l"))


def _load_values(load: LoadReport) -> tuple[int, ...]:
    return (load.in_flight, load.queued, load.limit, load.queue_us, load.run_us, load.free_bytes)


def _load(raw: object) -> LoadReport:
    values = _listed(raw)
    if len(values) < 6 or not all(type(value) is int and value >= 0 for value in values[:6]):
        raise ProtocolViolation(f"a load of {shown(raw)}: six counts are expected")
    return LoadReport(*cast(list[int], values[:6]))


def _describe(tensors: Sequence[Tensor]) -> list[tuple[str, str, tuple[int, ...], int]]:
    return [(tensor.name, tensor.datatype, tensor.shape, tensor.size_bytes) for tensor in tensors]


def _tensors(raw: object, body: memoryview, limits: Limits) -> tuple[Tensor, ...]:
    if not isinstance(raw, list):
        raise InvalidRequest("a message without a list of tensors")
    described = cast(list[object], raw)
    if len(described) > limits.max_tensors:
        raise InvalidRequest(f"{len(described)} tensors; at most {limits.max_tensors}")
    tensors: list[Tensor] = []
    at = 0
    for entry in described:
        name, datatype, shape, size = _entry(entry)
        if size < 0 or at + size > len(body):
            raise InvalidRequest(
                f"tensor {name!r} is said to have {size} bytes; {len(body) - at} of the body are left"
            )
        tensors.append(checked(Tensor(name, datatype, shape, body[at : at + size]), limits))
        at += size
    if at != len(body):
        raise InvalidRequest(f"the tensors take {at} bytes, the body has {len(body)}")
    return tuple(tensors)


def _entry(entry: object) -> tuple[str, Datatype, tuple[int, ...], int]:
    parts = _listed(entry)
    if len(parts) >= 4:
        name, datatype, shape, size = parts[:4]
        if (
            isinstance(name, str)
            and isinstance(datatype, str)
            and isinstance(shape, list)
            and type(size) is int
        ):
            dims = cast(list[object], shape)
            if all(type(dim) is int for dim in dims):
                kind = Datatype.of_name(datatype)
                if kind is None:
                    raise InvalidRequest(
                        f"tensor {name!r} has unknown datatype {shown(datatype)}; known: {', '.join(Datatype)}"
                    )
                return name, kind, tuple(cast(list[int], dims)), size
    raise InvalidRequest(
        f"a tensor described as {shown(entry)}: name, datatype, shape, size are expected"
    )


def _listed(raw: object) -> list[object]:
    return cast(list[object], raw) if isinstance(raw, list) else []
