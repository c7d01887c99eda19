from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import pytest

from capamesh.protocol.adverts import SequenceSource
from capamesh.protocol.errors import ConfigError, KeyExposed
from capamesh.protocol.home import MemberHome, read_status
from capamesh.protocol.network import JoinToken, NetworkOwner, RevocationList, Role

NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)
BOOTSTRAP = ("/ip4/192.0.2.7/tcp/7400",)
OWNER, OTHER = (NetworkOwner.create(name, NOW) for name in ("one", "two"))
LATER = NOW + dt.timedelta(days=30)


def token(role: Role = Role.NODE, owner: NetworkOwner = OWNER) -> str:
    made: JoinToken = owner.invite(role, expires_at=LATER, bootstrap=BOOTSTRAP, now=NOW)
    return made.encode()


def leave(home: MemberHome) -> None:
    """Let go of the folder, as the end of a process does."""
    assert home._lock is not None
    home._lock.close()


def test_a_folder_has_one_holder_in_this_process_or_another(tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "data")
    home.lock()
    for again in (MemberHome(tmp_path / "data"), home):
        with pytest.raises(ConfigError, match=r"another process lives in .*data.*--data folder"):
            again.lock()
    program = (
        "import sys, pathlib; from capamesh.protocol.home import MemberHome;"
        "MemberHome(pathlib.Path(sys.argv[1])).lock()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "ConfigError: another process lives in" in run.stderr
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    leave(home)


def test_a_folder_is_free_again_when_its_holder_is_gone(tmp_path: Path) -> None:
    home = MemberHome(tmp_path)
    home.lock()
    leave(home)
    after = MemberHome(tmp_path)
    after.lock()
    leave(after)


def test_a_folder_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        MemberHome(tmp_path / "file").lock()
    (tmp_path / "data" / "lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"cannot use the folder .*data: Is a directory"):
        MemberHome(tmp_path / "data").lock()


def test_joining_again_with_the_same_token_or_none_keeps_the_identity(tmp_path: Path) -> None:
    text = token()
    first = MemberHome(tmp_path).membership(text, Role.NODE, NOW)
    again = MemberHome(tmp_path).membership(text, Role.NODE, NOW + dt.timedelta(days=9))
    kept = MemberHome(tmp_path).membership(None, Role.NODE, NOW + dt.timedelta(days=29))
    assert first.identity.peer_id == again.identity.peer_id == kept.identity.peer_id
    assert kept.chain == again.chain
    renewed = MemberHome(tmp_path).membership(token(), Role.NODE, NOW)
    assert renewed.identity.peer_id == first.identity.peer_id
    assert MemberHome(tmp_path).bootstrap() == BOOTSTRAP


@pytest.mark.parametrize(
    ("role", "other", "article"),
    [(Role.NODE, Role.ROUTER, "node"), (Role.ROUTER, Role.NODE, "router")],
)
def test_a_token_or_a_folder_of_the_other_role_is_refused_and_changes_nothing(
    tmp_path: Path, role: Role, other: Role, article: str
) -> None:
    home = MemberHome(tmp_path)
    with pytest.raises(
        ConfigError, match=f"the token admits a {article}, this is a {other}.*--role {other}"
    ):
        home.membership(token(role), other, NOW)
    assert list(tmp_path.iterdir()) == []
    home.membership(token(role), role, NOW)
    with pytest.raises(ConfigError, match=f"is the home of a {article}, this is a {other}"):
        home.membership(None, other, NOW)


def test_without_a_membership_or_with_one_that_is_over_it_says_what_to_do(tmp_path: Path) -> None:
    home = MemberHome(tmp_path)
    with pytest.raises(ConfigError, match="holds no membership: give --token, from"):
        home.membership(None, Role.NODE, NOW)
    assert home.bootstrap() == ()
    text = token()
    home.membership(text, Role.NODE, NOW)
    for given in (text, None):
        with pytest.raises(ConfigError, match="expired"):
            home.membership(given, Role.NODE, LATER + dt.timedelta(days=1))
    with pytest.raises(ConfigError):
        home.membership("capamesh1junk", Role.NODE, NOW)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    text = token()
    MemberHome(tmp_path).membership(text, Role.NODE, NOW)
    (tmp_path / "identity.key").chmod(0o640)
    for given in (text, None):
        with pytest.raises(KeyExposed, match="chmod 600"):
            MemberHome(tmp_path).membership(given, Role.NODE, NOW)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"a": 1}', b'"text"', b"\xff\xfe", b"[1]", b'["/ip4/1.2.3.4", null]']
)
def test_a_damaged_bootstrap_file_is_a_config_error_that_says_what_to_do(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "bootstrap.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bootstrap\.json.*join again with the token"):
        MemberHome(tmp_path).bootstrap()


def test_revocations_are_kept_and_a_damaged_list_is_not_taken_for_an_empty_one(
    tmp_path: Path,
) -> None:
    home = MemberHome(tmp_path)
    membership = home.membership(token(), Role.NODE, NOW)
    empty = RevocationList.empty(OWNER.network_id)
    assert home.revocations(membership) == empty
    newer = OWNER.revoke(empty, peers=[membership.identity.peer_id], now=NOW)
    home.keep_revocations(newer)
    assert home.revocations(membership) == newer
    file = tmp_path / "revocations.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError):
        home.revocations(membership)


def test_a_token_of_another_network_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    home = MemberHome(tmp_path)
    first = home.membership(token(), Role.NODE, NOW)
    home.keep_revocations(
        OWNER.revoke(RevocationList.empty(OWNER.network_id), peers=[], invites=["0" * 40], now=NOW)
    )
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError) as refusal:
        home.membership(token(owner=OTHER), Role.NODE, NOW)
    assert refusal.value.message == (
        f"the token admits to the network {OTHER.network_id}, {tmp_path} belongs to {OWNER.network_id}: give "
        f"another --data to be in both, or remove {tmp_path} to leave that network for good, its identity with it"
    )
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert home.membership(None, Role.NODE, NOW) == first
    for file in tmp_path.iterdir():
        file.unlink()
    assert home.membership(token(owner=OTHER), Role.NODE, NOW).network_id == OTHER.network_id


def test_an_error_of_the_system_is_told_without_its_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        read_status(tmp_path)
    assert refusal.value.message == (
        f"{tmp_path} has no readable status: No such file or directory; is it a --data folder?"
    )
    (tmp_path / "bootstrap.json").mkdir()
    with pytest.raises(ConfigError, match=r"bootstrap\.json cannot be read: Is a directory; join"):
        MemberHome(tmp_path).bootstrap()


S = 1_000_000_000


def test_each_run_s_boot_time_is_after_that_of_the_run_before(tmp_path: Path) -> None:
    home = MemberHome(tmp_path)
    assert home.next_boot_ns(1000 * S) == 1000 * S
    assert home.next_boot_ns(1000 * S) == 1000 * S + 1
    assert home.next_boot_ns(2000 * S) == 2000 * S
    assert home.next_boot_ns(1990 * S) == 2000 * S + 1
    assert home.next_boot_ns(100 * S) == 100 * S, "a clock that was wrong by more is forgotten"
    assert MemberHome(tmp_path).next_boot_ns(100 * S) == 100 * S + 1


@pytest.mark.parametrize("content", [b"", b"soon", b"1e9", b"\xff", b"1" * 5000, b"-5"])
def test_a_damaged_boot_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "boot_ns").write_bytes(content)
    assert MemberHome(tmp_path).next_boot_ns(7 * S) == 7 * S
    assert (tmp_path / "boot_ns").read_text() == str(7 * S)


def test_a_status_says_whether_its_process_still_runs(tmp_path: Path) -> None:
    home = MemberHome(tmp_path)
    home.write_status({"state": "ready", "pid": 5})
    assert read_status(tmp_path) == {"state": "ready", "pid": 5, "is_running": False}
    home.lock()
    assert read_status(tmp_path)["is_running"] is True
    assert read_status(tmp_path)["is_running"] is True
    leave(home)
    assert read_status(tmp_path)["is_running"] is False
    home.lock()
    home.write_status({"is_running": "no", "state": "draining"})
    assert read_status(tmp_path) == {"state": "draining", "is_running": True}
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "draining"
    leave(home)


def test_the_status_of_a_process_that_was_killed_is_not_running(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, pathlib; from capamesh.protocol.home import MemberHome;"
        "home = MemberHome(pathlib.Path(sys.argv[1])); home.lock();"
        "home.write_status({'state': 'ready'}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert run.returncode == -9
    assert read_status(tmp_path) == {"state": "ready", "is_running": False}


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"5", b"\xff"])
def test_a_folder_without_a_status_is_a_config_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "status.json").write_bytes(content)
    with pytest.raises(ConfigError, match="--data folder"):
        read_status(tmp_path)


def test_a_clock_set_back_by_more_than_receivers_bear_starts_new_sequence_numbers(
    tmp_path: Path,
) -> None:
    home = MemberHome(tmp_path)
    source = SequenceSource(home.next_boot_ns(5_000 * S))
    assert home.current(source, 4_400 * S) is source
    renewed = home.current(source, 4_399 * S)
    assert renewed.boot_ns == 4_399 * S
    assert home.current(renewed, 4_400 * S) is renewed
