"""The messages between an agent and its workers, as values; no other place knows their form on the channel. Pure.

The channel is private and both ends are one installation, so a message that does not fit is a bug or a mix of versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Final, TypeAlias, TypeVar, get_args

from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.contract.verdict import Verdict
from capamesh.protocol.adverts import Device, ModelOffer
from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import PeerId
from capamesh.protocol.plain_text import plain
from capamesh.protocol.schema import Mismatch, plain_values, read

_M = TypeVar("_M", bound="ToWorker | ToAgent")
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
    bulk_refused_s: float = 0.0
    """Seconds for which no bulk request is taken, since too many workers ended of such of late; 0: they are."""


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
    size_bytes: int
    """The size of one that ended well though as large ones were refused; 0: none."""


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

_TO_WORKER: Final[dict[str, type[ToWorker]]] = {kind.TYPE: kind for kind in get_args(ToWorker)}
_TO_AGENT: Final[dict[str, type[ToAgent]]] = {kind.TYPE: kind for kind in get_args(ToAgent)}


def to_wire(message: ToWorker | ToAgent) -> dict[str, Any]:
    """Return the channel message of `message`."""
    if isinstance(message, DeviceOffer):
        models = tuple(replace(one, reason=_carried(one.reason)) for one in message.models)
        message = DeviceOffer(message.device, models)
    return {"type": message.TYPE, **plain_values(message)}


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


def _read(raw: Mapping[str, Any], kinds: Mapping[str, type[_M]], reader: str) -> _M:
    values = dict(raw)
    name = str(values.pop("type", None))
    kind = kinds.get(name)
    if kind is None:
        raise ProtocolViolation(
            f"unknown message {name!r} to the {reader}; are both of one version?"
        )
    if more := values.keys() - {field.name for field in fields(kind)}:
        raise ProtocolViolation(
            f"message {name!r} to the {reader} has {', '.join(map(str, more))} too"
        )
    try:
        return read(values, kind)
    except Mismatch as exc:
        raise ProtocolViolation(f"message {name!r} to the {reader} does not fit: {exc}") from exc


def _carried(reason: str) -> str:
    """Return a reason as an advert can carry it: an error's text may be any."""
    return plain(reason.encode("utf-8", "replace").decode("utf-8"))[:MAX_REASON_CHARS]
