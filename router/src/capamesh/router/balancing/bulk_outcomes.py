"""Takes in what became of calls of batch jobs: that a replica is there, what it tells of its load, and no more. Pure.

A call of a job has a whole batch of rows, waits behind what people wait for, and may have a row that is wrong or ends its worker.
So how long it takes is no latency of the model, a refusal of it no lack of room, and a failure of it no fault of the replica:
whoever sends such calls draws the conclusions. What is left is what holds for all requests: loads, and the end of a link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    Draining,
    LinkLost,
    ModelUnavailable,
    NotMember,
    PeerError,
    ProtocolViolation,
)
from capamesh.protocol.links.calls import load_with

if TYPE_CHECKING:
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.replica import Replica


def sent(replica: Replica, rows: int) -> None:
    """Count a call of a job in that is sent to a replica."""
    replica.bulk_rows += rows
    replica.endpoint.bulk_rif += 1


def ended(replica: Replica, rows: int) -> None:
    """Count one out that is under way no more."""
    replica.bulk_rows -= rows
    replica.endpoint.bulk_rif -= 1


def answered(
    served: ServedModel,
    replica: Replica,
    rows: int,
    load: LoadReport,
    elapsed_s: float,
    at_node_s: float,
    size_bytes: int,
    now_s: float,
) -> None:
    """Take in that a call of a job was answered, and count it out."""
    ended(replica, rows)  # the load that is told is without it
    endpoint = replica.endpoint
    endpoint.answered += 1
    replica.answered_s = now_s
    replica.proved_s = max(replica.proved_s, now_s - elapsed_s)
    replica.missed = 0
    endpoint.health.answered(now_s)
    endpoint.network.transferred(size_bytes, elapsed_s, at_node_s)
    if not replica.is_gone:
        replica.health.answered(now_s)
        served.reported(replica, load, now_s)


def failed(
    served: ServedModel,
    replica: Replica,
    rows: int,
    error: CapameshError,
    elapsed_s: float,
    now_s: float,
) -> None:
    """Take in that a call of a job was refused or failed, and count it out."""
    match error:
        case LinkLost() | ProtocolViolation() | NotMember() | Draining() | ModelUnavailable():
            served.failed(replica, error, elapsed_s, now_s)
        case ClientError() | PeerError():
            load = load_with(error)
            if load is not None:
                served.reported(replica, load, now_s)
            replica.endpoint.health.probed(now_s)
            replica.endpoint.count(error)
        case _:
            pass  # this process's own fault
    ended(replica, rows)  # what its link's end is put down to depends on it
