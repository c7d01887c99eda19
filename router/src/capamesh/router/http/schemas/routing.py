"""The JSON of the router's pages on routing, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from capamesh.protocol.schema import Meta
from capamesh.router.http.schemas.fleet import Override, OwnedVersion

Count = Annotated[int, Meta(ge=0)]


class AttemptTimes(TypedDict):
    """One attempt at a node."""

    peer_id: str
    address: str
    after_s: float
    """Seconds from the beginning of the request until it was sent."""
    took_s: float
    queue_s: float
    """Seconds in the node's queue, as the node has told."""
    run_s: float
    outcome: str
    """`answered`, or why not."""


class EndedRequest(TypedDict):
    """A request that has ended."""

    model: str
    version: str
    began_at: float
    """Seconds since 1970."""
    took_s: float
    attempts: list[AttemptTimes]


class Kind(TypedDict):
    """The requests of one model that ended with one code."""

    model: str
    """The model; empty if nobody hosts it."""
    code: str
    """`ok` where they took long, or the code of the error."""
    count: Count
    last_at: float
    """The time of the last, in seconds since 1970."""
    error: str
    """The newest error's text."""
    newest: list[EndedRequest]


class Kinds(TypedDict):
    """The requests that failed or took long of late."""

    kinds: list[Kind]


class ReplicaSignals(TypedDict):
    """The signals by which a replica of a model is judged."""

    name: str
    """The name of its node."""
    peer_id: str
    address: str
    is_chosen: bool
    requests_in_flight: Count
    node_in_flight: int
    node_limit: int
    latency_us: int
    rtt_us: int
    report_age_us: int | None
    """Microseconds since the node has said how busy it is; null: it has not."""
    price_per_million: float
    region: str
    state: str
    share: float
    refusal: str
    """The reason why it could not get the request; empty if it could."""


_Class = TypedDict("_Class", {"class": str})
"""Has the key that Python has for itself: how urgent the request is."""


class Admission(_Class):
    """The decision whether a request would be let in."""

    is_admitted: bool
    level: float
    """The load of the model's nodes: 1 is full."""
    tenant: str
    """The tenant as whose it would be counted."""
    status: NotRequired[int]
    code: NotRequired[str]
    error: NotRequired[str]
    retry_after_s: NotRequired[float]


class Decision(TypedDict):
    """The way of a request, and why."""

    model: str
    version: str
    policy: str
    chosen: list[str]
    """The peer ids of the nodes that would be asked."""
    replica_count: Count
    replicas: list[ReplicaSignals]
    """All replicas, the chosen first."""
    owner: OwnedVersion | None
    """The file that the version is served as; null where all are served."""
    admission: Admission


class Hold(TypedDict):
    """The operator's word on a node."""

    state: Literal["forced_open", "forced_closed", "automatic"]
    """The word: never send, always, as it goes."""
    model: NotRequired[str]
    """The model that it is about; left out: all of them."""
    version: NotRequired[str]
    """The version, which needs a model; left out: all of them."""


class Held(TypedDict):
    """The operator's word on a node as it holds now."""

    peer_id: str
    name: str
    state: str
    model: str
    version: str
    overrides: list[Override]
    """All that the operator has said of the node."""
