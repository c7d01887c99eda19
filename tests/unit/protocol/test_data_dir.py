"""The folder in which a member lives: who holds it, which membership it has, and what it keeps on a disk that fails."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from fleet_fakes import NullLog

from capamesh.protocol import private_files
from capamesh.protocol.adverts import SequenceSource
from capamesh.protocol.data_dir import DataDir, read_status
from capamesh.protocol.errors import ConfigError, KeyExposed
from capamesh.protocol.network import NetworkOwner, RevocationList, Role
from capamesh.protocol.network.authority import own_authority
from capamesh.protocol.network.chain import read_invite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from capamesh.protocol.network import Membership

NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
BOOTSTRAP = ("/ip4/192.0.2.7/tcp/7400",)
OWNER, OTHER = (NetworkOwner.create(name, NOW) for name in ("one", "two"))
NOTHING = RevocationList.empty(OWNER.network_id)
S = 1_000_000_000


def token(days: int = 30, owner: NetworkOwner = OWNER) -> str:
    return owner.invite(
        Role.NODE, expires_at=NOW + days * DAY, bootstrap=BOOTSTRAP, now=NOW
    ).encode()


class Home(DataDir):
    """A node's folder, as a process that starts sees it, and what it logs."""

    def __init__(self, folder: Path) -> None:
        self.log: Any = NullLog()
        super().__init__(folder, self.log)

    def joins(self, text: str | None, days: int = 0) -> Membership:
        return self.membership(text, Role.NODE, NOW + days * DAY)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


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
    line = [sys.executable, "-c", program, str(tmp_path / "data")]
    run = subprocess.run(line, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ConfigError: another process lives in" in run.stderr
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    leave(home)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        DataDir(tmp_path / "file").lock()
    (tmp_path / "other" / "lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"cannot use the folder .*other: Is a directory"):
        DataDir(tmp_path / "other").lock()


# which membership counts


def test_joining_again_with_the_same_token_or_none_keeps_the_identity(tmp_path: Path) -> None:
    text = token()
    first, again, kept, renewed = (
        Home(tmp_path).joins(given, days)
        for given, days in ((text, 0), (text, 9), (None, 29), (token(), 0))
    )
    assert {each.identity.peer_id for each in (again, kept, renewed)} == {first.identity.peer_id}
    assert kept.chain == again.chain
    assert DataDir(tmp_path).bootstrap() == BOOTSTRAP


def test_error_without_a_valid_membership_says_what_to_do(home: Home) -> None:
    with pytest.raises(ConfigError, match="holds no membership: give --token, from"):
        home.joins(None)
    assert home.bootstrap() == ()
    text = token()
    home.joins(text)
    for given, days, said in (
        (text, 31, "expired"),
        (None, 31, "expired"),
        ("capamesh1junk", 0, "cut short"),
    ):
        with pytest.raises(ConfigError, match=said):
            home.joins(given, days)


def test_token_of_another_network_or_role_is_refused_and_changes_nothing(
    home: Home, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"admits a node, this is a router.*--role router"):
        home.membership(token(), Role.ROUTER, NOW)
    assert list(tmp_path.iterdir()) == []
    first = home.joins(token())
    with pytest.raises(ConfigError, match="is the home of a node, this is a router"):
        home.membership(None, Role.ROUTER, NOW)
    home.keep_revocations(OWNER.revoke(NOTHING, invites=["0" * 40], now=NOW))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError) as refusal:
        home.joins(token(owner=OTHER))
    assert refusal.value.message == (
        f"the token admits to the network {OTHER.network_id}, {tmp_path} belongs to {OWNER.network_id}: give "
        f"another --data to be in both, or remove {tmp_path} to leave that network for good, its identity with it"
    )
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert home.joins(None) == first
    (tmp_path / "identity.key").chmod(0o640)
    with pytest.raises(KeyExposed, match="chmod 600"):
        home.joins(None)
    for file in tmp_path.iterdir():
        file.unlink()
    assert home.joins(token(owner=OTHER)).network_id == OTHER.network_id


ROTATED = OWNER.rotated(NOW)


@pytest.mark.parametrize(
    ("first", "second", "days", "event"),
    [
        # one that is over does not end a membership that is not
        (token(30), token(60), 31, "token_not_taken"),
        # nor does one that ends earlier
        (token(10), token(20), 0, "token_older_than_membership"),
        # one of a later owner's key wins whenever it ends
        (token(20), token(10, ROTATED), 0, "token_older_than_membership"),
    ],
)
def test_token_of_a_start_does_not_replace_a_better_membership(
    tmp_path: Path, first: str, second: str, days: int, event: str
) -> None:
    Home(tmp_path).joins(first)
    newest = Home(tmp_path).joins(second)
    home = Home(tmp_path)
    assert home.joins(first, days) == newest
    ((told, fields),) = home.log.told
    assert told == event
    if event == "token_older_than_membership":
        assert fields["membership_ends"] == newest.expires_at.isoformat()
    else:
        assert "the join token expired at" in fields["error"]
    assert Home(tmp_path).joins(None) == newest


def test_token_brings_a_revoked_member_back_though_it_ends_earlier(home: Home) -> None:
    long = home.joins(token(20))
    invite = read_invite(own_authority(OWNER.ca_der), long.chain[1]).serial
    home.keep_revocations(OWNER.revoke(NOTHING, invites=[invite], now=NOW))
    assert Home(home.folder).joins(token(10)).expires_at == NOW + 10 * DAY


# files that are damaged, and a disk that is full


def test_damaged_bootstrap_file_is_set_aside_and_the_member_starts_without(home: Home) -> None:
    file = home.folder / "bootstrap.json"
    for content in (b"", b'{"a": 1}', b"\xff\xfe", b"[1]", b'["/ip4/1.2.3.4", null]'):
        file.write_bytes(content)
        assert [home.bootstrap(), home.bootstrap()] == [(), ()]
        assert file.with_name("bootstrap.json.damaged").read_bytes() == content
        event, fields = home.log.told.pop()
        assert (event, fields["file"]) == ("damaged_file_set_aside", "bootstrap.json")
        assert "--bootstrap" in fields["what_to_do"]
        assert home.log.told == []


def test_damaged_list_of_revocations_is_set_aside_once_and_asked_for_anew(home: Home) -> None:
    membership = home.joins(token())
    assert home.revocations(membership) == NOTHING
    newer = OWNER.revoke(NOTHING, peers=[membership.identity.peer_id], now=NOW)
    home.keep_revocations(newer)
    assert home.revocations(membership) == newer
    file = home.folder / "revocations.bin"
    for damage in (file.read_bytes()[:-1], b"other"):
        file.write_bytes(damage)
        assert home.revocations(membership) == NOTHING
        assert not file.exists()
        assert file.with_name("revocations.bin.damaged").read_bytes() == damage
    assert [fields["file"] for _, fields in home.log.told] == ["revocations.bin"] * 2
    home.keep_revocations(newer)  # as the mesh tells it
    assert home.revocations(membership) == newer


def test_damaged_certificate_of_the_network_comes_back_with_the_token(
    home: Home, tmp_path: Path
) -> None:
    text = token()
    first = home.joins(text)
    for name in ("network.pem", "chain.pem"):
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(ConfigError, match=f"{name} is damaged"):
            home.joins(None)
        again = home.joins(text)
        assert again.identity.peer_id == first.identity.peer_id
        assert home.joins(None) == again
    assert (tmp_path / "network.pem.damaged").read_bytes() == b"junk"


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Call it with True to have no file written any more, with False to have all written again."""
    write = private_files._write_beside

    def refuse(*_: object, **__: object) -> Path:
        raise OSError(28, "No space left on device")

    return lambda is_full: monkeypatch.setattr(
        private_files, "_write_beside", refuse if is_full else write
    )


def test_member_starts_on_a_full_disk_and_says_what_is_not_kept(
    tmp_path: Path, full_disk: Callable[[bool], None]
) -> None:
    text = token()
    before = Home(tmp_path)
    member = before.joins(text)
    boot_ns = before.next_boot_ns(1000 * S)
    before.write_status({"role": "node", "state": "stopped"})
    full_disk(True)
    home = Home(tmp_path)
    assert home.joins(text) == member
    assert home.next_boot_ns(1001 * S) == 1001 * S > boot_ns
    assert home.next_boot_ns(1002 * S) == 1002 * S
    newer = OWNER.revoke(NOTHING, invites=["0" * 40], now=NOW)
    assert not home.keep_revocations(newer)
    assert home.disk == "not kept: boot_ns, revocations.bin: No space left on device"
    assert [fields["file"] for _, fields in home.log.told] == ["boot_ns", "revocations.bin"]
    assert home.write_status({"role": "node", "state": "ready"})  # in the place of the old one
    reported = read_status(tmp_path)
    assert (reported["state"], reported["disk"]) == ("ready", home.disk)
    full_disk(False)
    assert home.write_status({"role": "node", "state": "ready"})
    assert home.disk == read_status(tmp_path)["disk"] == ""
    assert home.revocations(member) == newer
    assert (tmp_path / "boot_ns").read_text() == str(1002 * S)
    full_disk(True)
    assert home.joins(token(40)) == member
    assert home.log.told[-1][0] == "token_not_taken"
    assert not Home(tmp_path / "new").write_status({"state": "ready"})


# boot times


def test_each_run_s_boot_time_is_after_that_of_the_run_before(home: Home, tmp_path: Path) -> None:
    for now_ns, boot_ns in (
        (1000 * S, 1000 * S),
        (1000 * S, 1000 * S + 1),
        (2000 * S, 2000 * S),
        (1990 * S, 2000 * S + 1),
        (100 * S, 100 * S),  # a clock that was wrong by more is forgotten
    ):
        assert home.next_boot_ns(now_ns) == boot_ns
    assert Home(tmp_path).next_boot_ns(100 * S) == 100 * S + 1
    for content in (b"", b"soon", b"1e9", b"\xff", b"1" * 5000, b"-5"):
        (tmp_path / "boot_ns").write_bytes(content)
        assert Home(tmp_path).next_boot_ns(7 * S) == 7 * S
        assert (tmp_path / "boot_ns").read_text() == str(7 * S)


def test_clock_set_back_by_more_than_receivers_bear_starts_new_sequence_numbers(home: Home) -> None:
    source = SequenceSource(home.next_boot_ns(5_000 * S))
    assert home.current(source, 4_400 * S) is source
    renewed = home.current(source, 4_399 * S)
    assert renewed.boot_ns == 4_399 * S
    assert home.current(renewed, 4_399 * S + 1) is renewed
    # from now on receivers accept what was sealed before, if somebody repeats it
    newest = home.current(renewed, 4_400 * S)
    assert newest.boot_ns == 5_000 * S + 1
    assert home.current(newest, 5_100 * S) is newest
    assert Home(home.folder).next_boot_ns(4_500 * S) == 5_000 * S + 2


# the status


def test_status_says_whether_its_process_still_runs_and_is_over_when_the_next_one_starts(
    home: Home, tmp_path: Path
) -> None:
    def reported() -> dict[str, Any]:
        status = read_status(tmp_path)
        age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(status.pop("updated_at"))
        assert abs(age) < dt.timedelta(minutes=5)
        assert status.pop("disk") == ""
        return status

    for content in (None, b"", b"{", b"[]", b"5", b"\xff"):
        if content is not None:
            (tmp_path / "status.json").write_bytes(content)
        with pytest.raises(ConfigError, match="--data folder"):
            read_status(tmp_path)
    status = {"state": "ready", "pid": 5, "role": "node"}
    home.write_status(status)
    assert reported() == {**status, "is_running": False}
    home.lock()
    started = {"state": "starting", "pid": os.getpid(), "role": "node", "is_running": True}
    assert reported() | started == reported()
    home.write_status({"is_running": "no", "state": "draining"})
    assert reported() == {"state": "draining", "is_running": True}
    leave(home)
    assert not read_status(tmp_path)["is_running"]
