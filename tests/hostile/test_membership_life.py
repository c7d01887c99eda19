"""Memberships that end: renewed as requests go on, told where they are not, and owners' keys that change."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hostile import HONEST_CLIENT, Figures, Seen
from lasting_network import LastingNetwork, Service, lasting

from capamesh.protocol.identity import Identity
from capamesh.protocol.network import Role

SHORT_S = 15.0
"""A life whose end a test can wait for, in which a busy machine renews all members again."""
WARNED_S = 30.0
"""Long enough for a look in the last half of it."""
LONG_S = 3600.0


@asynccontextmanager
async def honest(network: LastingNetwork) -> AsyncIterator[Seen]:
    """Let two well-behaved clients ask meanwhile."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HONEST_CLIENT), f"{network.url}/v2/models/digits/infer"),
        *("2", "kept", "0.02"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    seen = Seen()
    try:
        assert await process.stdout.readline() == b"asking\n"
        yield seen
        process.stdin.close()
        async with asyncio.timeout(60):
            seen.take(await process.stdout.readline())
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(moment: dt.datetime) -> None:
    await asyncio.sleep(max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds()))


async def test_members_are_renewed_and_their_owners_key_changed_while_requests_go_on(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with lasting(tmp_path, sample_models, nodes=2) as network:
        await network.start(LONG_S)
        peers = [member.status()["peer_id"] for member in network.members]
        first, *others = network.members
        async with honest(network) as seen:
            network.renew(SHORT_S)
            for member in network.members:
                await member.until(lambda status: status.get("expires_in_s", 0) <= SHORT_S, "short")
            ends_at = max(
                dt.datetime.fromisoformat(member.status()["expires_at"])
                for member in network.members
            )
            now = dt.datetime.now(dt.UTC)
            network.owner = network.owner.rotated(now)
            network.list = network.owner.revoke(network.list, now=now)
            await network.tell()
            first.give(
                network.token(first.role, LONG_S)
            )  # of the new key, beside all others of the old one
            await first.until(lambda status: status.get("expires_in_s", 0) > SHORT_S, "renewed")
            await asyncio.sleep(1)
            for member in others:
                member.give(network.token(member.role, LONG_S))
                await member.until(
                    lambda status: status.get("expires_in_s", 0) > SHORT_S, "renewed"
                )
            await until(ends_at + dt.timedelta(seconds=1))
            # the old key is retired: every link is looked at again, long before it would be by itself
            network.list = network.owner.revoke(
                network.list, is_retiring=True, now=dt.datetime.now(dt.UTC)
            )
            await network.tell()
            for member in network.members:
                await member.until(lambda status: status.get("revocations_version") == 2, "told")
            await asyncio.sleep(1)
        for member in network.members:
            await member.until_state("ready")
            assert len(member.events("membership_renewed")) == 2
            assert member.events("membership_expired") == []
        assert [member.status()["peer_id"] for member in network.members] == peers
        assert seen.failures == {}
        figures.at_least("requests answered over two renewals of all members", seen.answered, 50)
        figures.at_most("requests failed over two renewals of all members", seen.failed, 0)
        assert (await network.metrics())["capamesh_membership_expires_seconds"] > SHORT_S


@pytest.mark.slow  # a warning has to fall between two looks at the membership, 5 s apart
async def test_members_whose_membership_has_ended_say_so_and_are_good_again_by_a_new_token(
    tmp_path: Path, sample_models: Path
) -> None:
    async with lasting(tmp_path, sample_models) as network:
        await network.start(LONG_S)
        network.renew(WARNED_S)
        for member in network.members:
            await member.until(lambda status: status["state"] == "expired", "expired")
            assert member.state() == "expired"
            assert member.status()["expires_in_s"] <= 0
            assert len(member.events("membership_expired")) == 1
        (warning, *_) = network.router.events("membership_ends")
        assert 0 < warning["left_s"] <= WARNED_S / 2
        assert "--token-file" in warning["what_to_do"]
        assert (await network.metrics())["capamesh_membership_expires_seconds"] <= 0
        junk = network.router.token_file.with_name("junk")
        junk.write_text("capamesh1junk")
        junk.replace(network.router.token_file)
        await network.router.until(lambda _: network.router.events("token_refused") != [], "told")
        network.renew(LONG_S)
        for member in network.members:
            await member.until_state("ready")
            assert len(member.events("membership_lasts")) == 1
        await network.answered()


async def test_revoked_members_know_it_and_a_revoked_router_says_so_at_once(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with lasting(tmp_path, sample_models) as network:
        await network.start(LONG_S)
        (node,) = network.nodes
        other = Service(
            tmp_path / "other",
            Role.ROUTER,
            "--http",
            "127.0.0.1:0",
            "--mesh",
            "127.0.0.1:0",
            "--links",
            "127.0.0.1:0",
        )
        mesh = network.router.status()["mesh_addresses"]
        try:
            now = dt.datetime.now(dt.UTC)
            other.give(
                network.owner.invite(
                    Role.ROUTER,
                    expires_at=now + dt.timedelta(seconds=LONG_S),
                    bootstrap=mesh,
                    now=now,
                )
            )
            await other.start()
            await other.until_state("ready")
            # told to the other members alone: the revoked one learns of it from those that refuse it
            assert await network.revoke(other.status()["peer_id"]) == {
                "version": 1,
                "is_kept": True,
            }
            await other.until_state("revoked")
            (event,) = other.events("membership_revoked")
            assert event["reason"].startswith("revoked peer: router ")
            url, network.url = network.url, other.status()["http_address"]
            began_s = asyncio.get_running_loop().time()
            status, text = await network.ask()
            figures.at_most(
                "seconds until a revoked router refuses",
                asyncio.get_running_loop().time() - began_s,
                2.0,
            )
            assert status == 503
            assert "this router's membership has ended (revoked peer: " in text
            network.url = url
            assert (await network.ask())[0] == 200
            await network.revoke(node.status()["peer_id"])
            await node.until_state("revoked")
            assert len(node.events("membership_revoked")) == 1
            await network.router.until_state("waiting")
        finally:
            await other.stop()


async def test_member_with_damaged_files_starts_and_has_them_again(
    tmp_path: Path, sample_models: Path
) -> None:
    async with lasting(tmp_path, sample_models) as network:
        await network.start(LONG_S)
        (node,) = network.nodes
        await network.revoke(Identity.generate().peer_id)
        await node.until(lambda status: status.get("revocations_version") == 1, "told")
        await node.stop()
        names = ("revocations.bin", "network.pem", "bootstrap.json")
        for name in names:
            (node.data / name).write_bytes(b"junk")
        await node.start()
        await node.until(lambda status: status.get("revocations_version") == 1, "told again")
        await node.until_state("ready")
        await network.answered()
        for name in names:
            assert (node.data / name).read_bytes() != b"junk"
        # nobody reads the addresses where a token has them
        for name in names[:2]:
            assert (node.data / f"{name}.damaged").read_bytes() == b"junk"
        reported = [event["file"] for event in node.events("damaged_file_set_aside")]
        assert sorted(reported) == sorted(names[:2])
