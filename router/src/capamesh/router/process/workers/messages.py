"""The messages between a router's main process and its workers, as values. Pure.

The channel is private and both ends are one installation, so a message that does not fit is a bug or a mix of versions: it
raises `ProtocolViolation` and the channel ends. A worker is stopped by the channel's own "stop".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.schema import Mismatch, read
from capamesh.protocol.tensors import Limits
from capamesh.router.fleet.overrides import Hold
from capamesh.router.page.others import Links, Models
from capamesh.router.resilience.health import CircuitState
from capamesh.router.settings import RouterSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Start:
    """Main to worker, first: all that it needs to serve."""

    TYPE: ClassVar[str] = "start"
    number: int
    """The number of the worker, from 1."""
    settings: dict[str, Any]
    """This worker's part of the router's settings, as `settings_values` writes them."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Main to worker: an envelope that the mesh has delivered."""

    TYPE: ClassVar[str] = "heard"
    data: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """Main to worker: envelopes of nodes that were heard before the worker was there."""

    TYPE: ClassVar[str] = "known"
    envelopes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Current:
    """Main to worker: it has been told all that there was to tell when it came."""

    TYPE: ClassVar[str] = "current"


@dataclass(frozen=True, slots=True)
class MeshState:
    """Main to worker: the addresses of the router in the mesh; none while the sidecar is down."""

    TYPE: ClassVar[str] = "mesh"
    addrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revocations:
    """Either way: a revocation list that is newer than what the receiver may have."""

    TYPE: ClassVar[str] = "revocations"
    data: bytes


@dataclass(frozen=True, slots=True)
class Drains:
    """Either way: a drain order that is newer than what the receiver may have."""

    TYPE: ClassVar[str] = "drains"
    data: bytes


@dataclass(frozen=True, slots=True)
class Renewed:
    """Main to worker: the data folder holds a renewed membership."""

    TYPE: ClassVar[str] = "renewed"


@dataclass(frozen=True, slots=True)
class Reload:
    """Main to worker: read the rules anew."""

    TYPE: ClassVar[str] = "reload"


@dataclass(frozen=True, slots=True)
class Held:
    """Either way: the operator's word on a node, with `number` to be given back in `Part` or `Whole` once it is taken."""

    TYPE: ClassVar[str] = "held"
    number: int
    peer: str
    model: str
    version: str
    state: str
    """The state that the circuit is held in; empty: it is let go of."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Main to worker: the nodes that had been lost before the worker was there, as `LostNodes.rows` has them."""

    TYPE: ClassVar[str] = "lost"
    nodes: list[Any]


@dataclass(frozen=True, slots=True)
class Forget:
    """Either way: a lost node that the operator has forgotten."""

    TYPE: ClassVar[str] = "forget"
    peer: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Main to worker: make your part of a page."""

    TYPE: ClassVar[str] = "ask"
    number: int
    page: str


@dataclass(frozen=True, slots=True)
class Part:
    """Worker to main: its part of a page that was asked for."""

    TYPE: ClassVar[str] = "part"
    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Gather:
    """Worker to main: make a page whole, of which this is the worker's own part."""

    TYPE: ClassVar[str] = "gather"
    number: int
    page: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Whole:
    """Main to worker: the whole page that it asked for."""

    TYPE: ClassVar[str] = "whole"
    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Up:
    """Worker to main, first: it is to be told what there is to know."""

    TYPE: ClassVar[str] = "up"


@dataclass(frozen=True, slots=True)
class Status:
    """Worker to main, every few seconds and on change: its status, as a router that is one process writes it to a file."""

    TYPE: ClassVar[str] = "status"
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counts:
    """Worker to main, every few seconds and at its end: its metrics, which are kept if it dies."""

    TYPE: ClassVar[str] = "counts"
    body: bytes
    history: dict[str, Any]
    """The counts that the history of the page is made of, as `histories.totals_values` writes them."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Worker to main, every few seconds: what the page shows of its links and its models now."""

    TYPE: ClassVar[str] = "figures"
    links: Links
    models: Models


@dataclass(frozen=True, slots=True)
class Others:
    """Main to worker, every few seconds: the figures of the other workers, and the traffic of each model at all of them."""

    TYPE: ClassVar[str] = "others"
    links: Links
    models: Models
    traffic: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Claim:
    """Worker to main: the question whether it may run the call that has this idempotency key."""

    TYPE: ClassVar[str] = "claim"
    number: int
    """The number that the answer has."""
    tenant: str
    key: str
    fingerprint: bytes
    """The digest of the call."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Main to worker: the answer to a `Claim`."""

    TYPE: ClassVar[str] = "claimed"
    number: int
    told: dict[str, Any]
    """The outcome of the call at another worker, as `verdicts` writes it; empty: it is to be run."""


@dataclass(frozen=True, slots=True)
class Unclaim:
    """Worker to main: it knows nothing of this key any more, and does not ask for it."""

    TYPE: ClassVar[str] = "unclaim"
    tenant: str
    key: str


@dataclass(frozen=True, slots=True)
class Recall:
    """Main to worker: the question what came, or comes, of the call that has this key."""

    TYPE: ClassVar[str] = "recall"
    number: int
    """The number that the answer has."""
    tenant: str
    key: str
    fingerprint: bytes
    """The digest of the call that has it at another worker."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """Worker to main: the answer to a `Recall`, once there is one."""

    TYPE: ClassVar[str] = "recalled"
    number: int
    told: dict[str, Any]
    """The outcome of the call, as `verdicts` writes it; empty: the key is not known any more."""


@dataclass(frozen=True, slots=True)
class Farewell:
    """Worker to main, last: its requests are finished, and its last counts reported."""

    TYPE: ClassVar[str] = "farewell"


ToWorker: TypeAlias = (
    Start
    | Heard
    | Known
    | Current
    | MeshState
    | Revocations
    | Drains
    | Renewed
    | Reload
    | Held
    | Lost
    | Forget
    | Ask
    | Whole
    | Others
    | Claimed
    | Recall
)
ToMain: TypeAlias = (
    Up
    | Status
    | Counts
    | Revocations
    | Drains
    | Held
    | Forget
    | Gather
    | Part
    | Figures
    | Claim
    | Unclaim
    | Recalled
    | Farewell
)

_TYPES: Final[dict[str, type[ToWorker | ToMain]]] = {
    kind.TYPE: kind
    for kind in (
        Start,
        Heard,
        Known,
        Current,
        MeshState,
        Revocations,
        Drains,
        Renewed,
        Reload,
        Held,
        Lost,
        Forget,
        Ask,
        Whole,
        Up,
        Status,
        Counts,
        Gather,
        Part,
        Figures,
        Others,
        Claim,
        Claimed,
        Unclaim,
        Recall,
        Recalled,
        Farewell,
    )
}


def to_wire(message: ToWorker | ToMain) -> dict[str, Any]:
    """Return the channel message of `message`."""
    return {"type": message.TYPE} | {
        field.name: getattr(message, field.name) for field in fields(message)
    }


def from_wire(raw: Mapping[str, Any]) -> ToWorker | ToMain:
    """Return the value of a channel message.

    Raises:
        ProtocolViolation: an unknown type, a missing field or one of the wrong type.
    """
    name = str(raw.get("type"))
    kind = _TYPES.get(name)
    if kind is None:
        raise ProtocolViolation(
            f"unknown message {name!r} of a router's process; are both of one version?"
        )
    try:
        return read(raw, kind)
    except Mismatch as exc:
        raise ProtocolViolation(f"message {name!r} of a router's process: {exc}") from exc


_FILES: Final = ("rules_file", "tls_certificate", "tls_key", "tls_client_ca", "jobs_folder")
"""The settings that are paths, or None."""


def settings_values(settings: RouterSettings) -> dict[str, Any]:
    """Return a worker's settings as plain values, without the token, which is the main process's alone."""
    values = {**asdict(settings), "token": None, "token_file": None}
    values["data_folder"] = str(settings.data_folder)
    for name in _FILES:
        values[name] = None if values[name] is None else str(values[name])
    return values


def settings_of(values: Mapping[str, Any]) -> RouterSettings:
    """Return the settings that `settings_values` wrote."""
    files = {name: None if values[name] is None else Path(values[name]) for name in _FILES}
    given: dict[str, Any] = {
        **values,
        "data_folder": Path(values["data_folder"]),
        **files,
        "bootstrap": tuple(values["bootstrap"]),
        "allowed_hosts": tuple(values["allowed_hosts"]),
        "allowed_origins": tuple(values["allowed_origins"]),
        "jobs_places": tuple(values["jobs_places"]),
        "trusted_proxies": tuple(values["trusted_proxies"]),
        "limits": Limits(**values["limits"]),
    }
    return RouterSettings(**given)


def hold_of(held: Held) -> Hold:
    """Return the operator's word that a message has."""
    return Hold(
        PeerId(held.peer),
        ModelName(held.model),
        ModelVersion(held.version),
        CircuitState(held.state) if held.state else None,
    )


def held_of(hold: Hold, number: int = 0) -> Held:
    """Return the message that has the operator's word."""
    state = "" if hold.state is None else str(hold.state)
    return Held(number, hold.peer, hold.model, hold.version, state)
