"""Reads the facts of a machine that `machine` judges. IO: files, sockets, the kernel."""

from __future__ import annotations

import errno
import locale
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from capamesh.cli.checkup.machine import LOCALE, RUNTIMES, Folder, PortUse
from capamesh.protocol.descriptors import MAX_LIMIT

_LISTENING = "0A"
"""TCP_LISTEN of include/net/tcp_states.h."""


def python_version() -> tuple[int, int, int]:
    """Return the version of the Python that runs this."""
    return sys.version_info[:3]


def wanted_packages(distribution: str = "capamesh") -> tuple[str, ...]:
    """Return what the installed wheel requires on this platform, without its extras."""
    found = map(Requirement, requires(distribution) or ())
    return tuple(
        f"{each.name}{each.specifier}"
        for each in found
        if each.marker is None or each.marker.evaluate({"extra": ""})
    )


def installed_packages(wanted: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those of `wanted`, and of each ONNX Runtime, that are installed."""
    found: dict[str, str] = {}
    for name in (*(Requirement(text).name for text in wanted), *RUNTIMES):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def port_use(port: int, root: Path = Path("/")) -> PortUse:
    """Return whether `port` can be listened on at 127.0.0.1, and who has it where it cannot."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return PortUse(port, is_free=False, user=listener_of(port, root))
            return PortUse(port, is_free=False, problem=exc.strerror or str(exc))
    return PortUse(port, is_free=True)


def listener_of(port: int, root: Path = Path("/")) -> str:
    """Return the process that listens on `port`, as `NAME (pid N)`; empty where this user may not see it, or without /proc."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port, root)}
    for process in (root / "proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in sockets:
                    return f"{_name_of(process)} (pid {process.name})"
    return ""


def _listening_inodes(port: int, root: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (root / "proc/net" / table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _name_of(process: Path) -> str:
    words = (process / "cmdline").read_bytes().split(b"\0")
    if any(b"capamesh" in word for word in words[:4]):
        return "capamesh"
    return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()


def descriptor_limit() -> int:
    """Return how many descriptors a member of this user may have open: it raises its limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_LIMIT if hard == resource.RLIM_INFINITY else min(hard, MAX_LIMIT)


def has_locale(name: str = LOCALE) -> bool:
    """Return whether the system has a locale; this process's own is the same afterwards."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, name)
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    return True


def folder_facts(path: Path) -> Folder:
    """Return whether a member could keep data in `path`, which need not exist yet; nothing is written."""
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return Folder(str(path), f"{there} is no folder", 0)
    if not os.access(there, os.W_OK | os.X_OK):
        return Folder(str(path), f"this user may not write into {there}", 0)
    filesystem = os.statvfs(there)
    if filesystem.f_flag & os.ST_RDONLY:
        return Folder(str(path), f"{there} is on a file system that is read-only", 0)
    return Folder(str(path), "", filesystem.f_bavail * filesystem.f_frsize)
