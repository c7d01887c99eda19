"""The settings of a worker, from the node's operator. Pure: the agent reads them without the worker's libraries."""

from __future__ import annotations

from dataclasses import dataclass

MAX_IN_FLIGHT = 4096
"""Requests that wait or run at one model. It bounds memory alone, some 10 KB each, at half of what one link carries: how long a queue
may be is a matter of time (`ConcurrencyLimit`, and routers by each request's deadline), and of a small model this many take but
tenths of a second (guess)."""
MAX_STREAMS = 1536
"""Answers in parts that one model in a loop has under way (guess: it leaves others most of what one link carries; readers that stall
have their places as long as they stall)."""

LOAD_LIMIT_S = 600.0
"""The longest load of one model (guess: a plain load takes seconds and its measurement at most about ten; TensorRT compiles an engine
for minutes at the first load, and again where a warm-up or a larger batch has a shape beyond those it was made for)."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """A part of `NodeSettings` that goes to every worker as it is, and there to whoever needs it."""

    threads: int = 0
    """CPU threads of one run; 0: the device's cores."""
    max_in_flight: int = MAX_IN_FLIGHT
    """The most requests that may wait or run at one model."""
    max_streams: int = MAX_STREAMS
    """The most requests instead of that at a model in a loop: each lasts as long as its reader, and they take turns."""
    poll_s: float = 2.0
    """The models folder is looked through for changes this often; 0 for only at the start."""
    is_controllable: bool = False
    """True if routers may have models loaded and unloaded for another reason than that a request has come."""
    memory_limit_bytes: int = 0
    """The memory that the models of one device may occupy together: a model is loaded where it fits beside the others.
    Once loaded, each may grow up to it on a GPU, and is not held to it on a CPU. 0 for what the device has."""
    watchdog_s: float = 60.0
    """A run that takes longer ends its worker, which then starts anew (guess: the default deadline twice)."""
    load_limit_s: float = LOAD_LIMIT_S
    """A model that takes longer to load, warm up and measure ends its worker, which then starts anew."""
    is_dialing: bool = False
    """True for a node behind NAT: it dials the routers and serves over those links, instead of being dialled."""
    is_sandboxed: bool = True
    """True if workers give up what they do not need once they have started: see `capamesh.node.worker.sandbox`."""
