"""The settings of a node agent. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from capamesh.node.contract.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The settings of one agent and its workers; the command line has an option for each."""

    data_folder: Path
    """The folder in which the node keeps its key, its membership and what it measured of models."""
    models_folder: Path
    """The models that the node hosts."""
    token: str | None = None
    """A join token; needed once, the membership is kept in the data folder."""
    token_file: Path | None = None
    """The file that the token came from: a new token that is put there renews the membership. None if it is not read again."""
    bootstrap: tuple[str, ...] = ()
    """Mesh addresses besides those of the token."""
    host: str = "127.0.0.1"
    """The address on which workers and the mesh listen."""
    port: int = 0
    """The first worker's link port, the next worker has the next; 0 for any free ones."""
    mesh_port: int = 0
    """The port at which the mesh listens; 0: any free one."""
    advertised_host: str = ""
    """The host that routers dial; empty: `host`, or this machine's outward address if that is a wildcard."""
    use_mdns: bool = False
    """True if members on the local network are found by multicast DNS."""
    name: str = ""
    """The name that people see, as `member_name` has it; empty for the name of this machine."""
    region: str = ""
    """The place of this node in its operator's words; empty if it does not say."""
    price_per_million: float = 0.0
    """The price of a million rows, in the unit that the network has agreed on; 0 is free."""
    drain_s: float = 30.0
    """The longest time that a stopping node waits for work under way."""
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    """The settings of each worker."""
    metrics_host: str = ""
    """The address on which metrics are served over HTTP; empty if they are not."""
    metrics_port: int = 0
    """The port of the metrics; 0 for any free one."""
