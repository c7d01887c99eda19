"""How a router is set up. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from capamesh.protocol.tensors import Limits
from capamesh.router.policies import DEFAULT_POLICY

ROUTER_LIMITS = Limits(max_message_bytes=64 * 2**20)
"""Guess: a hundred pictures of 3 x 224 x 224 FP32, and half of what 1 GiB of memory has for bodies."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """Everything a router is told; the command line has an option for each."""

    data_folder: Path
    """Where the router keeps its key, its membership and what it knows between two runs."""
    token: str | None = None
    """A join token; needed once, the membership is kept in the data folder."""
    token_file: Path | None = None
    """Where it came from: a new token that is put there renews the membership. None: it is not looked at again."""
    bootstrap: tuple[str, ...] = ()
    """Mesh addresses of other routers, besides those of the token."""
    http_host: str = "127.0.0.1"
    """The address at which clients come in."""
    http_port: int = 8000
    """The port at which clients come in; 0: any free one."""
    mesh_host: str = "127.0.0.1"
    """The address at which members gossip."""
    mesh_port: int = 4001
    """libp2p's usual port: tokens name it, so it should stay the same from run to run."""
    link_host: str = "127.0.0.1"
    """Where nodes that nobody can dial reach this router."""
    link_port: int = 4100
    """The port at which such nodes come in; 0: any free one."""
    advertised_host: str = ""
    """The host that such nodes dial; empty: `link_host`, or the outward address if that is a wildcard."""
    dial_inside: str = ""
    """How far inside the addresses of nodes may lie that are dialled, a name of `Inside` in lower case with hyphens;
    empty: no further than where this router is reached itself."""
    use_mdns: bool = False
    """Whether members on the local network are found by multicast DNS."""
    region: str = ""
    """Where this router is, in its operator's words; empty: it does not say."""
    policy: str = DEFAULT_POLICY
    """For models of which `rules_file` says nothing else."""
    rules_file: Path | None = None
    """TOML that says how each model's requests are routed, read anew on SIGHUP; None: all alike."""
    timeout_s: float = 30.0
    """For requests that name no deadline of their own."""
    arrival_s: float = 30.0
    """How long a request's body may take to arrive once its head is here (guess: 256 MiB at 70 Mbit/s)."""
    drain_s: float = 30.0
    """How long a stopping router waits for requests under way."""
    limits: Limits = ROUTER_LIMITS
    """How much one message may hold."""
    body_budget_bytes: int = 0
    """For the bodies of all requests together; 0: an eighth of the memory, and twice the largest at least."""
    answer_budget_bytes: int = 0
    """For the answers that are coming from all nodes together; 0: as for bodies."""
    max_connections: int = 0
    """Of clients; 0: 4,096, or as many as the limit of descriptors leaves."""
    max_connections_per_address: int = 0
    """0: half of all. An IPv6 network of 64 bits counts as one address."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks that may have all of them, because they stand for many clients; this machine always may."""
