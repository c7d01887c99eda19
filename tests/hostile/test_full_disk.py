"""A full disk under a member's folder: it serves, restarts and says what is not kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile import Figures
from lasting_network import lasting

from capamesh.protocol.identity import Identity

MOUNT, UMOUNT = shutil.which("mount") or "", shutil.which("umount") or ""
SIZE = "4m"
"""Of a member's disk; a folder takes some 100 KB."""


def _mount(folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [MOUNT, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Put a small file system of its own at `folder`; skip where that is not allowed."""
    folder.mkdir(parents=True)
    if os.geteuid() != 0 or not MOUNT or _mount(folder).returncode:
        pytest.skip("no file system can be mounted here")
    folder.chmod(0o700)
    try:
        yield folder
    finally:
        subprocess.run([UMOUNT, "-l", str(folder)], check=False)


def fill(folder: Path, name: str = "filler") -> Path:
    """Leave not one byte free; return the file that takes it all."""
    filler = folder / name
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


async def test_members_serve_restart_and_revoke_on_a_full_disk_and_say_what_is_not_kept(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with lasting(tmp_path, sample_models) as network:
        (node,) = network.nodes
        with small_disk(network.router.data) as router_disk, small_disk(node.data) as node_disk:
            try:
                network.router.pin()
                await network.start(3600)
                fillers = [fill(disk) for disk in (router_disk, node_disk)]
                assert (await network.ask())[0] == 200
                for member in network.members:
                    await member.stop(signal.SIGKILL)
                    # what it was just replacing when the disk was filled is free now
                    fillers.append(fill(member.data, "filler-2"))
                    await member.start()
                status = await network.router.until(
                    lambda status: status["state"] in {"ready", "waiting"}, "up on a full disk"
                )
                network.url = status["http_address"]
                await network.router.until_state("ready")
                await node.until_state("ready")
                await network.answered()
                figures.at_least("answers after a restart on a full disk", 1, 1)
                assert "No space left on device" in network.router.status()["disk"]
                assert network.router.status()["disk"].startswith("not kept: boot_ns")
                reported = await network.revoke(Identity.generate().peer_id)
                assert reported == {"version": 1, "is_kept": False}
                await node.until(lambda status: status.get("revocations_version") == 1, "told")
                assert "revocations.bin" in node.status()["disk"]
                for filler in fillers:
                    filler.unlink()
                for member in network.members:
                    await member.until(lambda status: status.get("disk") == "", "kept again")
                    assert (member.data / "revocations.bin").read_bytes() == network.list.encode()
            finally:
                for member in reversed(network.members):
                    await member.stop()
