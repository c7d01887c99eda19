"""The messages between an agent and its workers, as values; no other place knows their form on the channel. Pure.

The channel is private and both ends are one installation, so a message that does not fit is a bug or a mix of versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.contract.verdict import Verdict
from capamesh.protocol.adverts import Device, ModelOffer, ModelState, Scheduling
from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import PeerId
from capamesh.protocol.plain_text import plain
from capamesh.protocol.tensors import Datatype, TensorSpec

_M = TypeVar("_M")
MAX_REASON_CHARS: Final = 512
"""The longest reason why a model is not ready, as in adverts."""


@dataclass(frozen=True, slots=True)
class Start:
    """Agent to worker, first: all that it needs to serve its device."""

    TYPE: ClassVar[str] = "start"
    settings: WorkerSettings
    """The settings of the operator; `threads` is what the device has where the operator has not said."""
    membership_folder: str
    models_folder: str
    cache_folder: str
    running_page: str
    """The file of its `InFlightPage`; empty: it does without. Paths are text, because they travel as msgpack."""
    device_index: int
    device_uuid: str
    device_kind: str
    device_name: str
    memory_total_bytes: int
    memory_free_bytes: int
    """The free memory before the worker's first look of its own."""
    driver: str
    host: str
    port: int
    """The port on which it takes links; 0 for any free one."""
    advertised_host: str
    verdicts: tuple[Verdict, ...] = ()
    """The verdicts on models that ended earlier workers."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """Agent to worker: an encoded revocation list that is newer than the last."""

    TYPE: ClassVar[str] = "revocations"
    data: bytes


@dataclass(frozen=True, slots=True)
class Routers:
    """Agent to worker: the link addresses of every router that is to be dialled, and no others."""

    TYPE: ClassVar[str] = "routers"
    routers: Mapping[PeerId, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Renewed:
    """Agent to worker: the node's membership from now on, as DER."""

    TYPE: ClassVar[str] = "renewed"
    chain: tuple[bytes, ...]
    ca_der: bytes


@dataclass(frozen=True, slots=True)
class Drain:
    """Agent to worker: finish what is under way and take nothing new."""

    TYPE: ClassVar[str] = "drain"


@dataclass(frozen=True, slots=True)
class Stop:
    """Agent to worker: end in order."""

    TYPE: ClassVar[str] = "stop"


@dataclass(frozen=True, slots=True)
class Sandboxed:
    """Worker to agent, first: what it is kept to."""

    TYPE: ClassVar[str] = "sandbox"
    holds: str


@dataclass(frozen=True, slots=True)
class DeviceOffer:
    """Worker to agent, on change: its device, and its models as they are now."""

    TYPE: ClassVar[str] = "offer"
    device: Device
    models: tuple[ModelOffer, ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Worker to agent, every few seconds: its counts since it started; see `capamesh.node.agent.metrics.totals`."""

    TYPE: ClassVar[str] = "metrics"
    models: Sequence[Mapping[str, Any]]
    loop: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Links:
    """Worker to agent, on change: how many routers have a link to it."""

    TYPE: ClassVar[str] = "links"
    count: int


@dataclass(frozen=True, slots=True)
class Survived:
    """Worker to agent: requests of a model that were suspected have ended well, by their digests in hexadecimal."""

    TYPE: ClassVar[str] = "survived"
    name: str
    version: str
    requests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stuck:
    """Worker to agent: it is about to end itself, and why."""

    TYPE: ClassVar[str] = "stuck"
    reason: str


@dataclass(frozen=True, slots=True)
class Drained:
    """Worker to agent: nothing is under way any more."""

    TYPE: ClassVar[str] = "drained"


ToWorker: TypeAlias = Start | Revocations | Routers | Renewed | Drain | Stop
ToAgent: TypeAlias = Sandboxed | DeviceOffer | Metrics | Links | Survived | Stuck | Drained


def to_wire(message: ToWorker | ToAgent) -> dict[str, Any]:
    """Return the channel message of `message`."""
    match message:
        case Start():
            values = asdict(message)
        case DeviceOffer(device, models):
            values = {"device": asdict(device), "models": [_offer_to_wire(one) for one in models]}
        case _:
            values = {field.name: getattr(message, field.name) for field in fields(message)}
    return {"type": message.TYPE, **values}


def worker_message(raw: Mapping[str, Any]) -> ToWorker:
    """Return what an agent says in a channel message.

    Raises:
        ProtocolViolation: a type that no agent sends, a missing field or one of the wrong type.
    """
    return _read(raw, _TO_WORKER, "worker")


def agent_message(raw: Mapping[str, Any]) -> ToAgent:
    """Return what a worker says in a channel message.

    Raises:
        ProtocolViolation: a type that no worker sends, a missing field or one of the wrong type.
    """
    return _read(raw, _TO_AGENT, "agent")


def _read(raw: Mapping[str, Any], readers: Mapping[str, Callable[..., _M]], reader: str) -> _M:
    values = dict(raw)
    kind = str(values.pop("type", None))
    read = readers.get(kind)
    if read is None:
        raise ProtocolViolation(
            f"unknown message {kind!r} to the {reader}; are both of one version?"
        )
    try:
        return read(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ProtocolViolation(f"message {kind!r} to the {reader} does not fit: {exc}") from exc


def _start(**values: Any) -> Start:  # noqa: ANN401
    settings = WorkerSettings(**values.pop("settings"))
    verdicts = tuple(Verdict.from_fields(one) for one in values.pop("verdicts"))
    return Start(settings, **values, verdicts=verdicts)


def _routers(routers: Mapping[str, Sequence[str]]) -> Routers:
    return Routers({PeerId(peer): tuple(addresses) for peer, addresses in routers.items()})


def _renewed(chain: Sequence[bytes], ca_der: bytes) -> Renewed:
    return Renewed(tuple(chain), ca_der)


def _survived(name: str, version: str, requests: Sequence[str]) -> Survived:
    return Survived(name, version, tuple(requests))


def _device_offer(device: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> DeviceOffer:
    values: dict[str, Any] = {**device, "data_addresses": tuple(device["data_addresses"])}
    return DeviceOffer(Device(**values), tuple(_offer_from_wire(one) for one in models))


def _offer_to_wire(offer: ModelOffer) -> dict[str, Any]:
    values = {field.name: getattr(offer, field.name) for field in fields(offer)}
    reason = offer.reason.encode("utf-8", "replace").decode("utf-8")  # an error's text may be any
    values["reason"] = plain(reason)[:MAX_REASON_CHARS]
    for side in ("inputs", "outputs"):
        values[side] = [(spec.name, spec.datatype.value, spec.shape) for spec in values[side]]
    return values | {"state": offer.state.value, "scheduling": offer.scheduling.value}


def _offer_from_wire(raw: Mapping[str, Any]) -> ModelOffer:
    values = dict(raw)
    for side in ("inputs", "outputs"):
        values[side] = tuple(
            TensorSpec(name, _DATATYPES[datatype], tuple(shape))
            for name, datatype, shape in raw[side]
        )
    values["state"] = ModelState(raw["state"])
    values["scheduling"] = Scheduling(raw["scheduling"])
    values["also_signed"] = tuple(raw["also_signed"])
    return ModelOffer(**values)


_DATATYPES: Final = {datatype.value: datatype for datatype in Datatype}
_TO_WORKER: Final[dict[str, Callable[..., ToWorker]]] = {
    Start.TYPE: _start,
    Revocations.TYPE: Revocations,
    Routers.TYPE: _routers,
    Renewed.TYPE: _renewed,
    Drain.TYPE: Drain,
    Stop.TYPE: Stop,
}
_TO_AGENT: Final[dict[str, Callable[..., ToAgent]]] = {
    Sandboxed.TYPE: Sandboxed,
    DeviceOffer.TYPE: _device_offer,
    Metrics.TYPE: Metrics,
    Links.TYPE: Links,
    Survived.TYPE: _survived,
    Stuck.TYPE: Stuck,
    Drained.TYPE: Drained,
}
