"""How a node agent is set up. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAX_IN_FLIGHT = 512
"""Requests that wait or run at one model (guess: 10 ms of a small model; more is latency, not throughput)."""

LOAD_LIMIT_S = 600.0
"""For one model (guess: a plain load takes seconds and its measurement at most about ten; TensorRT compiles an engine
for minutes at the first load, and again where a warm-up or a larger batch has a shape beyond those it was made for)."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything an agent is told; the command line has an option for each."""

    data_folder: Path
    """Where the node keeps its key, its membership and what it measured of models."""
    models_folder: Path
    """The models that the node hosts."""
    token: str | None = None
    """A join token; needed once, the membership is kept in the data folder."""
    token_file: Path | None = None
    """Where it came from: a new token that is put there renews the membership. None: it is not looked at again."""
    bootstrap: tuple[str, ...] = ()
    """Mesh addresses besides those of the token."""
    host: str = "127.0.0.1"
    """Where workers and the mesh listen."""
    port: int = 0
    """The first worker's link port, the next worker has the next; 0 for any free ones."""
    mesh_port: int = 0
    """The port at which the mesh listens; 0: any free one."""
    advertised_host: str = ""
    """The host that routers dial; empty: `host`, or this machine's outward address if that is a wildcard."""
    use_mdns: bool = False
    """Whether members on the local network are found by multicast DNS."""
    region: str = ""
    """Where this node is, in its operator's words; empty: it does not say."""
    price_per_million: float = 0.0
    """The price of a million rows, in the unit that the network has agreed on; 0 is free."""
    threads: int = 0
    """CPU threads of one run; 0: the device's cores."""
    max_in_flight: int = MAX_IN_FLIGHT
    """How many requests may wait or run at one model."""
    drain_s: float = 30.0
    """How long a stopping node waits for work under way."""
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
    metrics_host: str = ""
    """Where metrics are served over HTTP; empty: nowhere."""
    metrics_port: int = 0
    """0: any free one."""
    is_dialing: bool = False
    """Behind NAT: dial the routers and serve over those links, instead of being dialled."""
    is_sandboxed: bool = True
    """Whether workers give up what they do not need once they have started: see `capamesh.node.worker.sandbox`."""
