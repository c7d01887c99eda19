"""The members of all worlds: one network, whose keys are the same in every run. Pure but for the chance that it seeds."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import random
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from capamesh.protocol.identity import Identity
from capamesh.protocol.network import JoinToken, Membership, NetworkOwner, Role

START = dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC)
"""The time of day at which every world begins."""


@cache
def owner() -> NetworkOwner:
    """Return the owner of the network."""
    with _drawn_by("owner"):
        key = Ed25519PrivateKey.from_private_bytes(_bytes("owner"))
        return NetworkOwner.create("world", START, key)


@cache
def _invite(role: Role) -> JoinToken:
    with _drawn_by(f"invite {role}"):
        return owner().invite(
            role, expires_at=START + dt.timedelta(days=7), bootstrap=(), now=START, members=64
        )


@cache
def member(role: Role, number: int) -> Membership:
    """Return the membership of a router or a node."""
    with _drawn_by(f"{role} {number}"):
        identity = Identity.from_private_bytes(_bytes(f"{role} {number}"))
        return Membership.join(identity, _invite(role), START)


def _bytes(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


@contextmanager
def _drawn_by(name: str) -> Generator[None]:
    """Have certificates' serial numbers drawn by a name, so that they are as long in every run."""
    rng, usual = random.Random(name), os.urandom  # noqa: S311 - they are unique in their network
    os.urandom = rng.randbytes
    try:
        yield
    finally:
        os.urandom = usual
