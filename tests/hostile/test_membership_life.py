"""Memberships that end: renewed as requests go on, told where they are not, and owners' keys that change."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest
from clusters import Cluster, metrics_at, peer_of, until_state, until_status
from engine_link import logged
from hostile import Figures
from http_load import DIGITS, Load, Shot
from patience import until

from capamesh.protocol.identity import Identity
from capamesh.protocol.member_status import verdict
from capamesh.protocol.network import RevocationList

SHORT_S = 15.0
"""A life whose end a test can wait for, in which a busy machine renews all members again."""
WARNED_S = 30.0
"""Long enough for a look in the last half of it."""
LONG_S = 3600.0


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


async def asked(url: str) -> Shot:
    (shot,) = await Load(url).run([DIGITS])
    return shot


async def test_members_are_renewed_and_their_owners_key_changed_while_requests_go_on(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with Cluster(tmp_path, sample_models, 2) as network:
        await network.wait_routable(2)
        peers = [peer_of(member) for member in network.members]
        first, *others = network.members
        async with network.honest(connections=2, pause_s=0.02) as seen:
            network.renew(SHORT_S)
            for member in network.members:
                await until_status(member, lambda status: status["expires_in_s"] <= SHORT_S)
            ends = [member.status()["expires_at"] for member in network.members]
            ends_at = max(map(dt.datetime.fromisoformat, ends))
            network.owner = owner = network._owner().rotated(now())
            revocations = owner.revoke(RevocationList.empty(owner.network_id), now=now())
            await network.tell(revocations)
            # of the new key, beside all others of the old one
            for members in ([first], others):
                network.renew(LONG_S, *members)
                for member in members:
                    await until_status(member, lambda status: status["expires_in_s"] > SHORT_S)
                await asyncio.sleep(1)
            await until(lambda: now() > ends_at + dt.timedelta(seconds=1))
            # the old key is retired: every link is looked at again, long before it would be by itself
            await network.tell(owner.revoke(revocations, is_retiring=True, now=now()))
            for member in network.members:
                await until_status(member, lambda status: status.get("revocations_version") == 2)
            await asyncio.sleep(1)
        for member in network.members:
            await until_state(member, "ready")
            assert len(logged(member, "membership_renewed")) == 2
            assert logged(member, "membership_expired") == []
        assert [peer_of(member) for member in network.members] == peers
        assert seen.failures == []
        figures.at_least("requests answered over two renewals of all members", seen.answered, 50)
        figures.at_most("requests failed over two renewals of all members", seen.failed, 0)
        assert (await metrics_at(network.http_url))["capamesh_membership_expires_seconds"] > SHORT_S


@pytest.mark.slow  # a warning has to fall between two looks at the membership, 5 s apart
async def test_members_whose_membership_has_ended_say_so_and_are_good_again_by_a_new_token(
    tmp_path: Path, sample_models: Path
) -> None:
    async with Cluster(tmp_path, sample_models, 1) as network:
        await network.wait_routable(1)
        network.renew(WARNED_S)
        for member in network.members:
            await until_status(member, lambda status: status["state"] == "expired")
            assert verdict(member.status(), dt.datetime.now(dt.UTC)).state == "expired"
            assert member.status()["expires_in_s"] <= 0
            assert len(logged(member, "membership_expired")) == 1
        (warning, *_) = logged(network.router, "membership_ends")
        assert 0 < warning["left_s"] <= WARNED_S / 2
        assert "--token-file" in warning["what_to_do"]
        assert (await metrics_at(network.http_url))["capamesh_membership_expires_seconds"] <= 0
        junk = tmp_path / "junk"
        junk.write_text("capamesh1junk")
        junk.replace(tmp_path / "router.token")
        await until(lambda: logged(network.router, "token_refused"))
        network.renew(LONG_S)
        for member in network.members:
            await until_state(member, "ready")
            assert len(logged(member, "membership_lasts")) == 1
        await network.wait_routable(1)
        assert (await asked(network.http_url)).is_answered


async def test_members_have_damaged_files_again_and_those_that_are_revoked_know_it(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with Cluster(tmp_path, sample_models, 1) as network:
        await network.wait_routable(1)
        owner = network._owner()
        revocations = RevocationList.empty(owner.network_id)

        async def revoke(peer: str) -> dict[str, object]:
            nonlocal revocations
            revocations = owner.revoke(revocations, peers=[peer], now=now())
            return await network.tell(revocations)

        (node,) = network.nodes
        assert await revoke(Identity.generate().peer_id) == {"version": 1, "is_kept": True}
        await until_status(node, lambda status: status.get("revocations_version") == 1)
        await node.stop(40)
        names = ("revocations.bin", "network.pem", "bootstrap.json")
        for name in names:
            (node.data_folder / name).write_bytes(b"junk")
        node = await network.start_again(node)
        await until_status(node, lambda status: status.get("revocations_version") == 1)
        await until_state(node, "ready")
        await network.wait_routable(1)
        for name in names:
            assert (node.data_folder / name).read_bytes() != b"junk"
        # nobody reads the addresses where a token has them
        for name in names[:2]:
            assert (node.data_folder / f"{name}.damaged").read_bytes() == b"junk"
        reported = [event["file"] for event in logged(node, "damaged_file_set_aside")]
        assert sorted(reported) == sorted(names[:2])

        other = await network.add_router(name="other")
        url = other.status()["http_address"]
        # told to the other members alone: the revoked one learns of it from those that refuse it
        await revoke(peer_of(other))
        await until_state(other, "revoked")
        (event,) = logged(other, "membership_revoked")
        assert event["reason"].startswith("revoked peer: router ")
        shot = await asked(url)
        figures.at_most("seconds until a revoked router refuses", shot.latency_s, 2.0)
        assert shot.status == 503
        assert "this router's membership has ended (revoked peer: " in shot.error
        assert (await asked(network.http_url)).is_answered
        await revoke(peer_of(node))
        await until_state(node, "revoked")
        assert len(logged(node, "membership_revoked")) == 1
        await until_state(network.router, "waiting")
