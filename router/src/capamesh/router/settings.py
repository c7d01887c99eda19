"""The settings of a router. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from capamesh.protocol.tensors import Limits
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.keys import KEYS_FILE
from capamesh.router.cache.store import DEFAULT_CACHE_BYTES
from capamesh.router.policies import DEFAULT_POLICY

ROUTER_LIMITS = Limits(max_message_bytes=64 * 2**20)
"""The default limits of a router (guess: a hundred pictures of 3 x 224 x 224 FP32, and half of what 1 GiB of memory has for
bodies)."""

JOBS_FILE: Final = "jobs.db"
"""The name of the file of jobs in a router's data folder."""
JOBS_FOLDER: Final = "jobs"
"""The name of the folder of uploaded files and results in a router's data folder."""
SQLITE_ENDINGS: Final = ("", "-wal", "-shm", "-journal")
"""The endings of the names of a database's files (SQLite's)."""
MOST_WORKERS: Final = 15
"""The most workers: a node takes 16 links of one member, and a worker that is replaced has one beside its successor's."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """The settings of one router; the command line has an option for each."""

    data_folder: Path
    """The folder in which the router keeps its key, its membership and what it knows between two runs."""
    token: str | None = None
    """A join token; needed once, the membership is kept in the data folder."""
    token_file: Path | None = None
    """The file that the token came from: a new token that is put there renews the membership. None if it is not read again."""
    bootstrap: tuple[str, ...] = ()
    """Mesh addresses of other routers, besides those of the token."""
    http_host: str = "127.0.0.1"
    """The address at which clients come in."""
    http_port: int = 8000
    """The port at which clients come in; 0: any free one."""
    metrics_host: str = ""
    """The address at which operators come in, for metrics and all else that is not for clients; empty: where clients do."""
    metrics_port: int = 0
    """The port of that; 0: any free one."""
    tls_certificate: Path | None = None
    """The file of the certificate that clients see, as PEM, and those that lead to its authority; None: no TLS."""
    tls_key: Path | None = None
    """The file of its key; given together with it."""
    tls_client_ca: Path | None = None
    """The file of the authorities, one of which has signed each client's certificate; None: clients need none."""
    is_insecure: bool = False
    """True if clients of other machines may come in without TLS or keys."""
    mesh_host: str = "127.0.0.1"
    """The address at which members gossip."""
    mesh_port: int = 4001
    """libp2p's usual port: tokens name it, so it should stay the same from run to run."""
    link_host: str = "127.0.0.1"
    """The address at which nodes that nobody can dial reach this router."""
    link_port: int = 4100
    """The port at which such nodes come in; 0: any free one."""
    advertised_host: str = ""
    """The host that such nodes dial; empty: `link_host`, or the outward address if that is a wildcard."""
    dial_inside: str = ""
    """The kind of inside addresses of nodes that are dialled, a name of `Inside` in lower case with hyphens; empty for no
    further inside than where this router is reached itself."""
    workers: int = 1
    """The processes that serve requests; 1: the router is one process. With more, a main process starts and supervises them."""
    use_mdns: bool = False
    """True if members on the local network are found by multicast DNS."""
    name: str = ""
    """The name that people see, as `member_name` has it; empty for the name of this machine."""
    traces_url: str = ""
    """The collector that is sent spans of requests that failed, were slow or are sampled by their callers; empty: none is."""
    trace_slow_s: float = 1.0
    """Requests that take longer are traced, too."""
    trace_ratio: float = 0.0
    """The share of all other requests that is traced, from 0 to 1."""
    access_log: str = ""
    """The file that a share of all requests is written to, a line each; `-` for standard output, empty: there is none."""
    access_log_sample: float = 0.01
    """The share of requests that is written there, above 0 and at most 1."""
    slow_log: str = ""
    """The file that slow requests are written to, with why their nodes were chosen; `-` and empty as before."""
    slow_log_s: float = 1.0
    """A request that takes longer is slow; 0: no time alone makes it so."""
    slow_log_factor: float = 4.0
    """A request is slow that takes longer than this many times the 99th percentile of its model; 0: none is for that."""
    region: str = ""
    """The place of this router in its operator's words; empty if it does not say."""
    policy: str = DEFAULT_POLICY
    """The policy for models of which `rules_file` says nothing else."""
    rules_file: Path | None = None
    """TOML that says how each model's requests are routed, read anew on SIGHUP; None: all alike."""
    keys: str = field(default="", repr=False)
    """The place of clients' keys, which `capamesh keys` makes: a file, or a database of PostgreSQL by its URL; empty: `keys.db` in
    the data folder. While no key was made, none is asked for."""
    jobs: str | None = field(default="", repr=False)
    """The store of batch jobs, which routers may share: a file, or a database of PostgreSQL by its URL; empty: `jobs.db` in the data
    folder. None: there are no jobs."""
    jobs_folder: Path | None = None
    """The folder of uploaded files and of results, the same for all routers of a store; None: `jobs` in the data folder."""
    jobs_places: tuple[str, ...] = ()
    """The folders, and URLs, below which jobs may read and write: nothing else is ever opened for a client."""
    upload_bytes: int = 0
    """The most bytes of uploaded files of one tenant, and where no key is asked for of one address; 0: an eighth of the disk, from 1
    to 256 GiB."""
    timeout_s: float = 30.0
    """The deadline, in seconds, of requests that name none of their own."""
    answer_timeout_s: float = 0.0
    """The deadline, in seconds, of answers that are generated; 0 for ten minutes, or `timeout_s` if that is longer."""
    arrival_s: float = 30.0
    """The longest time that a request's body may take to arrive once its head is here (guess: 256 MiB at 70 Mbit/s)."""
    drain_s: float = 30.0
    """The longest time that a stopping router waits for requests under way."""
    limits: Limits = ROUTER_LIMITS
    """The limits of one message."""
    body_budget_bytes: int = 0
    """The memory for the bodies of all requests together; 0 for an eighth of the memory, and twice the largest body at least."""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """The memory for kept answers of models whose rules say so; workers have an equal part each."""
    cache_url: str = field(default="", repr=False)
    """The Valkey or Redis in which routers share kept answers, as `valkey://HOST:PORT/DB`; empty: each has its own alone."""
    cache_secret: bytes = field(default=b"", repr=False)
    """The secret by which routers that share answers know what one of them has written, 32 bytes at least."""
    cache_secret_file: Path | None = None
    """The file that it came from."""
    answer_budget_bytes: int = 0
    """The memory for the answers that are arriving from all nodes together; 0 for as much as bodies have."""
    max_connections: int = 0
    """The most connections of clients; 0 for 4,096, or as many as the limit of descriptors leaves."""
    max_connections_per_address: int = 0
    """The most connections of one address; 0 for half of all. An IPv6 network of 64 bits counts as one address."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of this router, such as "router.example" or "*.example", beside those that it knows of itself; "*": any."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of pages, such as "https://app.example", that may ask beside the router's own."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks that may have all of them, because they stand for many clients; this machine always may."""

    @property
    def key_location(self) -> DatabaseLocation:
        """Return the place of clients' keys. Raises `ConfigError`."""
        return (
            DatabaseLocation.of(self.keys, "keys")
            if self.keys
            else DatabaseLocation(self.data_folder / KEYS_FILE)
        )

    @property
    def secret_paths(self) -> tuple[Path, ...]:
        """Return the folders and files that are the router's alone to read, wherever they lie. Raises `ConfigError`."""
        databases = [self.key_location.file]
        if self.jobs:
            databases.append(DatabaseLocation.of(self.jobs, "jobs").file)
        files = [self.jobs_folder, self.token_file, self.tls_key, self.cache_secret_file]
        return (
            self.data_folder,
            *(each for each in files if each is not None),
            *(
                each.with_name(f"{each.name}{ending}")
                for each in databases
                if each is not None
                for ending in SQLITE_ENDINGS
            ),
        )
