"""The JSON of the router's pages on its fleet, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from capamesh.protocol.schema import Meta

Count = Annotated[int, Meta(ge=0)]


class Device(TypedDict):
    """A device of a node."""

    kind: str
    """The kind, such as `cpu` or `cuda`."""
    name: str
    provider: str
    """The execution provider that runs models there."""
    memory_total_bytes: int
    memory_free_bytes: int
    runtime: str
    driver: str


class HostedModel(TypedDict):
    """A model version at a node."""

    name: str
    version: str
    state: str
    """`ready`, `loading`, `unloading`, `unloaded` or `failed`."""
    reason: str
    """The reason for that state; empty if there is nothing to say."""
    digest: str
    """The digest of its files."""
    is_served: bool
    """True if requests for the model go to this node's file."""
    provider: str
    precision: str
    best_rows: int
    """The rows of the batches that nodes form."""
    row_us: float
    """Microseconds that a row takes in such a batch."""
    max_rows: int
    """The most rows of a request; 0: no bound."""
    memory_bytes: int


class Override(TypedDict):
    """The operator's word on a node, or on one of its models."""

    model: str
    """The model; empty: all of them."""
    version: str
    """The version; empty: all of them."""
    state: str
    """`forced_open`, `forced_closed` or `automatic`."""


class LinkedModel(TypedDict):
    """A model version behind a link, as requests find it."""

    name: str
    version: str
    state: str
    """The state of its circuit."""
    reason: str
    share: float
    """The part of its requests that it gets, from 0 to 1."""
    requests_in_flight: Count
    """This router's requests that it has not answered yet."""
    node_in_flight: int
    """The requests of all routers, as the node has said last."""
    node_limit: int
    queue_us: int
    run_us: int
    bulk_in_flight: int
    """The rows of batch jobs and other bulk requests of all routers, as the node has said last."""
    online_queue_us: int
    """Microseconds for which requests that people wait for have queued of late."""
    limit_rows: int
    """The rows that may be in flight there; 0: the node does not say."""


class Link(TypedDict):
    """A link to one of a node's devices."""

    address: str
    is_up: bool
    is_usable: bool
    is_suspected: bool
    """True if the node was not heard of for long."""
    last_error: str
    """The reason why it is down; empty if it is not."""
    state: str
    """The state of its circuit."""
    reason: str
    rtt_us: int
    """The smoothed time of a round trip."""
    requests_in_flight: Count
    answered: Count
    failed: Count
    models: list[LinkedModel]


class Node(TypedDict):
    """A node as a router sees it."""

    peer_id: str
    name: str
    invite: str
    """The serial number of the invite by which it is a member; empty if that is not known."""
    member_since: str | None
    member_until: str | None
    region: str
    agent_version: str
    price_per_million: float
    """The price of a million rows, in the unit of its owner."""
    is_draining: bool
    drained_until: str | None
    """The time until which the network's owner has drained it."""
    devices: list[Device]
    models: list[HostedModel]
    overrides: list[Override]
    addresses_refused: str
    """The reason why its addresses are not dialled; empty if they are."""
    links: list[Link]


class MissedModel(TypedDict):
    """A model version that a lost node had ready."""

    name: str
    version: str
    nodes_before: Count
    """The number of nodes that had it ready when this one was lost, this one included."""


class LostNode(TypedDict):
    """A node that vanished without a goodbye and has not come back."""

    peer_id: str
    name: str
    invite: str
    """The serial number of the invite by which it was a member."""
    lost_at: str
    models: list[MissedModel]


class Nodes(TypedDict):
    """All nodes of the fleet, and those that it has lost in the last day."""

    nodes: list[Node]
    lost: list[LostNode]


class Router(TypedDict):
    """A router of the network."""

    peer_id: str
    name: str
    region: str
    agent_version: str
    nodes: Count
    """The number of nodes that it knows."""
    link_addresses: list[str]
    """The addresses at which nodes dial it."""
    is_this: bool
    """True of the router that answers."""


class Routers(TypedDict):
    """The routers of which this one has heard in the last minute, itself first."""

    routers: list[Router]


class Forgotten(TypedDict):
    """A lost node that was forgotten."""

    peer_id: str
    name: str


class OtherFile(TypedDict):
    """Another file that nodes host under the name and version of one that is served."""

    digest: str
    nodes: Count
    invites: Count
    """The number of invites that have admitted these nodes."""
    peers: list[str]
    """Some of these nodes."""


class OwnedVersion(TypedDict):
    """The file that a model version is served as, and why it is that one."""

    name: str
    version: str
    digest: str
    reason: str
    publisher: str
    """The member that says so; empty if none does."""
    standing: Literal["trusted", "by name only", "on trial"]
    choice: str
    """The reason why this file is served, or none is, where nodes host several; empty where they host one."""
    nodes: Count
    """The number of nodes that host it."""
    invites: Count
    """The number of invites that have admitted these nodes."""
    others: list[OtherFile]


class Taken(TypedDict):
    """The outcome of posting a list or an order."""

    version: int
    """The version of it."""
    is_kept: bool
    """True if it is on the disk, and still there after a new start."""
