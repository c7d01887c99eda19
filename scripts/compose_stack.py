"""The compose project under test: its containers, and its router as a client sees it. Runs `docker`, asks over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES = REPOSITORY / "cli/src/capamesh/cli/samples"
PROJECT = "capamesh-compose-test"
TAG = "compose-test"

COMMAND_LIMIT_S = 180.0
"""The longest time of a command (guess: bringing up five containers takes 30 s on two cores)."""
WAIT_LIMIT_S = 90.0
"""Twice the 30 s after which a silent node is given up, and a start."""
REQUEST_LIMIT_S = 30.0
"""A router's own limit for a request that names none."""
TAIL = 3000
"""The characters of a command's output that tell why it failed."""


class Failed(Exception):  # as pytest's own
    """Something did not hold and the rest cannot be tried."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The compose project under test."""

    docker: str
    port: int
    """The router's, for clients."""
    watch_port: int
    """Prometheus'."""

    def run(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run `docker` with `arguments` and return what it printed; raise `Failed` when it failed."""
        environment = os.environ | {
            "BUILDKIT_PROGRESS": "plain",
            "CAPAMESH_MODELS_FOLDER": str(SAMPLES / "models"),
            "CAPAMESH_PROMETHEUS_PORT": str(self.watch_port),
            "CAPAMESH_PUBLISHED_PORT": str(self.port),
            "CAPAMESH_TAG": TAG,
            "COMPOSE_PROFILES": "prometheus",
        }
        command = f"docker {' '.join(arguments)}"
        with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as told:
            process = subprocess.Popen(  # noqa: S603  # the arguments are this script's own
                [self.docker, *arguments],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=told,
                text=True,
                start_new_session=True,
            )
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired as exc:
                raise Failed(
                    f"`{command}` took over {limit_s:.0f} s and was ended; it said last:\n{_end(printed, told)}"
                ) from exc
            finally:
                _end_group(process)
            if status != 0:
                raise Failed(f"`{command}` exited with {status}:\n{_end(printed, told)}")
            printed.seek(0)
            return printed.read()

    def compose(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run `docker compose` on the project."""
        return self.run("compose", "-p", PROJECT, *arguments, limit_s=limit_s)

    def container(self, service: str) -> str:
        """Return the id of a service's container, running or not."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        found: list[dict[str, Any]] = json.loads(self.run("inspect", self.container(service)))
        return found[0]

    def shell(self, service: str, script: str) -> str:
        """Run `script` in a service's container as its own user and return what it printed."""
        return self.compose("exec", "-T", service, "sh", "-c", script).strip()

    def status(self, service: str) -> dict[str, Any]:
        """Return the status that a member wrote last."""
        found: dict[str, Any] = json.loads(self.shell(service, "cat /data/status.json"))
        return found

    def is_healthy(self, service: str) -> bool:
        """Return whether a service's container runs and its health check says yes."""
        state = self.inspect(service)["State"]
        return bool(state["Running"]) and state["Health"]["Status"] == "healthy"

    def get(self, path: str, body: object = None) -> Any:  # noqa: ANN401  # JSON
        """GET `path` from the router, or POST `body` to it, and return the JSON answered."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=REQUEST_LIMIT_S) as reply:  # noqa: S310  # http, to this machine
            return json.load(reply)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the router's view of the fleet by peer id."""
        return {node["peer_id"]: node for node in self.get("/v1/nodes")["nodes"]}

    def usable(self) -> set[str]:
        """Return the peers that requests can go to."""
        return {
            peer
            for peer, node in self.nodes().items()
            if any(link["is_up"] and link["is_usable"] for link in node["links"])
        }

    def answered(self, peer: str) -> int:
        """Return how many requests `peer` answered, as its router counts."""
        node = self.nodes().get(peer)
        return sum(link["answered"] for link in node["links"]) if node else 0


def _end(*outputs: TextIO) -> str:
    """Return the end of what a command said."""
    for output in outputs:
        output.seek(0)
    return "".join(output.read()[-TAIL:] for output in outputs).strip()


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a command and its children if it runs: `docker` does its work in plugins, which outlive it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(what: str, is_so: Callable[[], bool], limit_s: float = WAIT_LIMIT_S) -> float:
    """Return how many seconds passed until `is_so()`; raise `Failed` after `limit_s`."""
    begun_s = time.monotonic()
    while not is_so():
        if time.monotonic() - begun_s > limit_s:
            raise Failed(f"after {limit_s:.0f} s still not: {what}")
        time.sleep(0.25)
    return time.monotonic() - begun_s


def find_engine() -> str:
    """Return the `docker` command; raise `Failed` when there is no engine or no compose."""
    docker = shutil.which("docker")
    if docker is None:
        raise Failed(
            "there is no `docker` command: install a Docker engine with the compose plugin"
        )
    stack = Stack(docker, 0, 0)
    try:
        stack.run("version", "--format", "{{.Server.Version}}", limit_s=20)
        stack.run("compose", "version", limit_s=20)
    except Failed as exc:
        raise Failed(f"no usable Docker engine with compose: {exc}") from exc
    return docker


def free_ports() -> tuple[int, int]:
    """Return two ports that nobody listens on now."""
    here = ("127.0.0.1", 0)
    with socket.create_server(here) as one, socket.create_server(here) as other:
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def clean_up(stack: Stack) -> str:
    """Remove the project; return what is still there."""
    options = ("--volumes", "--remove-orphans", "--rmi", "all", "--timeout", "10")
    try:
        stack.compose("down", *options)
        label = f"label=com.docker.compose.project={PROJECT}"
        kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"), ("image", "ls"))
        return "".join(stack.run(*kind, "--quiet", "--filter", label) for kind in kinds).strip()
    except Failed as exc:
        return str(exc)


def show_logs(stack: Stack) -> None:
    """Print what the members said last, to find out why something did not hold."""
    for arguments in (("ps", "--all"), ("logs", "--no-color", "--tail", "60")):
        try:
            print(stack.compose(*arguments), file=sys.stderr)
        except Failed as exc:
            print(exc, file=sys.stderr)
