"""Builds the images, runs docker-compose.yml as its own project, breaks it, and says what held. Does IO.

Exit code 0: all held. 1: something did not. 2: no Docker engine with compose to try it on. Ends in any case, and
leaves nothing behind but the engine's build cache. BASE_IMAGE in the environment is the images' base.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES = REPOSITORY / "cli/src/capamesh/cli/samples"
PROJECT = "capamesh-compose-test"
TAG = "compose-test"
NODES = ("node-1", "node-2", "node-3")
MEMBERS = ("router", *NODES)

BUILD_LIMIT_S = 1500.0
"""Guess: the first build compiles fastecdsa and fetches 300 MB."""
COMMAND_LIMIT_S = 180.0
"""Guess: bringing up five containers takes 30 s on two cores."""
WAIT_LIMIT_S = 90.0
"""Twice the 30 s after which a silent node is given up, and a start."""
REQUEST_LIMIT_S = 30.0
"""A router's own limit for a request that names none."""

STREAMS = 4
"""As many requests at once; more than one node serves at a time."""
STREAM_BEFORE_S = 3.0
STREAM_AFTER_S = 8.0
"""Guess: the kill is noticed within a second; this is a while longer."""
MIN_ACCURACY = 0.95
"""The model's own on these pictures is above that (scripts/build_models.py prints it)."""


class Failed(Exception):  # as pytest's own
    """Something did not hold and the rest cannot be tried."""


@dataclass(slots=True)
class Report:
    """What was checked, in order."""

    rows: list[tuple[bool, str, str]] = field(default_factory=list)

    def check(self, claim: str, held: bool, detail: object = "") -> None:
        """Note whether `claim` held."""
        self.rows.append((held, claim, str(detail)))
        print(f"{'held  ' if held else 'FAILED'}  {claim}  {detail}", flush=True)

    @property
    def all_held(self) -> bool:
        """Whether every claim held."""
        return bool(self.rows) and all(held for held, _, _ in self.rows)

    def table(self) -> str:
        """Return what held as text."""
        width = max(len(claim) for _, claim, _ in self.rows)
        return "\n".join(
            f"{'held' if held else 'FAILED':<7} {claim:<{width}}  {detail}"
            for held, claim, detail in self.rows
        )


@dataclass(frozen=True, slots=True)
class Stack:
    """The compose project under test."""

    docker: str
    port: int

    def run(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run `docker` with `arguments` and return what it printed; raise `Failed` when it failed."""
        environment = os.environ | {
            "CAPAMESH_PUBLISHED_PORT": str(self.port),
            "CAPAMESH_MODELS_FOLDER": str(SAMPLES / "models"),
            "CAPAMESH_TAG": TAG,
        }
        try:
            done = subprocess.run(  # noqa: S603  # the arguments are this script's own
                [self.docker, *arguments],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise Failed(f"docker {' '.join(arguments)} took over {limit_s:.0f} s") from exc
        if done.returncode != 0:
            tail = (done.stdout + done.stderr)[-4000:]
            raise Failed(f"docker {' '.join(arguments)} exited with {done.returncode}:\n{tail}")
        return done.stdout

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
        """Whether a service's container runs and its health check says yes."""
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


def wait_for(what: str, is_so: Callable[[], bool], limit_s: float = WAIT_LIMIT_S) -> float:
    """Return how many seconds passed until `is_so()`; raise `Failed` after `limit_s`."""
    begun_s = time.monotonic()
    while not is_so():
        if time.monotonic() - begun_s > limit_s:
            raise Failed(f"after {limit_s:.0f} s still not: {what}")
        time.sleep(0.25)
    return time.monotonic() - begun_s


class Digits:
    """The pictures of the sample model, and what it says to them."""

    def __init__(self, stack: Stack) -> None:
        with np.load(SAMPLES / "cases/digits.npz", allow_pickle=False) as cases:
            self.rows = cases["rows"]
            self.expected = cases["expected"]
            self._input, self._output = str(cases["input"]), str(cases["output"])
        self._stack = stack

    def classify(self, first: int, count: int) -> np.ndarray:
        """Return the class of `count` pictures, int64 [count], by one request."""
        rows = self.rows[first : first + count]
        reply = self._stack.get(
            "/v2/models/digits/infer",
            {
                "inputs": [
                    {
                        "name": self._input,
                        "datatype": "FP32",
                        "shape": list(rows.shape),
                        "data": rows.ravel().tolist(),
                    }
                ],
                "outputs": [{"name": self._output}],
            },
        )
        (output,) = reply["outputs"]
        scores = np.array(output["data"], dtype=np.float32).reshape(output["shape"])
        return np.asarray(np.argmax(scores, axis=1))

    def check(self, report: Report, when: str) -> np.ndarray:
        """Classify all pictures; note whether that is as good as the model is."""
        classes = self.classify(0, len(self.rows))
        accuracy = float((classes == self.expected).mean())
        report.check(
            f"digits are recognised {when}",
            accuracy >= MIN_ACCURACY,
            f"{accuracy:.3f} of {len(classes)}",
        )
        return classes


class Traffic:
    """Requests one after the other on a few threads, each compared with what the model said before."""

    def __init__(self, digits: Digits, truth: np.ndarray) -> None:
        self._digits, self._truth = digits, truth
        self._stop = threading.Event()
        self.answered = 0
        self.slowest_s = 0.0
        self.failures: list[str] = []
        self._lock = threading.Lock()

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Send until the block ends."""
        threads = [threading.Thread(target=self._send, args=(first,)) for first in range(STREAMS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _send(self, index: int) -> None:
        while not self._stop.is_set():
            row = index % len(self._truth)
            index += STREAMS
            begun_s = time.monotonic()
            try:
                (found,) = self._digits.classify(row, 1)
                failure = "" if found == self._truth[row] else f"picture {row} became {found}"
            except urllib.error.HTTPError as exc:
                failure = f"{exc}: {exc.read(300).decode(errors='replace')}"
            except (OSError, ValueError, KeyError) as exc:
                failure = repr(exc)
            with self._lock:
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)
                if failure:
                    self.failures.append(failure)
                else:
                    self.answered += 1

    def check(self, report: Report, claim: str) -> None:
        """Note whether every request was answered rightly."""
        detail = (
            f"{self.answered} answered, {len(self.failures)} failed, slowest {self.slowest_s:.2f} s"
        )
        first = f"; first: {self.failures[0]}" if self.failures else ""
        report.check(claim, not self.failures and self.answered > 0, detail + first)


def check_confinement(stack: Stack, report: Report) -> None:
    """Check what a container may do and what it can see."""
    uids = {service: stack.shell(service, "id -u") for service in MEMBERS}
    report.check("members run as a user of their own", "0" not in uids.values(), uids["router"])
    probe = (
        "awk '$2 == \"/\" { print substr($4, 1, 3) }' /proc/mounts; "
        "grep -E 'CapEff|NoNewPrivs' /proc/1/status"
    )
    wanted = {"ro,", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"}
    odd = [s for s in MEMBERS if set(stack.shell(s, probe).splitlines()) != wanted]
    report.check(
        "root file systems are read-only, no capabilities, no new ones", not odd, odd or ""
    )
    look = "find / -xdev -name owner.key 2>/dev/null; find /data /token -name owner.key; true"
    found = {s: stack.shell(s, look) for s in MEMBERS}
    mounts = {m["Destination"] for s in MEMBERS for m in stack.inspect(s)["Mounts"]}
    is_apart = not any(found.values()) and mounts == {"/data", "/token", "/models"}
    report.check("the owner's key is in no member's container", is_apart, sorted(mounts))
    modes = stack.shell("node-1", "stat -c '%a %u' /token /token/token /data /data/identity.key")
    expected = [f"{mode} {uids['node-1']}" for mode in (700, 600, 700, 600)]
    report.check("token and identity are for that user alone", modes.splitlines() == expected)
    secrets = stack.shell("node-1", "cat /token/token")
    seen = json.dumps([stack.inspect(s) for s in MEMBERS]) + stack.compose("logs", "--no-color")
    report.check("the token is in no log and no `docker inspect`", secrets not in seen)


def check_kill(stack: Stack, report: Report, digits: Digits, truth: np.ndarray) -> None:
    """Kill a node that serves while requests flow; bring it back."""
    peers = {stack.status(service)["peer_id"]: service for service in NODES}
    traffic = Traffic(digits, truth)
    with traffic.flowing():
        time.sleep(STREAM_BEFORE_S)
        served = {peer: stack.answered(peer) for peer in peers}
        victim = max(served, key=lambda peer: served[peer])
        stack.run("kill", stack.container(peers[victim]))
        time.sleep(STREAM_AFTER_S)
    report.check(
        "every node had answered before one was killed", min(served.values()) > 0, served.values()
    )
    traffic.check(report, f"no request failed while {peers[victim]} was killed")
    left = stack.usable()
    report.check("the killed node gets no more requests", victim not in left, f"{len(left)} usable")
    digits.check(report, "by two nodes")
    stack.run("start", stack.container(peers[victim]))
    took_s = wait_for("the killed node is usable again", lambda: victim in stack.usable())
    check_serves_again(stack, report, digits, victim, f"after `docker start`, {took_s:.1f} s")
    wait_for("the killed node is healthy", lambda: stack.is_healthy(peers[victim]))
    is_same = stack.status(peers[victim])["peer_id"] == victim
    report.check("it is healthy and kept its peer id", is_same, victim)


def check_serves_again(stack: Stack, report: Report, digits: Digits, peer: str, when: str) -> None:
    """Check that requests reach `peer` without being told to."""
    before = stack.answered(peer)

    def is_served() -> bool:
        for row in range(10):
            digits.classify(row, 1)
        return stack.answered(peer) > before

    wait_for(f"{peer} answers", is_served)
    report.check(f"the node serves again {when}", held=True)


def check_restart_policy(stack: Stack, report: Report, digits: Digits, truth: np.ndarray) -> None:
    """Let a node end by itself while requests flow: it drains, and the engine starts it again."""
    service = NODES[0]
    peer, before = stack.status(service)["peer_id"], stack.inspect(service)
    traffic = Traffic(digits, truth)
    with traffic.flowing():
        stack.shell(service, "kill -TERM 1")
        wait_for(
            f"{service} was started again",
            lambda: stack.inspect(service)["RestartCount"] > before["RestartCount"],
        )
        took_s = wait_for(f"{service} is usable again", lambda: peer in stack.usable())
    traffic.check(report, "no request failed while a node drained, ended and was restarted")
    check_serves_again(stack, report, digits, peer, f"after its restart, {took_s:.1f} s")


def check_second_up(stack: Stack, report: Report, digits: Digits) -> None:
    """Bring the project up once more, as it is and with new containers: it stays the same network."""
    for how, options in (("a second `up`", ()), ("`up --force-recreate`", ("--force-recreate",))):
        before = {service: stack.status(service) for service in MEMBERS}
        stack.compose("up", "--detach", "--wait", *options, limit_s=2 * COMMAND_LIMIT_S)
        after = {service: stack.status(service) for service in MEMBERS}
        for key in ("network_id", "peer_id"):
            kept = all(before[service][key] == after[service][key] for service in MEMBERS)
            report.check(f"{how} keeps every {key}", kept)
        made = networks_made(stack)
        report.check(f"{how} makes no other network", made == {after["router"]["network_id"]}, made)
    peers = {stack.status(service)["peer_id"] for service in NODES}
    took_s = wait_for("three nodes are usable in new containers", lambda: stack.usable() == peers)
    digits.check(report, f"by new containers, {took_s:.1f} s")


def networks_made(stack: Stack) -> set[str]:
    """Return the networks that the one-shot service named in all its runs."""
    return set(
        re.findall(r"network (cm-[0-9a-f]+)", stack.compose("logs", "--no-color", "network"))
    )


def check_all(stack: Stack, report: Report) -> None:
    """Do all of it, in order."""
    begun_s = time.monotonic()
    stack.compose("build", limit_s=BUILD_LIMIT_S)
    report.check("the images build", held=True, detail=f"{time.monotonic() - begun_s:.0f} s")
    for name in ("router", "node"):
        image = json.loads(stack.run("image", "inspect", f"capamesh-{name}:{TAG}"))[0]
        user, size_mb = image["Config"]["User"], image["Size"] / 1e6
        is_user = user.split(":")[0] not in {"", "0", "root"}
        report.check(f"the {name} image's user is not root", is_user, f"{user}, {size_mb:.0f} MB")
    begun_s = time.monotonic()
    stack.compose("up", "--detach", "--wait", limit_s=2 * COMMAND_LIMIT_S)
    up_s = time.monotonic() - begun_s
    report.check("all members become healthy", all(map(stack.is_healthy, MEMBERS)), f"{up_s:.0f} s")
    peers = {stack.status(service)["peer_id"] for service in NODES}
    took_s = wait_for("three nodes have links that are up", lambda: stack.usable() == peers)
    report.check("the router has links to three nodes", len(peers) == 3, f"{took_s:.1f} s later")
    digits = Digits(stack)
    truth = digits.check(report, "by three nodes")
    check_confinement(stack, report)
    check_kill(stack, report, digits, truth)
    check_restart_policy(stack, report, digits, truth)
    check_second_up(stack, report, digits)
    stack.compose("stop")
    codes = {service: stack.inspect(service)["State"]["ExitCode"] for service in MEMBERS}
    report.check("all members end by themselves when stopped", not any(codes.values()), codes)


def find_engine() -> str:
    """Return the `docker` command; raise `Failed` when there is no engine or no compose."""
    docker = shutil.which("docker")
    if docker is None:
        raise Failed(
            "there is no `docker` command: install a Docker engine with the compose plugin"
        )
    stack = Stack(docker, 0)
    try:
        stack.run("version", "--format", "{{.Server.Version}}", limit_s=20)
        stack.run("compose", "version", limit_s=20)
    except Failed as exc:
        raise Failed(f"no usable Docker engine with compose: {exc}") from exc
    return docker


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


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


def stop(*_: object) -> None:
    """End the test as a failure does, so that it cleans up."""
    raise Failed("told to stop")


def main() -> int:
    """Run the test and print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        stack = Stack(find_engine(), free_port())
    except Failed as exc:
        print(f"compose-test: {exc}", file=sys.stderr)
        return 2
    report = Report()
    try:
        clean_up(stack)
        check_all(stack, report)
    except (Failed, OSError, KeyError, ValueError) as exc:
        report.check("the test got to its end", held=False, detail=f"{type(exc).__name__}: {exc}")
    finally:
        if not report.all_held:
            show_logs(stack)
        left = clean_up(stack)
        report.check("nothing of it is left", not left, left)
        print(f"\n{report.table()}")
    return 0 if report.all_held else 1


if __name__ == "__main__":
    sys.exit(main())
