"""Whatever a peer sends, member or not, the sidecar lives and honest gossip goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Attacker, Fleet

pytestmark = pytest.mark.asyncio(loop_scope="session")

ATTACKS = [
    "undecodable",
    "garbage_key",
    "oversize",
    "bait",
    "many",
    "control",
    "member_junk",
    "other_protocols",
    "raw_tcp",
    "silent_streams",
    "unread_flood",
]


MAX_GROWTH_BYTES = 64 * 2**20
"""Several times what a connection may buffer; the attack that fills memory sends 160 MiB."""


def resident_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def survives(fleet: Fleet, attacker: Attacker, attack: str) -> None:
    victim = fleet.routers[0]
    pid = victim.client.pid
    before = resident_bytes(pid)
    assert await attacker.do(attack) is None
    await fleet.hears()
    assert victim.client.pid == pid
    assert victim.downs == []
    assert resident_bytes(pid) - before < MAX_GROWTH_BYTES
    assert victim.client.warnings.get("task_failed", 0) == 0


@pytest.mark.parametrize("attack", ATTACKS)
async def test_members_attack_leaves_the_mesh_as_it_was(
    fleet: Fleet, insider: Attacker, attack: str
) -> None:
    await survives(fleet, insider, attack)


@pytest.mark.parametrize("attack", ATTACKS)
async def test_strangers_attack_leaves_the_mesh_as_it_was(
    fleet: Fleet, stranger: Attacker, attack: str
) -> None:
    await survives(fleet, stranger, attack)
