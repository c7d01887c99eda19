"""The names of a file's requests, each of which may be there once."""

from __future__ import annotations

from capamesh.router.jobs.uploads import custom_ids
from capamesh.router.jobs.uploads.custom_ids import DIGEST_BYTES, CustomIds

SALT = bytes(range(16))


def test_names_of_any_length_take_as_much_memory() -> None:
    ids = CustomIds(SALT)
    for number in range(20_000):
        ids.add(f"{number}{'x' * 200}")
    assert 20_000 * DIGEST_BYTES * 3 // 2 <= ids.size_bytes <= 20_000 * DIGEST_BYTES * 3


def test_names_that_fall_together_are_told_apart() -> None:
    table = bytearray(4 * DIGEST_BYTES)
    digests = [bytes([9]) + bytes(14) + bytes([last]) for last in range(1, 4)]
    put = custom_ids._put  # pyright: ignore[reportPrivateUsage]
    assert all(put(table, digest) for digest in digests)
    assert not any(put(table, digest) for digest in digests)
