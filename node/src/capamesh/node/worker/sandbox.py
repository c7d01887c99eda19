"""The sandbox that keeps a worker, once it has started, to what it needs. IO: system calls.

A worker reads models and requests of strangers with native code. An attacker who takes hold of it there shall not read the
member's key file, start a program or reach into another process. Where the kernel lacks a part, the others hold.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from capamesh.protocol import sandbox
from capamesh.protocol.sandbox.landlock import Allowed
from capamesh.protocol.sandbox.seccomp import NET_FAMILIES, UNIX

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
    _write_to_cache(cache_folder)
    held, missing = sandbox.close(
        Allowed(
            libraries=sandbox.apart_from(secret.parent.resolve(), sandbox.libraries()),
            read=(models_folder, *sandbox.paths(*sandbox.SYSTEM_FILES)),
            written=(cache_folder, *(sandbox.paths(*_GPU_FOLDERS) if is_gpu else ())),
            devices=(Path("/dev/null"), *(sandbox.paths(*_GPU_DEVICES) if is_gpu else ())),
            port=port,
            may_connect=is_dialing,
        ),
        # CUDA's MPS listens on a Unix socket
        socket_families=(*NET_FAMILIES, UNIX) if is_gpu else NET_FAMILIES,
    )
    if _is_readable(secret):
        missing.append("the member's key can be read")
    return ", ".join(held or ["none"]) + "".join(f"; {one}" for one in missing)


def _write_to_cache(cache_folder: Path) -> None:
    """Have CUDA keep what it compiles where this process may write."""
    os.environ.setdefault("CUDA_CACHE_PATH", str(cache_folder / "cuda"))


def _is_readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False
