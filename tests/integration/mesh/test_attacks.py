"""Whatever a peer sends, member or not, the sidecar lives and honest gossip goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from process_memory import resident_bytes

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


@pytest.mark.parametrize("who", ["insider", "stranger"])
@pytest.mark.parametrize("attack", ATTACKS)
async def test_attack_of_a_member_or_a_stranger_leaves_the_mesh_as_it_was(
    fleet: Fleet, insider: Attacker, stranger: Attacker, attack: str, who: str
) -> None:
    victim = fleet.routers[0]
    pid = victim.client.pid
    before = resident_bytes(pid)
    assert await {"insider": insider, "stranger": stranger}[who].do(attack) is None
    await fleet.hears()
    assert victim.client.pid == pid
    assert victim.downs == []
    assert resident_bytes(pid) - before < MAX_GROWTH_BYTES
    assert victim.client.warnings.get("task_failed", 0) == 0
