"""A full disk under a member's folder: it serves, restarts and says what is not kept."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clusters import Cluster, kept_ports, until_state, until_status
from hostile import Figures
from http_load import DIGITS, Load, failures

from capamesh.protocol.identity import Identity
from capamesh.protocol.network import RevocationList

MOUNT, UMOUNT = shutil.which("mount") or "", shutil.which("umount") or ""
SIZE = "4m"
"""Of a member's disk; a folder takes some 100 KB."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Put a small file system of its own at `folder`, whose log lies elsewhere; skip where that is not allowed."""
    folder.mkdir(parents=True)
    mount = [MOUNT, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if (
        os.geteuid() != 0
        or not MOUNT
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    folder.chmod(0o700)
    (folder / "log.jsonl").symlink_to(folder.parent / f"{folder.name}.log")
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
    network = Cluster(tmp_path / "net", sample_models, 1, **kept_ports())
    disks = [tmp_path / "net" / name for name in ("router", "node-1")]
    with small_disk(disks[0]), small_disk(disks[1]):
        async with network:
            await network.wait_routable(1)
            fillers = [fill(disk) for disk in disks]
            assert failures(await Load(network.http_url).run([DIGITS])) == []
            for member in (network.router, network.nodes[0]):
                member.signal(signal.SIGKILL)
                await member.wait()
                # what it was just replacing when the disk was filled is free now
                fillers.append(fill(member.data_folder, "filler-2"))
                if member is network.router:
                    await network.start_router_again()
                else:
                    await network.start_again(member)
            router, node = network.router, network.nodes[0]
            await until_state(router, "ready")
            await until_state(node, "ready")
            await network.wait_routable(1)
            assert failures(await Load(network.http_url).run([DIGITS])) == []
            figures.at_least("answers after a restart on a full disk", 1, 1)
            said = router.status()["disk"]
            assert "No space left on device" in said
            assert said.startswith("not kept: boot_ns")
            owner = network._owner()
            revocations = owner.revoke(
                RevocationList.empty(owner.network_id),
                peers=[Identity.generate().peer_id],
                now=dt.datetime.now(dt.UTC),
            )
            assert await network.tell(revocations) == {"version": 1, "is_kept": False}
            await until_status(node, lambda status: status.get("revocations_version") == 1)
            assert "revocations.bin" in node.status()["disk"]
            for filler in fillers:
                filler.unlink()
            for member in (router, node):
                await until_status(member, lambda status: status.get("disk") == "")
                kept = (member.data_folder / "revocations.bin").read_bytes()
                assert kept == revocations.encode()
