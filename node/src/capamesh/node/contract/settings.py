"""What a node's operator lets each of its workers do. Pure: the agent reads it without the worker's libraries."""

from __future__ import annotations

from dataclasses import dataclass

MAX_IN_FLIGHT = 512
"""Requests that wait or run at one model (guess: 10 ms of a small model; more is latency, not throughput)."""

LOAD_LIMIT_S = 600.0
"""For one model (guess: a plain load takes seconds and its measurement at most about ten; TensorRT compiles an engine
for minutes at the first load, and again where a warm-up or a larger batch has a shape beyond those it was made for)."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """A part of `NodeSettings` that goes to every worker as it is, and there to whoever needs it."""

    threads: int = 0
    """CPU threads of one run; 0: the device's cores."""
    max_in_flight: int = MAX_IN_FLIGHT
    """How many requests may wait or run at one model."""
    poll_s: float = 2.0
    """How often the models folder is looked through for changes; 0: only at the start."""
    is_controllable: bool = False
    """Whether routers may have models loaded and unloaded for another reason than that a request has come."""
    memory_limit_bytes: int = 0
    """What the models of one device may occupy together: one is loaded where it fits beside the others. Loaded, each
    may grow up to it on a GPU, and is not held to it on a CPU. 0: what the device has."""
    watchdog_s: float = 60.0
    """A run that takes longer ends its worker, which then starts anew (guess: the default deadline twice)."""
    load_limit_s: float = LOAD_LIMIT_S
    """A model that takes longer to load, warm up and measure ends its worker, which then starts anew."""
    is_dialing: bool = False
    """Behind NAT: dial the routers and serve over those links, instead of being dialled."""
    is_sandboxed: bool = True
    """Whether workers give up what they do not need once they have started: see `capamesh.node.worker.sandbox`."""
