"""Stores of keys in SQLite and in PostgreSQL: both do the same."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from capamesh.protocol.errors import ConfigError
from capamesh.router.access import key_databases, key_store
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_store import KEPT_HOURS, WRITERS_KEPT_S, KeyStore
from capamesh.router.access.keys import Scope, Verb, digest_of, id_of
from capamesh.router.access.usage_batch import Amount, Usage, UsageBatch, UsageRow

SCOPE = Scope(verbs=(Verb.INFER, Verb.READ), models=("digits",), max_priority=7, regions=("eu",))
NOTHING = UsageBatch(Usage("1970-01", {}, {}))


def batch(number: int, *rows: UsageRow, at_s: float = 0.0, writer: str = "a") -> UsageBatch:
    """Return the usage of one request in each place, by the key `k`."""
    used = dict.fromkeys(rows, Amount(1, 2, 3))
    return UsageBatch(Usage("1970-01", used, {"k": Amount(1, 2, 3)}), writer, number, at_s)


def test_store_that_nobody_has_made_has_no_keys(
    store: KeyStore, location: DatabaseLocation
) -> None:
    assert (store.stamp(), store.all(), store.usage(0, 9)) == (0, [], {})
    with pytest.raises(ConfigError, match="there is no key 'nobody'") as caught:
        store.revoke("nobody", 1.0)
    assert str(location) in caught.value.message
    assert "pass" not in caught.value.message
    clocked = KeyStore(location, clock=lambda: 5.0)
    if location.file is not None:
        assert clocked.now_s() == 5.0
    else:  # the store's
        assert abs(clocked.now_s() - time.time()) < 3600.0


def test_key_is_kept_as_its_digest_with_its_scope_and_state(
    store: KeyStore, location: DatabaseLocation
) -> None:
    key, text = store.create("lab", SCOPE, 5.0, 9.0)
    told = (key.id, key.digest, key.tenant, key.scope)
    assert told == (id_of(text), digest_of(text), "lab", SCOPE)
    for each in (store, KeyStore(location)):
        (kept,) = each.all()
        assert (kept.key, kept.created_s, kept.revoked_s) == (key, 5.0, None)
    stamps = [0, store.stamp()]
    second, _ = store.create("lab", SCOPE, 6.0)
    stamps.append(store.stamp())
    store.revoke(second.id, 7.0)
    stamps.append(store.stamp())
    store.revoke(second.id, 8.0)  # the first time stays
    assert [each.revoked_s for each in store.all()] == [None, 7.0]
    assert [each.state(8.9) for each in store.all()] == ["active", "revoked"]
    assert [each.state(9.0) for each in store.all()] == ["expired", "revoked"]
    assert store.usable() == (store.stamp(), [key])
    assert len(set(stamps)) == 4  # another one after each change


def test_keys_that_are_made_at_the_same_time_are_all_kept(
    location: DatabaseLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BUSY_S", "STATEMENT_S"):  # each waits for all others, however busy the machine
        monkeypatch.setattr(key_databases, name, 120)
    stores = [KeyStore(location) for _ in range(4)]
    with ThreadPoolExecutor(len(stores)) as threads:
        made = threads.map(
            lambda each: [each.create("lab", SCOPE, 1.0)[0].id for _ in range(3)], stores
        )
        ids = {key_id for each in made for key_id in each}
    assert len(ids) == 12
    assert {each.key.id for each in stores[0].all()} == ids


def test_full_store_makes_room_of_keys_that_have_ended(
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


def test_usage_of_several_processes_adds_up(store: KeyStore) -> None:
    store.create("lab", SCOPE, 1.0)
    row, later = UsageRow(100, "lab", "digits"), UsageRow(101, "lab", "digits")
    assert store.write(batch(1, row)).totals == {"k": Amount(1, 2, 3)}
    assert store.write(batch(1, row, later, writer="b")).totals == {"k": Amount(2, 4, 6)}
    assert store.write(NOTHING).totals == {"k": Amount(2, 4, 6)}
    assert store.write(UsageBatch(Usage("1970-02", {}, {}))).totals == {}
    assert store.usage(100, 101) == {row: Amount(2, 4, 6)}
    assert store.usage(0, 1000) == {row: Amount(2, 4, 6), later: Amount(1, 2, 3)}


def test_processes_that_use_a_key_are_counted_for_ten_seconds(store: KeyStore) -> None:
    store.create("lab", SCOPE, 1.0)
    row = UsageRow(100, "lab", "digits")
    assert store.write(batch(1, row, at_s=50.0)).others == {}
    assert store.write(batch(1, row, at_s=52.0, writer="b")).others == {"k": 1}
    assert store.write(batch(1, row, at_s=59.0, writer="c")).others == {"k": 2}
    idle = UsageBatch(Usage("1970-01", {}, {}), "a", 2, 60.5)
    assert store.write(idle).others == {"k": 2}
    assert store.write(batch(2, row, at_s=60.5, writer="b")).others == {"k": 1}


def test_batch_that_is_sent_again_counts_once_however_large(store: KeyStore) -> None:
    store.create("lab", SCOPE, 1.0)
    row, other, much = UsageRow(100, "lab", "digits"), UsageRow(10**7, "lab", "m"), 2**60
    for number in (1, 1, 2, 1, 2):
        store.write(batch(number, row))
    assert store.usage(0, 1000) == {row: Amount(2, 4, 6)}
    assert store.write(NOTHING).totals == {"k": Amount(2, 4, 6)}
    large = Amount(2**40, 2**50, much)
    store.write(UsageBatch(Usage("1970-01", {other: large}, {"k": large})))
    assert store.usage(10**6, 10**8) == {other: large}


def test_usage_that_is_too_old_is_forgotten(store: KeyStore) -> None:
    store.create("lab", SCOPE, 1.0)
    hours = (5, 5 + KEPT_HOURS, 6 + KEPT_HOURS)
    rows = [UsageRow(hour, "lab", "m") for hour in hours]
    for number, row in enumerate(rows[:2]):
        store.write(batch(number, row))
    assert [*store.usage(0, 10**6)] == rows[:2]
    store.write(batch(2, rows[2]))
    assert [*store.usage(0, 10**6)] == rows[1:]
    assert store.write(NOTHING).totals == {"k": Amount(3, 6, 9)}  # its month is not too old yet
    store.write(batch(3, UsageRow(31 * 24 + KEPT_HOURS, "lab", "m"), at_s=0.0))
    assert store.write(NOTHING).totals == {}


def test_process_is_forgotten_a_day_after_its_last_batch(store: KeyStore) -> None:
    store.create("lab", SCOPE, 1.0)
    first, second = UsageRow(100, "lab", "m"), UsageRow(200, "lab", "m")
    store.write(batch(1, first, at_s=5.0))
    store.write(batch(1, second, at_s=5.0 + WRITERS_KEPT_S, writer="b"))
    store.write(batch(1, first, at_s=5.0))  # it is still known
    assert store.usage(0, 150) == {first: Amount(1, 2, 3)}
    store.write(batch(2, UsageRow(300, "lab", "m"), at_s=6.0 + WRITERS_KEPT_S, writer="b"))
    store.write(batch(1, first, at_s=5.0))
    assert store.usage(0, 150) == {first: Amount(2, 4, 6)}
