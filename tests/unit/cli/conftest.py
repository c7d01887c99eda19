"""What tests of the command line share: commands that are run, a router that answers them, an owner's folder."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from capamesh.cli.__main__ import run
from capamesh.client import Client
from capamesh.client.answers import Answer

if TYPE_CHECKING:
    from pathlib import Path

    from capamesh.client.asks import Ask


@dataclass(frozen=True)
class Said:
    """What a command has printed."""

    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines on standard output without their padding."""
        return [" ".join(line.split()) for line in self.out.splitlines()]


class Cli:
    """Runs commands in this process, without the variables of its environment and the networks of its user."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, line: str, *words: object, status: int = 0) -> Said:
        """Run the words of `line` and those behind it as they are, which ends with `status`."""
        self._capsys.readouterr()
        ended = run([*shlex.split(line), *map(str, words)])
        said = Said(*self._capsys.readouterr())
        assert ended == status, said
        return said


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    for name in [name for name in os.environ if name.startswith("CAPAMESH_")]:
        monkeypatch.delenv(name)
    return Cli(capsys)


class Router:
    """A router that answers each path as `bodies` say, all others with `body`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asks: list[Ask[Any]] = []
        self.body: object = {}
        self.bodies: dict[str, object] = {}

    def exchange(self, ask: Ask[Any]) -> object:
        self.asks.append(ask)
        body = self.bodies.get(ask.path, self.body)
        answer = body if isinstance(body, Answer) else Answer(200, json.dumps(body).encode())
        return ask.read(answer, "http://router")


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Router:
    made = Router()
    monkeypatch.setattr(Client, "_exchange", lambda _, ask: made.exchange(ask))
    return made


class Owner:
    """An owner's folder, and commands on it."""

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.folder = folder
        self._cli = cli
        self.run("create", "home")

    def run(self, *words: object, status: int = 0) -> Said:
        """Run `capamesh network`."""
        return self._cli("network", *words, "--dir", self.folder, status=status)

    def token(self, *words: object) -> Any:
        return self.run("token", "--json", *words).json

    def show(self, *words: object) -> Any:
        return self.run("show", "--json", *words).json


@pytest.fixture
def owner(tmp_path: Path, cli: Cli) -> Owner:
    return Owner(tmp_path / "owner", cli)
