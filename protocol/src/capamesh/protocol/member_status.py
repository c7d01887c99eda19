"""Judges a member's status: whether requests can be served, and how old that is. Pure.

`state` of a router: `starting`, `ready` (a node can be sent requests), `waiting` (it serves, but no node can be reached),
`expired` and `revoked` (its membership has ended), `draining`, `stopped`. Of a node: the same, `ready` when a model is
ready and a router is linked to it, `waiting` with the reason while either is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

HEARTBEAT_S: Final = 5.0
"""Seconds between two writes of a running member's status, whether anything has changed or not (guess: as health checks ask)."""
STALE_S: Final = 4 * HEARTBEAT_S
"""The age above which a status is stale: a member that has missed three heartbeats is frozen, or cannot write (guess)."""

READY: Final = 0
NOT_RUNNING: Final = 1
"""No process is there, or one that has not said anything for long."""
MEMBERSHIP_ENDED: Final = 3
"""The exit status of a membership that is expired or revoked: only a new token helps. 2 is what shells and this command take
for wrong usage."""
NOT_READY: Final = 4
"""The exit status of a member that runs, but cannot serve requests now: it starts, waits or drains."""

ENDED: Final = frozenset({"expired", "revoked"})
SERVING: Final = frozenset({"ready", "waiting"})
"""States of a router whose HTTP port answers."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of a member now, by its last status and what is known of its process."""

    state: str
    reason: str
    """The reason for a person; empty when it is ready."""
    exit_status: int


def verdict(status: Mapping[str, Any], now: datetime) -> Verdict:
    """Return how the member is that `home.read_status` told of; a status is not believed once it is old."""
    state, reason = str(status.get("state", "unknown")), str(status.get("reason", ""))
    expires_at = _time(status.get("expires_at"))
    if state != "revoked" and expires_at is not None and now > expires_at:
        return Verdict(
            "expired",
            f"its membership ended at {expires_at:%Y-%m-%d %H:%M} UTC: give it a new token from the network's owner",
            MEMBERSHIP_ENDED,
        )
    if not status.get("is_running"):
        return Verdict("stopped", "no process holds its folder", NOT_RUNNING)
    updated_at = _time(status.get("updated_at"))
    if updated_at is None:
        return Verdict("stale", "its status does not say when it was written", NOT_RUNNING)
    age_s = abs((now - updated_at).total_seconds())
    if age_s > STALE_S:
        return Verdict(
            "stale",
            f"it last said that it was {state}, {age_s:.0f} s ago, and says so every {HEARTBEAT_S:g} s: it is frozen, or "
            "cannot write its folder",
            NOT_RUNNING,
        )
    if state in ENDED:
        return Verdict(state, reason, MEMBERSHIP_ENDED)
    return Verdict(state, reason, READY if state == "ready" else NOT_READY)


def age_s(status: Mapping[str, Any], now: datetime) -> float | None:
    """Return the seconds since a status was written; None where it does not say."""
    updated_at = _time(status.get("updated_at"))
    return None if updated_at is None else (now - updated_at).total_seconds()


def believable(status: Mapping[str, Any], found: Verdict) -> dict[str, Any]:
    """Return `status` without what is not true any more of a process that has stopped, or is not known of a stale one."""
    is_running = bool(status.get("is_running"))
    if is_running and found.state != "stale":
        return dict(status)
    state = "unknown" if is_running else "stopped"
    over: dict[str, Any] = {
        "routers": 0,
        "links": 0,
        "nodes": 0,
        "sidecar_pid": None,
        "worker_pids": [],
    }
    workers: list[dict[str, Any]] = status.get("workers", [])
    models: list[dict[str, Any]] = status.get("models", [])
    believed = {
        **status,
        **{key: value for key, value in over.items() if key in status and not is_running},
        "models": [_without_now(model, state) for model in models],
    }
    if not is_running:
        believed["workers"] = [{**worker, "pid": None} for worker in workers]
    return {key: value for key, value in believed.items() if key in status}


def _without_now(model: Mapping[str, Any], state: str) -> dict[str, Any]:
    """Return a model's status with `state`, what it counted, and nothing of the moment at which it was written."""
    kept = {
        key: value for key, value in model.items() if key not in {"requests_in_flight", "limit"}
    }
    if model.get("state") == "ready":
        kept["reason"] = ""  # it was of a model that ran
    return {**kept, "state": state, "last_state": model.get("state")}


def _time(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None
