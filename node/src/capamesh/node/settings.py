"""How a node agent is set up. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from capamesh.node.worker.run_loop import MAX_QUEUED


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything an agent is told; the command line has an option for each."""

    data_folder: Path
    models_folder: Path
    token: str | None = None
    """A join token; needed once, the membership is kept in the data folder."""
    bootstrap: tuple[str, ...] = ()
    """Mesh addresses besides those of the token."""
    host: str = "127.0.0.1"
    """Where workers and the mesh listen."""
    port: int = 0
    """The first worker's link port, the next worker has the next; 0 for any free ones."""
    mesh_port: int = 0
    advertised_host: str = ""
    """The host that routers dial; empty: `host`, or this machine's outward address if that is a wildcard."""
    use_mdns: bool = False
    region: str = ""
    price_per_million: float = 0.0
    threads: int = 0
    """CPU threads of one run; 0: the device's cores."""
    max_in_flight: int = MAX_QUEUED
    drain_s: float = 30.0
    """How long a stopping node waits for work under way."""
    is_dialing: bool = False
    """Behind NAT: dial the routers and serve over those links, instead of being dialled."""
