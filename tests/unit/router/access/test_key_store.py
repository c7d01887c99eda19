"""The file of keys: what it holds, who may read it, and what happens when it is broken."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from capamesh.protocol.errors import ConfigError
from capamesh.router.access import key_store
from capamesh.router.access.key_store import KEPT_HOURS, KeyStore
from capamesh.router.access.keys import KEYS_FILE, Scope, Verb, digest_of, id_of
from capamesh.router.access.quotas import Amount, Usage, UsageRow

SCOPE = Scope(verbs=(Verb.INFER, Verb.READ), models=("digits",), max_priority=7)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "router" / KEYS_FILE)


def test_store_without_a_file_has_no_keys_and_makes_none(store: KeyStore) -> None:
    assert (store.stamp(), store.all()) == (0, [])
    assert not store.path.exists()


def test_key_is_kept_as_its_digest_with_its_scope(store: KeyStore) -> None:
    key, text = store.create("lab", SCOPE, 5.0, 9.0)
    (kept,) = store.all()
    assert (kept.key, kept.created_s, kept.revoked_s) == (key, 5.0, None)
    assert (key.id, key.digest, key.tenant, key.scope) == (
        id_of(text),
        digest_of(text),
        "lab",
        SCOPE,
    )
    assert text.encode() not in store.path.read_bytes()
    assert text[12:].encode() not in store.path.read_bytes()
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_states_of_keys(store: KeyStore) -> None:
    first, _ = store.create("lab", SCOPE, 5.0, 9.0)
    second, _ = store.create("lab", SCOPE, 6.0)
    store.revoke(second.id, 7.0)
    assert [each.state(8.9) for each in store.all()] == ["active", "revoked"]
    assert [each.state(9.0) for each in store.all()] == ["expired", "revoked"]
    assert store.usable() == (store.stamp(), [first])


def test_stamp_is_another_one_after_each_change_and_in_each_file(store: KeyStore) -> None:
    stamps = [store.stamp()]
    for _ in range(2):
        key, _ = store.create("lab", SCOPE, 1.0)
        stamps.append(store.stamp())
        store.revoke(key.id, 2.0)
        stamps.append(store.stamp())
        store.path.unlink()
    assert stamps[0] == 0
    assert len(set(stamps)) == 5


def test_revoking_again_keeps_the_first_time(store: KeyStore) -> None:
    key, _ = store.create("lab", SCOPE, 1.0)
    store.revoke(key.id, 2.0)
    store.revoke(key.id, 3.0)
    assert [each.revoked_s for each in store.all()] == [2.0]
    with pytest.raises(ConfigError, match="there is no key 'nobody'"):
        store.revoke("nobody", 4.0)


def test_full_file_makes_room_of_keys_that_have_ended(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_store, "MAX_KEYS", 2)
    first, _ = store.create("lab", SCOPE, 1.0)
    second, _ = store.create("lab", SCOPE, 2.0, 10.0)
    with pytest.raises(ConfigError, match="has 2 keys, the most that it may"):
        store.create("lab", SCOPE, 3.0)
    third, _ = store.create("lab", SCOPE, 11.0)
    assert [each.key.id for each in store.all()] == [first.id, third.id]
    assert second.id not in {each.key.id for each in store.all()}


def test_file_that_was_just_made_has_no_keys_yet(store: KeyStore) -> None:
    store.path.parent.mkdir()
    store.path.touch()
    assert store.stamp() == 0
    store.create("lab", SCOPE, 1.0)
    assert store.stamp() != 0


def test_broken_file_is_told_with_its_path(store: KeyStore) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(b"no database" * 100)
    for use in (store.stamp, store.all, lambda: store.create("lab", SCOPE, 1.0)):
        with pytest.raises(ConfigError, match=KEYS_FILE):
            use()


def test_newer_file_and_unknown_limit_are_refused(store: KeyStore) -> None:
    key, _ = store.create("lab", SCOPE, 1.0)
    with sqlite3.connect(store.path) as file:
        file.execute("UPDATE keys SET scope = '{\"moons\": 3}'")
    file.close()
    with pytest.raises(ConfigError, match=f"the scope of the key {key.id}.*moons"):
        store.usable()
    with sqlite3.connect(store.path) as file:
        file.execute("PRAGMA user_version = 2")
    file.close()
    with pytest.raises(ConfigError, match="newer version"):
        store.all()


def test_usage_of_several_processes_adds_up(store: KeyStore) -> None:
    store.create("lab", SCOPE, 1.0)
    row, later = UsageRow(100, "lab", "digits"), UsageRow(101, "lab", "digits")
    first = store.write(Usage("1970-01", {row: Amount(1, 2, 3)}, {"a": Amount(1, 2, 3)}))
    assert first == {"a": Amount(1, 2, 3)}
    second = Usage("1970-01", {row: Amount(10, 20, 30), later: Amount(1, 1, 1)}, {"b": Amount(1)})
    assert store.write(second) == {"a": Amount(1, 2, 3), "b": Amount(1, 0, 0)}
    assert store.write(Usage("1970-01", {}, {})) == {"a": Amount(1, 2, 3), "b": Amount(1, 0, 0)}
    assert store.write(Usage("1970-02", {}, {})) == {}
    assert store.usage(100, 101) == {row: Amount(11, 22, 33)}
    assert store.usage(0, 1000) == {row: Amount(11, 22, 33), later: Amount(1, 1, 1)}
    assert KeyStore(store.path.with_name("none.db")).usage(0, 1000) == {}


def test_usage_is_forgotten_after_its_time_and_months_after_theirs(store: KeyStore) -> None:
    store.create("lab", SCOPE, 1.0)
    old, new = UsageRow(5, "lab", "m"), UsageRow(5 + KEPT_HOURS, "lab", "m")
    store.write(Usage("1970-01", {old: Amount(1)}, {"a": Amount(1)}))
    store.write(Usage("1971-02", {new: Amount(1)}, {}))
    assert set(store.usage(0, 10**6)) == {old, new}
    newer = UsageRow(6 + KEPT_HOURS, "lab", "m")
    store.write(Usage("1971-02", {newer: Amount(1)}, {}))
    assert set(store.usage(0, 10**6)) == {new, newer}
    assert store.write(Usage("1970-01", {}, {})) == {}


def test_folder_that_cannot_be_looked_into_is_told(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exists(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", exists)
    for use in (store.stamp, store.all, lambda: store.usage(0, 1)):
        with pytest.raises(ConfigError, match=r"cannot look for .*: Permission denied"):
            use()
