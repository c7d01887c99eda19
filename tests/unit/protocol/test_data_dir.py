from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capamesh.protocol import private_files
from capamesh.protocol.adverts import SequenceSource
from capamesh.protocol.data_dir import DataDir, read_status
from capamesh.protocol.errors import ConfigError, KeyExposed
from capamesh.protocol.network import JoinToken, NetworkOwner, RevocationList, Role
from capamesh.protocol.network.authority import own_authority
from capamesh.protocol.network.chain import read_invite

NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)
BOOTSTRAP = ("/ip4/192.0.2.7/tcp/7400",)
OWNER, OTHER = (NetworkOwner.create(name, NOW) for name in ("one", "two"))
S = 1_000_000_000
LATER = NOW + dt.timedelta(days=30)


def token(role: Role = Role.NODE, owner: NetworkOwner = OWNER) -> str:
    made: JoinToken = owner.invite(role, expires_at=LATER, bootstrap=BOOTSTRAP, now=NOW)
    return made.encode()


class Log:
    """Takes what is logged."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: object) -> None:
        self.events.append({"event": event, **fields})

    @property
    def typed(self) -> Any:
        return self


def reported(folder: Path) -> dict[str, Any]:
    """What a member said of itself, but for what each status has."""
    status = read_status(folder)
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(status.pop("updated_at"))
    assert abs(age) < dt.timedelta(minutes=5)
    assert status.pop("disk") == ""
    return status


def leave(home: DataDir) -> None:
    """Let go of the folder, as the end of a process does."""
    assert home._lock is not None
    home._lock.close()


def test_folder_has_one_holder_in_this_process_or_another(tmp_path: Path) -> None:
    home = DataDir(tmp_path / "data")
    home.lock()
    for again in (DataDir(tmp_path / "data"), home):
        with pytest.raises(ConfigError, match=r"another process lives in .*data.*--data folder"):
            again.lock()
    program = (
        "import sys, pathlib; from capamesh.protocol.data_dir import DataDir;"
        "DataDir(pathlib.Path(sys.argv[1])).lock()"
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


def test_folder_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        DataDir(tmp_path / "file").lock()
    (tmp_path / "data" / "lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"cannot use the folder .*data: Is a directory"):
        DataDir(tmp_path / "data").lock()


def test_joining_again_with_the_same_token_or_none_keeps_the_identity(tmp_path: Path) -> None:
    text = token()
    first = DataDir(tmp_path).membership(text, Role.NODE, NOW)
    again = DataDir(tmp_path).membership(text, Role.NODE, NOW + dt.timedelta(days=9))
    kept = DataDir(tmp_path).membership(None, Role.NODE, NOW + dt.timedelta(days=29))
    assert first.identity.peer_id == again.identity.peer_id == kept.identity.peer_id
    assert kept.chain == again.chain
    renewed = DataDir(tmp_path).membership(token(), Role.NODE, NOW)
    assert renewed.identity.peer_id == first.identity.peer_id
    assert DataDir(tmp_path).bootstrap() == BOOTSTRAP


def test_error_without_a_valid_membership_says_what_to_do(tmp_path: Path) -> None:
    home = DataDir(tmp_path)
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


@pytest.mark.parametrize(
    "content", [b"", b'{"a": 1}', b"\xff\xfe", b"[1]", b'["/ip4/1.2.3.4", null]']
)
def test_damaged_bootstrap_file_is_set_aside_and_the_member_starts_without(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "bootstrap.json").write_bytes(content)
    log = Log()
    assert DataDir(tmp_path, log.typed).bootstrap() == ()
    assert (tmp_path / "bootstrap.json.damaged").read_bytes() == content
    (event,) = log.events
    assert (event["event"], event["file"]) == ("damaged_file_set_aside", "bootstrap.json")
    assert "--bootstrap" in event["what_to_do"]
    assert DataDir(tmp_path, log.typed).bootstrap() == ()
    assert len(log.events) == 1


def test_damaged_list_of_revocations_is_set_aside_once_and_asked_for_anew(tmp_path: Path) -> None:
    log = Log()
    home = DataDir(tmp_path, log.typed)
    membership = home.membership(token(), Role.NODE, NOW)
    empty = RevocationList.empty(OWNER.network_id)
    assert home.revocations(membership) == empty
    newer = OWNER.revoke(empty, peers=[membership.identity.peer_id], now=NOW)
    home.keep_revocations(newer)
    assert home.revocations(membership) == newer
    file = tmp_path / "revocations.bin"
    for damage in (file.read_bytes()[:-1], b"other"):
        file.write_bytes(damage)
        assert home.revocations(membership) == empty
        assert not file.exists()
        assert (tmp_path / "revocations.bin.damaged").read_bytes() == damage
    assert [event["file"] for event in log.events] == ["revocations.bin"] * 2
    home.keep_revocations(newer)  # as the mesh tells it
    assert home.revocations(membership) == newer


def test_damaged_certificate_of_the_network_comes_back_with_the_token(tmp_path: Path) -> None:
    text = token()
    first = DataDir(tmp_path).membership(text, Role.NODE, NOW)
    for name in ("network.pem", "chain.pem"):
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(ConfigError, match=f"{name} is damaged"):
            DataDir(tmp_path).membership(None, Role.NODE, NOW)
        again = DataDir(tmp_path, Log().typed).membership(text, Role.NODE, NOW)
        assert again.identity.peer_id == first.identity.peer_id
        assert DataDir(tmp_path).membership(None, Role.NODE, NOW) == again
    assert (tmp_path / "network.pem.damaged").read_bytes() == b"junk"


def test_token_that_is_over_does_not_end_a_membership_that_is_not(tmp_path: Path) -> None:
    old = token()
    DataDir(tmp_path).membership(old, Role.NODE, NOW)
    longer = OWNER.invite(
        Role.NODE, expires_at=LATER + dt.timedelta(days=30), bootstrap=(), now=NOW
    )
    renewed = DataDir(tmp_path).membership(longer.encode(), Role.NODE, NOW)
    log = Log()
    home = DataDir(tmp_path, log.typed)
    assert home.membership(old, Role.NODE, LATER + dt.timedelta(days=1)) == renewed
    (event,) = log.events
    assert event["event"] == "token_not_taken"
    assert "the join token expired at" in event["error"]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Call it with True to have no file written any more, with False to have all written again."""
    is_full = False
    write = private_files._write_beside

    def refuse(path: Path, data: bytes, mode: int, *, is_durable: bool = True) -> Path:
        if is_full:
            raise OSError(28, "No space left on device")
        return write(path, data, mode, is_durable=is_durable)

    def fill(full: bool) -> None:
        nonlocal is_full
        is_full = full

    monkeypatch.setattr(private_files, "_write_beside", refuse)
    return fill


def test_member_starts_on_a_full_disk_and_says_what_is_not_kept(
    tmp_path: Path, full_disk: Callable[[bool], None]
) -> None:
    text = token()
    before = DataDir(tmp_path)
    member = before.membership(text, Role.NODE, NOW)
    boot_ns = before.next_boot_ns(1000 * S)
    before.write_status({"role": "node", "state": "stopped"})
    full_disk(True)
    log = Log()
    home = DataDir(tmp_path, log.typed)
    assert home.membership(text, Role.NODE, NOW) == member
    assert home.next_boot_ns(1001 * S) == 1001 * S > boot_ns
    assert home.next_boot_ns(1002 * S) == 1002 * S
    newer = OWNER.revoke(RevocationList.empty(OWNER.network_id), invites=["0" * 40], now=NOW)
    assert not home.keep_revocations(newer)
    assert home.disk == "not kept: boot_ns, revocations.bin: No space left on device"
    assert [event["file"] for event in log.events] == ["boot_ns", "revocations.bin"]
    assert home.write_status({"role": "node", "state": "ready"})  # in the place of the old one
    reported = read_status(tmp_path)
    assert (reported["state"], reported["disk"]) == ("ready", home.disk)
    full_disk(False)
    assert home.write_status({"role": "node", "state": "ready"})
    assert home.disk == read_status(tmp_path)["disk"] == ""
    assert home.revocations(member) == newer
    assert (tmp_path / "boot_ns").read_text() == str(1002 * S)
    full_disk(True)
    assert DataDir(tmp_path, log.typed).membership(lasting(40), Role.NODE, NOW) == member
    assert log.events[-1]["event"] == "token_not_taken"
    assert not DataDir(tmp_path / "new").write_status({"state": "ready"})


def test_token_of_another_network_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    home = DataDir(tmp_path)
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


def test_each_run_s_boot_time_is_after_that_of_the_run_before(tmp_path: Path) -> None:
    home = DataDir(tmp_path)
    assert home.next_boot_ns(1000 * S) == 1000 * S
    assert home.next_boot_ns(1000 * S) == 1000 * S + 1
    assert home.next_boot_ns(2000 * S) == 2000 * S
    assert home.next_boot_ns(1990 * S) == 2000 * S + 1
    assert home.next_boot_ns(100 * S) == 100 * S, "a clock that was wrong by more is forgotten"
    assert DataDir(tmp_path).next_boot_ns(100 * S) == 100 * S + 1
    for content in (b"", b"soon", b"1e9", b"\xff", b"1" * 5000, b"-5"):
        (tmp_path / "boot_ns").write_bytes(content)
        assert DataDir(tmp_path).next_boot_ns(7 * S) == 7 * S
        assert (tmp_path / "boot_ns").read_text() == str(7 * S)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"5", b"\xff"])
def test_folder_without_a_status_is_a_config_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "status.json").write_bytes(content)
    with pytest.raises(ConfigError, match="--data folder"):
        read_status(tmp_path)


def test_clock_set_back_by_more_than_receivers_bear_starts_new_sequence_numbers(
    tmp_path: Path,
) -> None:
    home = DataDir(tmp_path)
    source = SequenceSource(home.next_boot_ns(5_000 * S))
    assert home.current(source, 4_400 * S) is source
    renewed = home.current(source, 4_399 * S)
    assert renewed.boot_ns == 4_399 * S
    assert home.current(renewed, 4_399 * S + 1) is renewed
    # from now on receivers accept what was sealed before, if somebody repeats it
    newest = home.current(renewed, 4_400 * S)
    assert newest.boot_ns == 5_000 * S + 1
    assert home.current(newest, 5_100 * S) is newest
    assert DataDir(tmp_path).next_boot_ns(4_500 * S) == 5_000 * S + 2


def lasting(days: int, owner: NetworkOwner = OWNER) -> str:
    return owner.invite(
        Role.NODE, expires_at=NOW + dt.timedelta(days=days), bootstrap=BOOTSTRAP, now=NOW
    ).encode()


def test_token_of_a_start_does_not_replace_a_membership_that_ends_later(tmp_path: Path) -> None:
    old, new = lasting(10), lasting(20)
    DataDir(tmp_path).membership(old, Role.NODE, NOW)
    by_hand = DataDir(tmp_path).membership(new, Role.NODE, NOW)
    log = Log()
    assert DataDir(tmp_path, log.typed).membership(old, Role.NODE, NOW) == by_hand
    (event,) = log.events
    assert event["event"] == "token_older_than_membership"
    assert (event["membership_ends"], event["token_ends"]) == (
        (NOW + dt.timedelta(days=20)).isoformat(),
        (NOW + dt.timedelta(days=10)).isoformat(),
    )
    assert DataDir(tmp_path).membership(None, Role.NODE, NOW) == by_hand


def test_token_of_a_later_owners_key_wins_whenever_it_ends(tmp_path: Path) -> None:
    rotated = OWNER.rotated(NOW)
    first, later = lasting(20), lasting(10, rotated)
    DataDir(tmp_path).membership(first, Role.NODE, NOW)
    by_later = DataDir(tmp_path).membership(later, Role.NODE, NOW)
    assert by_later.expires_at == NOW + dt.timedelta(days=10)
    log = Log()
    assert DataDir(tmp_path, log.typed).membership(first, Role.NODE, NOW) == by_later
    assert [event["event"] for event in log.events] == ["token_older_than_membership"]


def test_token_brings_a_revoked_member_back_though_it_ends_earlier(tmp_path: Path) -> None:
    home = DataDir(tmp_path)
    long = home.membership(lasting(20), Role.NODE, NOW)
    invite = read_invite(own_authority(OWNER.ca_der), long.chain[1]).serial
    home.keep_revocations(
        OWNER.revoke(RevocationList.empty(OWNER.network_id), invites=[invite], now=NOW)
    )
    short = DataDir(tmp_path).membership(lasting(10), Role.NODE, NOW)
    assert short.expires_at == NOW + dt.timedelta(days=10)


def test_token_or_a_folder_of_the_other_role_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    home = DataDir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"the token admits a node, this is a router.*--role router"
    ):
        home.membership(token(), Role.ROUTER, NOW)
    assert list(tmp_path.iterdir()) == []
    home.membership(token(), Role.NODE, NOW)
    with pytest.raises(ConfigError, match="is the home of a node, this is a router"):
        home.membership(None, Role.ROUTER, NOW)
    (tmp_path / "identity.key").chmod(0o640)
    with pytest.raises(KeyExposed, match="chmod 600"):
        home.membership(None, Role.NODE, NOW)


def test_status_says_whether_its_process_still_runs_and_is_over_when_the_next_one_starts(
    tmp_path: Path,
) -> None:
    home = DataDir(tmp_path)
    home.write_status({"state": "ready", "pid": 5, "role": "node"})
    assert reported(tmp_path) == {"state": "ready", "pid": 5, "role": "node", "is_running": False}
    home.lock()
    started = reported(tmp_path)
    assert (started["state"], started["pid"], started["role"]) == ("starting", os.getpid(), "node")
    assert started["is_running"] is True
    leave(home)
    assert read_status(tmp_path)["is_running"] is False
    home.lock()
    home.write_status({"is_running": "no", "state": "draining"})
    assert reported(tmp_path) == {"state": "draining", "is_running": True}
    leave(home)
