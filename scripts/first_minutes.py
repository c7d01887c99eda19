"""Times the first minutes in clean containers: install, `up`, the first answer; then a second machine joins by its token.

`make first-minutes` makes the wheels first. It needs a Docker engine, and uses the image BASE_IMAGE, of which only Python is
used: a compiler in it is taken away. `--packages DIR` takes all packages from a folder that `pip download` filled, so that
the figures do not tell of the way to an index. `--ray` has Ray Serve answer as well, afterwards, on a third. Exit code 0: within the limits; 1: not; 2: no Docker engine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMAGE = os.environ.get("BASE_IMAGE", "python:3.13-slim-trixie")
NAME = "capamesh-first-minutes"
FIRST_ANSWER_S = 90.0
JOINED_S = 5.0
"""The limits, which are the project's aims."""
COMMAND_LIMIT_S = 900.0
POLL_S = 0.05
INSTALL = "pip install --quiet --root-user-action ignore /dist/*.whl"
ASK = "capamesh infer digits --input X=@$HOME/.local/share/capamesh/own/examples/digits-0.npy"
UP_IS_READY = "capamesh infer digits"
"""The line that says how to ask."""
RAY = "/ray/bin/"
"""The environment of Ray: the image's own Python has a package that `ray[serve]` cannot replace."""
RAY_INSTALL = f'{RAY}pip install --quiet "ray[serve]"'
RAY_APPLICATION = """
from ray import serve
from starlette.requests import Request


@serve.deployment
class Hello:
    async def __call__(self, request: Request) -> str:
        return "hello"


app = Hello.bind()
"""
RAY_START = f"cd /ray && {RAY}serve run app:app"
RAY_ASK = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8000/", timeout=5).read().decode())
"""
RAY_LIMIT_S = 180.0
"""The longest that its start may take (guess: it takes 10 s on two quiet cores)."""
NO_COMPILER = (
    "rm -f /usr/bin/gcc* /usr/bin/cc /usr/bin/c++* /usr/bin/g++* /usr/bin/*-linux-gnu-gcc*"
)
USABLE_NODES = """
import json, urllib.request
nodes = json.load(urllib.request.urlopen("http://127.0.0.1:8000/v1/nodes"))["nodes"]
print(sum(any(link["is_usable"] for link in node["links"]) for node in nodes))
"""


class Failed(Exception):
    """A command of a container failed."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A container that stands for a machine."""

    docker: str
    name: str

    def run(self, command: str) -> str:
        """Run a line of shell in it and return what it printed; raise `Failed` when it failed."""
        done = subprocess.run(  # noqa: S603 - the lines are this script's own
            [self.docker, "exec", self.name, "bash", "-c", command],
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise Failed(f"`{command[:60]}` on {self.name}: {done.stderr[-2000:]}")
        return done.stdout

    def start(self, command: str) -> Started:
        """Start a line of shell that goes on running."""
        return Started(
            subprocess.Popen(  # noqa: S603 - the lines are this script's own
                [self.docker, "exec", self.name, "bash", "-c", command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )

    def timed(self, command: str) -> float:
        """Run a line and return the seconds that it took."""
        started_s = time.monotonic()
        self.run(command)
        return time.monotonic() - started_s

    def end(self) -> None:
        """End all that runs on it."""
        subprocess.run([self.docker, "kill", self.name], capture_output=True, check=True)  # noqa: S603

    def write(self, path: str, text: str) -> None:
        """Write a file on it."""
        self.run(f"cat >{path} <<'END'\n{text}\nEND")

    def usable_nodes(self) -> int:
        """Return the number of nodes that the router on this machine can send to."""
        return int(self.run(f"python3 -c '{USABLE_NODES}'"))


class Started:
    """A command that runs on, whose lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Begin to read."""
        self.process = process
        self.lines: list[str] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, text: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Return the first line with `text`; raise `Failed` when the command ends before, or the time is over."""
        until_s = time.monotonic() + limit_s
        with self._changed:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                if self.process.poll() is not None or time.monotonic() > until_s:
                    raise Failed("".join(self.lines)[-2000:])
                self._changed.wait(1.0)

    def _read(self) -> None:
        for line in self.process.stdout or ():
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()


@contextmanager
def machines(docker: str, packages: Path | None, count: int) -> Iterator[list[Machine]]:
    """Give clean machines of one network, and remove them at the end."""
    names = [f"{NAME}-{number + 1}" for number in range(count)]
    offline = ("-e", "PIP_NO_INDEX=1", "-e", "PIP_FIND_LINKS=/packages")
    given = ("-v", f"{packages.absolute()}:/packages:ro", *offline) if packages else ()
    mounts = ("-v", f"{ROOT / 'dist' / 'pure'}:/dist:ro", *given)

    def call(*arguments: str, check: bool = True) -> None:
        subprocess.run([docker, *arguments], capture_output=True, check=check)  # noqa: S603

    call("rm", "--force", *names, check=False)
    call("network", "rm", NAME, check=False)
    call("network", "create", NAME)
    try:
        for name in names:
            options = ("--name", name, "--network", NAME, "--shm-size", "1g")
            call("run", "-d", *options, *mounts, IMAGE, "sleep", "7200")
            call("exec", name, "sh", "-c", NO_COMPILER)
        yield [Machine(docker, name) for name in names]
    finally:
        call("rm", "--force", *names, check=False)
        call("network", "rm", NAME, check=False)


def measure(first: Machine, second: Machine) -> dict[str, float]:
    """Return the seconds of each step."""
    took = {"install": first.timed(INSTALL)}
    began_s = time.monotonic()
    up = first.start("capamesh up")
    up.wait_for(UP_IS_READY)
    took["up"] = time.monotonic() - began_s
    took["ask"] = first.timed(ASK)
    took["first answer"] = took["install"] + took["up"] + took["ask"]
    took["install on the second"] = second.timed(INSTALL)
    up.wait_for("capamesh join")
    line = f"capamesh join {first.run('capamesh token').strip()}"
    before = first.usable_nodes()
    began_s = time.monotonic()
    joined = second.start(line)
    while first.usable_nodes() <= before:
        if joined.process.poll() is not None or time.monotonic() - began_s > COMMAND_LIMIT_S:
            raise Failed("".join(joined.lines)[-2000:])
        time.sleep(POLL_S)
    took["joined"] = time.monotonic() - began_s
    return took


def measure_ray(machine: Machine) -> dict[str, float]:
    """Return the seconds until the program of Ray Serve's first page answers."""
    machine.run("python3 -m venv /ray")
    took = {"Ray: install": machine.timed(RAY_INSTALL)}
    machine.write("/ray/app.py", RAY_APPLICATION)
    began_s = time.monotonic()
    serving = machine.start(RAY_START)
    while True:
        try:
            machine.run(f"python3 -c '{RAY_ASK}'")
            break
        except Failed:
            over_s = time.monotonic() - began_s
            if serving.process.poll() is not None or over_s > RAY_LIMIT_S:
                raise Failed("".join(serving.lines)[-2000:]) from None
            time.sleep(POLL_S)
    took["Ray: start and ask"] = time.monotonic() - began_s
    return took


def report(took: dict[str, float]) -> list[dict[str, Any]]:
    """Return a row a step: what it is, its seconds, its limit and whether it holds."""
    limits = {"first answer": FIRST_ANSWER_S, "joined": JOINED_S}
    return [
        {
            "step": step,
            "seconds": round(seconds, 1),
            "limit": limits.get(step),
            "holds": seconds <= limits.get(step, seconds),
        }
        for step, seconds in took.items()
    ]


def main() -> int:
    """Measure once and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packages", type=Path, help="a folder that `pip download` filled")
    parser.add_argument("--ray", action="store_true", help="time Ray Serve's first answer, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:  # noqa: S603
        print("there is no Docker engine here", file=sys.stderr)
        return 2
    if not list((ROOT / "dist" / "pure").glob("*.whl")):
        print("there is no wheel in dist/pure: make wheels", file=sys.stderr)
        return 1
    try:
        with machines(docker, arguments.packages, 3 if arguments.ray else 2) as given:
            took = measure(*given[:2])
            for machine in given[:2]:
                machine.end()
            rows = report(took | (measure_ray(given[2]) if arguments.ray else {}))
    except (Failed, subprocess.SubprocessError) as exc:
        print(f"first-minutes: {exc}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            limit = "" if row["limit"] is None else f"  (limit {row['limit']:.0f} s)"
            print(f"{row['step']:<24}{row['seconds']:>8.1f} s{limit}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
