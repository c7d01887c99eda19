"""Programs of others, installed for a benchmark into folders of their own. IO: pip, apt, processes.

Nothing is installed into the system: what pip brings goes into a virtual environment, what Debian has is unpacked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class NotInstalled(Exception):
    """The program cannot be had on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be started."""

    path: str
    variables: Mapping[str, str] = field(default_factory=dict)
    """The environment variables that it needs."""


def python_of(requirements: Path, home: Path) -> Path:
    """Return the interpreter of the environment `home`, which is made where it is missing or outdated.

    NotInstalled: pip cannot install the requirements.
    """
    stamp, python = home / "requirements.txt", home / "bin" / "python"
    text = requirements.read_text()
    if not stamp.exists() or stamp.read_text() != text:
        _run((sys.executable, "-m", "venv", "--clear", str(home)))
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # pins with hashes name all packages; an extra of one would have pip look at newer ones
        if "--hash=" in text:
            install.append("--no-deps")
        _run((str(python), *install, "-r", str(requirements)))
        stamp.write_text(text)
    return python


def versions_of(python: Path) -> dict[str, str]:
    """Return what is installed in an environment, by package."""
    command = (str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check")
    listed = json.loads(_run(command))
    return {entry["name"]: entry["version"] for entry in listed}


def debian_program(name: str, home: Path) -> Program:
    """Return the program of Debian's package `name`: the installed one, or one unpacked into `home` with what it needs.

    NotInstalled: neither is there.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    if (found := shutil.which(name, path=path)) is not None:
        return Program(found)
    unpacked = home / "usr" / "sbin" / name
    if not unpacked.exists():
        _unpack(name, home)
    folders = [str(folder) for folder in (home / "usr" / "lib").glob("*-linux-gnu")]
    return Program(str(unpacked), {"LD_LIBRARY_PATH": ":".join(folders)})


def _unpack(name: str, home: Path) -> None:
    """Unpack a package of Debian and those that it needs and this machine lacks."""
    if shutil.which("apt-get") is None:
        raise NotInstalled(f"there is no {name} here, and no apt-get to bring it")
    planned = _run(("apt-get", "install", "--simulate", "--no-install-recommends", name))
    packages = [line.split()[1] for line in planned.splitlines() if line.startswith("Inst ")]
    archives = home / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    _run(("apt-get", "download", *packages), folder=archives)
    for archive in archives.glob("*.deb"):
        _run(("dpkg-deb", "--extract", str(archive), str(home)))


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise NotInstalled(f"{Path(command[0]).name}: {exc.strerror}") from exc
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        said = " ".join((Path(command[0]).name, *command[1:4]))
        raise NotInstalled(f"{said} ... failed: {' '.join(last)[:300]}")
    return done.stdout
