"""The commands of the README and of pages beside it work as they are written, in order, in a new home, against real processes."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from page_steps import ROOT, environment, steps

from capamesh.cli.home import OWN_NETWORK, Settings, keep
from capamesh.client import Client
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.network import JoinToken

PORTS = ("router_mesh", "router_links", "node_mesh", "node_links")
LIMIT_S = 200.0
"""Far more than a start takes (5 s on a quiet machine), for machines that do much else."""
ROUTER = "http://127.0.0.1:8000"
"""The address that the documents have."""
RUN = [
    "README.md",
    "docs/how-to/look-at-the-page.md",
    "docs/how-to/run-a-data-set.md",
    "docs/how-to/see-why-a-node-was-chosen.md",
    "docs/how-to/use-tasks.md",
]
STARTED = {"capamesh up": 1, "capamesh join TOKEN": 2}
"""The commands that go on running, and the nodes that can be used then."""
NOT_RUN = (
    "capamesh jobs pause",  # of a job that runs still; tests/integration/cli/test_jobs.py
    "capamesh jobs resume",
    "capamesh jobs cancel",
    "make ",  # in a clone, for minutes
    ".venv/bin/",
    "pip",  # a package index; `make first-minutes` installs
    "uv ",
    "capamesh sim compare small-5",  # nine simulations, which take a minute
    "python scripts/build_models.py",  # of packages of an index, as all that is asked of its models
    "capamesh up --models build/texts",
    "capamesh infer sentiment",
    "capamesh infer minilm",
    "curl http://127.0.0.1:8000/v1/embeddings",
    'curl -N "http://127.0.0.1:8000/v1/page/changes',  # it does not end
)
"""The beginnings of commands of those pages that are not run."""
EXIT = {"capamesh explain digits --region eu --max-price 2": 3}
"""The exit status of a command that tells of something by it: here, that no node is in that region."""


class Reader:
    """A person with a new home who types what the pages say, on two machines that are two homes here."""

    def __init__(self, folder: Path) -> None:
        """Make the homes, and the folders of a clone that commands may name."""
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "build").mkdir()
        (self.home / "build/cases").symlink_to(ROOT / "cli/src/capamesh/cli/samples/cases")
        (self.home / "simulation").symlink_to(ROOT / "simulation")
        self.router = f"127.0.0.1:{free_port('127.0.0.1')}"
        self.token = ""
        self.running: list[subprocess.Popen[bytes]] = []
        self.environment = environment(folder, self.home, f"http://{self.router}")

    def follow(self, language: str, step: str) -> None:
        """Do one step."""
        step = step.strip() if language == "sh" else step
        if step.startswith(NOT_RUN) and step not in STARTED:
            return
        if step in STARTED:
            self._start(step)
            return
        text = step.replace("127.0.0.1:8000", self.router)
        program = [sys.executable, "-c", text] if language == "python" else ["bash", "-euc", text]
        done = subprocess.run(
            program,
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert (step, done.returncode) == (step, EXIT.get(step, 0)), done.stderr + done.stdout
        if step.startswith("curl "):
            assert not done.stdout.startswith('{"error"'), done.stdout

    def _start(self, command: str) -> None:
        words = command.replace("TOKEN", self.token).split()
        apart = ["--advertise", "127.0.0.1"]
        if words[1] == "up":
            apart += ["--http", self.router]
            folder = self.home / ".local/share/capamesh" / OWN_NETWORK
        else:
            other = self.home / "other machine"
            apart += ["--home", str(other)]
            folder = other / JoinToken.decode(self.token, dt.datetime.now(dt.UTC)).network_id
        # the ports of a start before, so that tests beside this one take no well-known port at the same moment
        keep(folder, Settings(ports={name: free_port("127.0.0.1") for name in PORTS}))
        output = self.home / f"{words[1]}.txt"
        with output.open("wb") as file:
            self.running.append(
                subprocess.Popen(
                    [*words, *apart], cwd=self.home, env=self.environment, stdout=file, stderr=file
                )
            )
        end_s = time.monotonic() + LIMIT_S
        with Client(f"http://{self.router}") as client:
            while not self._is_up(client, STARTED[command]):
                assert self.running[-1].poll() is None, output.read_text()
                assert time.monotonic() < end_s, output.read_text()
                time.sleep(0.1)
        if words[1] == "up":
            # a model that takes its time to load has its examples printed later
            while "examples/digits-0.npy" not in output.read_text():
                assert time.monotonic() < end_s, output.read_text()
                time.sleep(0.1)
            self.token = subprocess.check_output(
                [sys.executable, "-m", "capamesh.cli", "token"], env=self.environment, text=True
            ).strip()

    def _is_up(self, client: Client, nodes: int) -> bool:
        try:
            found = client.nodes()
        except CapameshError:  # it does not listen yet
            return False
        return sum(any(link["is_usable"] for link in node["links"]) for node in found) >= nodes

    def leave(self) -> None:
        """End what runs, the last first."""
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT_S)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    person = Reader(tmp_path)
    try:
        yield person
    finally:
        person.leave()


def test_pages_work_as_they_are_written(reader: Reader) -> None:
    for page in RUN:
        for language, step in steps(page):
            reader.follow(language, step)
    assert reader.token
