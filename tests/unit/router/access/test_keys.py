"""Keys of clients: their form, what they may do, their file, and what a router does while it cannot read them."""

from __future__ import annotations

import json
import math
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from capamesh.protocol.errors import CapameshError, ConfigError, Forbidden, Unauthenticated
from capamesh.protocol.schema import Mismatch, read
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_store import KeyStore
from capamesh.router.access.keys import (
    KEYS_FILE,
    TRUSTED_S,
    Key,
    KeyRing,
    Scope,
    Verb,
    check_model,
    check_verb,
    digest_of,
    id_of,
    new_text,
)
from capamesh.router.access.usage_batch import Amount, Usage, UsageBatch, UsageRow

OTHER = "cm_aaaaaaaa_" + 32 * "0"


def made(
    scope: Scope | None = None, *, letter: str = "k", expires_s: float | None = None
) -> tuple[Key, str]:
    text = new_text(lambda _: letter)
    return Key(id_of(text), digest_of(text), "lab", scope or Scope(), expires_s), text


def code_of(ring: KeyRing, text: str) -> str:
    try:
        ring.find(text)
    except CapameshError as error:
        return error.code
    return "taken"


def test_text_of_another_form_is_no_key() -> None:
    ring = KeyRing()
    ring.take([made()[0]], 0.0, 0.0)
    odd = (OTHER.upper(), "xx" + OTHER[2:], OTHER[:-1] + "é", OTHER + "\n")
    for text in ("", "cm_", OTHER[:-1], OTHER + "0", *odd):
        assert (id_of(text), code_of(ring, text)) == ("", "unauthenticated")


def test_right_id_with_another_secret_is_unknown() -> None:
    ring, (key, text) = KeyRing(), made()
    ring.take([key], 0.0, 0.0)
    with pytest.raises(Unauthenticated) as caught:
        ring.find(text[:-1] + "0")
    assert key.id not in caught.value.message


def test_key_ends_at_its_time() -> None:
    ring, (key, text) = KeyRing(), made(expires_s=100.0)
    told: list[float] = []
    ring.on_change(lambda: told.append(0))
    ring.take([key], 0.0, 99.0)
    ring.tick(99.9)
    assert (code_of(ring, text), len(told)) == ("taken", 1)
    ring.tick(100.0)
    assert (code_of(ring, text), len(told)) == ("unauthenticated", 2)
    ring.tick(1000.0)
    assert len(told) == 2


def test_known_keys_go_on_for_ten_minutes_without_the_store_and_unknown_ones_cannot_be_judged() -> (
    None
):
    ring, (key, text) = KeyRing(), made()
    told: list[int] = []
    ring.on_change(lambda: told.append(0))
    ring.take([key], 0.0, 0.0)
    ring.failed(1.0)
    ring.failed(2.0)
    assert len(told) == 2
    assert (code_of(ring, text), code_of(ring, OTHER)) == ("taken", "keys_unavailable")
    ring.failed(TRUSTED_S)
    assert code_of(ring, text) == "taken"
    ring.failed(math.nextafter(TRUSTED_S, math.inf))
    assert (code_of(ring, text), len(told)) == ("keys_unavailable", 3)
    ring.unchanged(TRUSTED_S + 5)
    assert (code_of(ring, text), code_of(ring, OTHER), len(told)) == ("taken", "unauthenticated", 4)


def test_verbs_and_models_of_a_key() -> None:
    key, _ = made(Scope(verbs=(Verb.INFER,), models=("digits", "face*")))
    names = ("digits", "digits2", "face", "faces", "iris", "")
    assert [name for name in names if key.may_run(name)] == ["digits", "face", "faces"]
    check_verb(key, Verb.READ, Verb.INFER)
    with pytest.raises(Forbidden, match="may do infer, and this takes read or metrics"):
        check_verb(key, Verb.READ, Verb.METRICS)
    with pytest.raises(Forbidden) as caught:
        check_model(key, "iris")
    assert not {"iris", "digits", "face"} & set(caught.value.message.split())
    reader, _ = made(Scope(verbs=(Verb.READ,)))
    with pytest.raises(Forbidden):
        check_model(reader, "digits")
    assert made(Scope())[0].may_run("any")


def test_scope_that_is_none_is_refused() -> None:
    odd = ({"verbs": []}, {"verbs": ["fly"]}, {"models": [""]}, {"models": ["m"] * 257})
    for values in (*odd, {"max_priority": 0}, {"max_priority": 256}, {"rate": 3}):
        with pytest.raises(Mismatch):
            read(values, Scope)


SCOPE = Scope(verbs=(Verb.INFER, Verb.READ), models=("digits",), max_priority=7)
FIRST_FORMAT = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL, tenant TEXT NOT NULL, scope TEXT NOT NULL,
    created_s REAL NOT NULL, expires_s REAL, revoked_s REAL
);
CREATE TABLE usage (
    hour INTEGER NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL,
    requests INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (hour, tenant, model)
);
CREATE TABLE months (
    month TEXT NOT NULL, id TEXT NOT NULL,
    requests INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (month, id)
);
CREATE TABLE changes (stamp INTEGER NOT NULL);
INSERT INTO changes (stamp) VALUES (77);
PRAGMA user_version = 1;
"""
"""A file of the versions before PostgreSQL."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "router" / KEYS_FILE


@pytest.fixture
def store(path: Path) -> KeyStore:
    return KeyStore(DatabaseLocation(path))


def test_file_is_made_with_the_first_key_has_no_secret_and_is_its_owners_alone(
    store: KeyStore, path: Path
) -> None:
    assert (store.stamp(), store.all(), store.usage(0, 9)) == (0, [], {})
    assert not path.exists()
    _, text = store.create("lab", SCOPE, 5.0, 9.0)
    assert text.encode() not in path.read_bytes()
    assert text[12:].encode() not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_stamp_is_another_one_in_each_file(store: KeyStore, path: Path) -> None:
    stamps: set[int] = set()
    for _ in range(2):
        store.create("lab", SCOPE, 1.0)
        stamps.add(store.stamp())
        path.unlink()
    assert len(stamps) == 2
    assert store.stamp() == 0


def test_newer_file_and_unknown_limit_are_refused(store: KeyStore, path: Path) -> None:
    key, _ = store.create("lab", SCOPE, 1.0)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE keys SET scope = '{\"moons\": 3}'")
    with pytest.raises(ConfigError, match=f"the scope of the key {key.id}.*moons"):
        store.usable()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("PRAGMA user_version = 2")
    with pytest.raises(ConfigError, match="newer version"):
        store.all()


def test_file_of_an_earlier_version_goes_on(store: KeyStore, path: Path) -> None:
    path.parent.mkdir()
    text = "cm_01234567_" + 32 * "a"
    scope = {"verbs": ["infer"], "models": ["digits"], "max_priority": 7, "rows_per_month": 9}
    with closing(sqlite3.connect(path)) as file, file:
        file.executescript(FIRST_FORMAT)
        file.execute(
            "INSERT INTO keys VALUES (?, ?, 'lab', ?, 5.0, NULL, NULL)",
            (id_of(text), digest_of(text), json.dumps(scope)),
        )
        file.execute("INSERT INTO months VALUES ('2026-11', ?, 1, 2, 3)", (id_of(text),))
    limits = Scope(models=("digits",), max_priority=7, rows_per_month=9)
    key = Key(id_of(text), digest_of(text), "lab", limits)
    assert store.usable() == (77, [key])
    row = UsageRow(490_000, "lab", "digits")
    batch = UsageBatch(Usage("2026-11", {row: Amount(1, 1, 1)}, {key.id: Amount(1, 1, 1)}), "w", 1)
    for _ in range(2):  # counted once
        assert store.write(batch).totals == {key.id: Amount(2, 3, 4)}
    assert store.usage(0, 10**6) == {row: Amount(1, 1, 1)}
    store.revoke(key.id, 6.0)
    assert store.stamp() == 78
    assert store.usable() == (78, [])


def test_key_without_a_newer_limit_is_read_by_earlier_versions(store: KeyStore, path: Path) -> None:
    store.create("lab", Scope(), 1.0)
    store.create("lab", Scope(max_price=0.0, regions=("eu",)), 2.0)
    with closing(sqlite3.connect(path)) as file:
        rows = file.execute("SELECT scope FROM keys ORDER BY created_s").fetchall()
    plain, limited = [json.loads(scope) for (scope,) in rows]
    assert set(limited) - set(plain) == {"max_price", "regions"}
    assert [each.key.scope for each in store.all()][1] == Scope(max_price=0.0, regions=("eu",))
