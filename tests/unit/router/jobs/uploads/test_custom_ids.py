"""The names of a file's requests, each of which may be there once."""

from __future__ import annotations

import random

from capamesh.router.jobs.uploads.custom_ids import DIGEST_BYTES, CustomIds

SALT = bytes(range(16))


def test_each_name_is_new_once() -> None:
    ids = CustomIds(SALT)
    names = [f"request-{number}" for number in range(20_000)]
    assert all(ids.add(name) for name in names)
    random.Random(7).shuffle(names)
    assert not any(ids.add(name) for name in names[:1000])


def test_names_of_any_length_take_as_much_memory() -> None:
    ids = CustomIds(SALT)
    for number in range(20_000):
        ids.add(f"{number}{'x' * 200}")
    assert 20_000 * DIGEST_BYTES * 3 // 2 <= ids.size_bytes <= 20_000 * DIGEST_BYTES * 3
