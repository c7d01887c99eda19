"""The checks of a machine's software and of what it has left: Python, packages, ports, limits, locale, disk, memory. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from capamesh.cli.checkup.findings import Finding, fail, ok, warn
from capamesh.cli.printing import amount

OLDEST: Final = (3, 11)
DEFAULT_PORT: Final = 8000
"""The port on which `capamesh router run` takes HTTP by default."""
NEWEST: Final = (3, 13)
"""The newest Python that is tried; docs/how-to/install.md has the table."""
RUNTIMES: Final = ("onnxruntime-gpu", "onnxruntime")
"""The distributions that put their files into one folder, `onnxruntime`."""
LOCALE: Final = "en_US.UTF-8"
"""The locale that ONNX Runtime asks for where a model of texts names none of its own."""
FEW_DESCRIPTORS: Final = 1024
"""The limit below which a member tells its owner, too."""
LITTLE_DISK_BYTES: Final = 1 << 30
"""A guess: room for a network's state and for the compiled engines of a model or two."""
NO_DISK_BYTES: Final = 16 << 20
"""A guess: below it a member's state is not sure to be kept."""
LITTLE_MEMORY_BYTES: Final = 1 << 30
"""A guess: a node of the sample models takes 370 MiB (measured), and needs room to run them."""
NO_MEMORY_BYTES: Final = 384 << 20
"""The memory of an idle node of the sample models (measured)."""


@dataclass(frozen=True, slots=True)
class PortUse:
    """One TCP port of this machine."""

    port: int
    is_free: bool
    user: str = ""
    """The process that has it, as `NAME (pid N)`; empty where that cannot be seen."""
    problem: str = ""
    """The reason why it cannot be listened on, where that is not another process; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that a member's data will be in."""

    path: str
    problem: str
    """The reason why nothing can be written there; empty where it can."""
    free_bytes: int


def check_python(version: tuple[int, int, int]) -> Finding:
    """Return whether this Python is one that Capamesh is tried with."""
    name, text = "python", ".".join(map(str, version))
    if version[:2] < OLDEST:
        return fail(
            name, f"{text}; 3.11 is the oldest that works", "uv tool install --python 3.13 WHEEL"
        )
    if version[:2] > NEWEST:
        return warn(name, f"{text}; nobody has tried one newer than 3.13")
    return ok(name, text)


def check_packages(wanted: tuple[str, ...], installed: Mapping[str, str]) -> Finding:
    """Return which packages are missing or of another version than `wanted`, requirements that hold on this machine."""
    name = "packages"
    wrong = list(_unmet(wanted, installed))
    if not wrong:
        return ok(name, f"all {len(wanted)} in their versions")
    seen = "; ".join(
        f"{requirement} is wanted, {installed.get(requirement.name, 'none')} is there"
        for requirement in wrong
    )
    line = " ".join(f"'{requirement}'" for requirement in wrong)
    return fail(name, seen, f"pip install {line}")


def _unmet(wanted: tuple[str, ...], installed: Mapping[str, str]) -> Iterator[Requirement]:
    for text in wanted:
        requirement = Requirement(text)
        requirement.marker = None
        there = installed.get(requirement.name)
        if there is None or not _meets(requirement, there):
            yield requirement


def _meets(requirement: Requirement, there: str) -> bool:
    try:
        return requirement.specifier.contains(Version(there), prereleases=True)
    except InvalidVersion:
        return False


def check_runtime(installed: Mapping[str, str], module_version: str, wanted: str) -> Finding:
    """Return whether one ONNX Runtime is installed, and the one that is read in.

    `wanted` is the distribution that this platform takes; `module_version` what its module says of itself, empty where it
    cannot be read in.
    """
    name = "onnx runtime"
    there = [each for each in RUNTIMES if each in installed]
    version = installed.get(wanted, "")
    again = f"pip install --force-reinstall --no-deps {wanted}=={version or module_version}"
    if len(there) > 1:
        return fail(
            name,
            "onnxruntime-gpu and onnxruntime are both installed, and overwrite each other's files",
            f"pip uninstall -y {' '.join(there)} && {again}",
        )
    if not there:
        return fail(name, "none is installed", f"pip install {wanted}")
    if not module_version:
        return fail(name, f"{there[0]} {installed[there[0]]} cannot be read in", again)
    return ok(name, f"{there[0]} {module_version}")


def check_port(use: PortUse) -> Finding:
    """Return whether a port can be listened on."""
    name = f"port {use.port}"
    if use.is_free:
        return ok(name, "free")
    if use.problem:
        return fail(name, use.problem, f"capamesh router run --http 127.0.0.1:{DEFAULT_PORT} ...")
    if use.user.startswith("capamesh"):
        return ok(name, f"a member of this machine has it: {use.user}")
    by = f"in use by {use.user}" if use.user else "in use; by whom only root can see"
    return warn(name, by, f"capamesh router run --http 127.0.0.1:{_next(use.port)} ...")


def _next(port: int) -> int:
    return port + 1 if port < 65_535 else port - 1


def check_descriptors(limit: int) -> Finding:
    """Return whether a process may open enough files and sockets; members raise their limit to this, the hard one."""
    name = "open files"
    if limit < FEW_DESCRIPTORS:
        return warn(name, f"at most {limit:,}", "ulimit -Hn 65536")
    return ok(name, f"at most {limit:,}")


def check_locale(is_there: bool) -> Finding:
    """Return whether models of texts find their locale."""
    name = "locale"
    if is_there:
        return ok(name, LOCALE)
    return warn(
        name,
        f"no {LOCALE}, which many models of texts need (those of skl2onnx)",
        f"sudo apt-get install -y locales && sudo localedef -i en_US -f UTF-8 {LOCALE}",
    )


def check_folder(folder: Folder) -> Finding:
    """Return whether a member can keep its data in the folder."""
    name = "data folder"
    if folder.problem:
        return fail(
            name,
            f"{folder.path}: {folder.problem}",
            f"sudo chown -R $(id -u) {shlex.quote(folder.path)}",
        )
    seen = f"{folder.path}: {amount(folder.free_bytes)} free"
    if folder.free_bytes < NO_DISK_BYTES:
        return fail(name, seen, f"df -h {shlex.quote(folder.path)}")
    if folder.free_bytes < LITTLE_DISK_BYTES:
        return warn(name, seen, f"df -h {shlex.quote(folder.path)}")
    return ok(name, seen)


def check_memory(free_bytes: int, total_bytes: int) -> Finding:
    """Return whether a node has memory for a model."""
    name, seen = "memory", f"{amount(free_bytes)} of {amount(total_bytes)} free"
    if free_bytes < NO_MEMORY_BYTES:
        return fail(name, f"{seen}; an idle node takes {amount(NO_MEMORY_BYTES)}", "free -h")
    if free_bytes < LITTLE_MEMORY_BYTES:
        return warn(name, seen, "free -h")
    return ok(name, seen)
