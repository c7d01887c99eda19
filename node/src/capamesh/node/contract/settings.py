"""What a worker is told when it starts, by its agent. Pure: the agent reads it without the worker's libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.node.contract.verdict import Verdict


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told at its start. Paths are text, because they travel as msgpack."""

    membership_folder: str
    models_folder: str
    device_index: int
    device_uuid: str
    device_kind: str
    device_name: str
    memory_total_bytes: int
    memory_free_bytes: int
    """Before the first look of its own."""
    driver: str
    threads: int
    memory_limit_bytes: int
    """0: what the device has."""
    watchdog_s: float
    load_limit_s: float
    poll_s: float
    is_controllable: bool
    verdicts: tuple[Verdict, ...]
    """What is held against models that ended earlier workers."""
    running_page: str
    cache_folder: str
    host: str
    port: int
    advertised_host: str
    max_in_flight: int
    is_dialing: bool
    is_sandboxed: bool
