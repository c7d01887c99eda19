"""Closes a process in that reads what strangers wrote with native code: a node's worker, a router's reader of inputs. IO: system calls.

`privileges` gives up what lies beyond files, `landlock` bounds the files and ports that may be opened, `seccomp` the system calls.
Each holds by itself where the kernel lacks another.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from capamesh.protocol.sandbox.landlock import Allowed, restrict, version
from capamesh.protocol.sandbox.privileges import give_up
from capamesh.protocol.sandbox.seccomp import filter_calls

__all__ = ["Allowed", "apart_from", "close", "libraries", "paths", "version"]

SYSTEM_FILES: Final = (
    "/proc",  # of other processes it shows what everybody may see: Landlock keeps from the rest
    "/sys",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/resolv.conf",
    "/etc/passwd",  # of names; keys and passwords are elsewhere
    "/etc/OpenCL",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
)
_SYSTEM_LIBRARIES: Final = ("/usr", "/lib", "/lib64", "/lib32", "/nix/store", "/opt")


def close(allowed: Allowed, *, socket_families: Iterable[int]) -> tuple[list[str], list[str]]:
    """Close this process in, for good; return what holds now and what does not, for people.

    What it needs must be open, and it should be its only thread. `socket_families` are those of the sockets that it may make.
    """
    threads = _threads()
    held = list(give_up())
    missing: list[str] = []
    problem = restrict(allowed)
    if problem:
        missing.append(f"landlock: {problem}")
    else:
        held.insert(0, f"landlock {version()}")
        if threads > 1:
            missing.append(f"landlock: {threads - 1} threads were there before")
    problem = filter_calls(socket_families)
    if problem:
        missing.append(f"seccomp: {problem}")
    else:
        held.append("seccomp")
    return held, missing


def libraries() -> tuple[Path, ...]:
    """Return where the system's libraries, Python and this code are."""
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(path for path in sys.path if path)}
    # the dynamic linker looks there first
    preferred = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    return paths(*_SYSTEM_LIBRARIES, *sorted(python), *preferred)


def paths(*patterns: str) -> tuple[Path, ...]:
    """Return the paths that there are of some absolute ones, in which `*` may stand."""
    return tuple(Path(found) for pattern in patterns for found in glob.glob(pattern))  # noqa: PTH207 - absolute ones


def apart_from(private: Path, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the paths; in the place of one that the private folder is in, what else is there."""
    found: list[Path] = []
    for path in paths:
        if not private.is_relative_to(path.resolve()):
            found.append(path)
        elif path.resolve() != private:
            with suppress(OSError):
                found += apart_from(private, tuple(path.iterdir()))
    return tuple(found)


def _threads() -> int:
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return 1
