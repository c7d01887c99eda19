"""The names of a file's requests, each of which may be there once."""

from __future__ import annotations

from capamesh.router.jobs.uploads.custom_ids import DIGEST_BYTES, CustomIds

SALT = bytes(range(16))


def test_names_of_any_length_take_as_much_memory() -> None:
    ids = CustomIds(SALT)
    for number in range(20_000):
        ids.add(f"{number}{'x' * 200}")
    assert 20_000 * DIGEST_BYTES * 3 // 2 <= ids.size_bytes <= 20_000 * DIGEST_BYTES * 3
