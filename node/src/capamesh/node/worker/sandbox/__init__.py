"""The sandbox that keeps a worker, once it has started, to what it needs. IO: system calls.

A worker reads models and requests of strangers with native code. An attacker who takes hold of it there shall not read the
member's key file, start a program or reach into another process. Where the kernel lacks a part, the others hold.
"""

from __future__ import annotations

import glob
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from capamesh.node.worker.sandbox.landlock import Allowed, restrict, version
from capamesh.node.worker.sandbox.privileges import give_up
from capamesh.node.worker.sandbox.seccomp import filter_calls

_SYSTEM_LIBRARIES: Final = ("/usr", "/lib", "/lib64", "/lib32", "/nix/store", "/opt")
_SYSTEM_FILES: Final = (
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
_GPU_DEVICES: Final = ("/dev/nvidia*", "/dev/nvidia-caps", "/dev/dri", "/dev/dxg", "/dev/shm")  # noqa: S108 - CUDA's
_GPU_FOLDERS: Final = ("/tmp/nvidia-mps", "/dev/shm")  # noqa: S108 - CUDA's own names
UVM: Final = Path("/dev/nvidia-uvm")
"""The device of unified memory: where it is missing CUDA starts a privileged program to make it, which a closed process may
not."""


def close(
    *,
    models_folder: Path,
    cache_folder: Path,
    secret: Path,
    is_gpu: bool,
    port: int,
    is_dialing: bool,
    uvm: Path = UVM,
) -> str:
    """Close this process in, for good; return what holds now and what does not, for people.

    What it needs must be open, and should be its only thread. `secret` is a file that it must not be able to read
    afterwards.
    """
    if is_gpu and not uvm.exists():
        return f"none: CUDA starts a program that makes {uvm}, which is missing; it holds from the next start on"
    threads = _threads()
    held = list(give_up())
    missing: list[str] = []
    _write_to_cache(cache_folder)
    problem = restrict(
        Allowed(
            libraries=_apart_from(
                secret.parent.resolve(), _paths(*_SYSTEM_LIBRARIES, *_python(), *_preferred())
            ),
            read=(models_folder, *_paths(*_SYSTEM_FILES)),
            written=(cache_folder, *(_paths(*_GPU_FOLDERS) if is_gpu else ())),
            devices=(Path("/dev/null"), *(_paths(*_GPU_DEVICES) if is_gpu else ())),
            port=port,
            may_connect=is_dialing,
        )
    )
    if problem:
        missing.append(f"landlock: {problem}")
    else:
        held.insert(0, f"landlock {version()}")
        if threads > 1:
            missing.append(f"landlock: {threads - 1} threads were there before")
    problem = filter_calls(is_gpu=is_gpu)
    if problem:
        missing.append(f"seccomp: {problem}")
    else:
        held.append("seccomp")
    if _is_readable(secret):
        missing.append("the member's key can be read")
    return ", ".join(held or ["none"]) + "".join(f"; {one}" for one in missing)


def _python() -> list[str]:
    """Return where Python and this code are."""
    return sorted(
        {sys.prefix, sys.base_prefix, sys.exec_prefix, *(path for path in sys.path if path)}
    )


def _apart_from(private: Path, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the paths; in the place of one that the private folder is in, what else is there."""
    found: list[Path] = []
    for path in paths:
        if not private.is_relative_to(path.resolve()):
            found.append(path)
        elif path.resolve() != private:
            with suppress(OSError):
                found += _apart_from(private, tuple(path.iterdir()))
    return tuple(found)


def _preferred() -> list[str]:
    """Return where the dynamic linker looks first."""
    return [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]


def _paths(*patterns: str) -> tuple[Path, ...]:
    return tuple(Path(found) for pattern in patterns for found in glob.glob(pattern))  # noqa: PTH207 - absolute ones


def _write_to_cache(cache_folder: Path) -> None:
    """Have CUDA keep what it compiles where this process may write."""
    os.environ.setdefault("CUDA_CACHE_PATH", str(cache_folder / "cuda"))


def _threads() -> int:
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return 1


def _is_readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False
