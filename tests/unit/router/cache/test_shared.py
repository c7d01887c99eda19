"""Answers that routers share: what one has written another reads, and nobody else's is an answer."""

from __future__ import annotations

import random

import pytest
from fleet_fakes import fp32

from capamesh.protocol.ids import ModelVersion, PeerId
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype, Tensor
from capamesh.router.cache.shared import (
    MOST_BYTES,
    Seal,
    Shared,
    SharedAnswers,
    SharedStore,
    Then,
)

KEY = bytes(range(32))
PEER = PeerId("12D3KooWpeer")
ANSWER = InferAnswer(ModelVersion("1"), (fp32("y", [1, 2]), fp32("z", [3, 4])), 5, 6, LoadReport(1))
SEAL = Seal(b"s" * 32, "net")


def value() -> bytes:
    made = SEAL.written(KEY, ANSWER, PEER, 1000.0)
    assert made is not None
    return made


def of_bytes(size_bytes: int) -> InferAnswer:
    return ANSWER.replace(outputs=(Tensor("y", Datatype.UINT8, (size_bytes,), bytes(size_bytes)),))


class Held(SharedStore):
    """A store in which the test sees what is kept, and which answers at once."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.is_away = False

    def get(self, name: bytes, then: Then) -> bool:
        if not self.is_away:
            then(self.values.get(name))
        return not self.is_away

    def put(self, name: bytes, value: bytes, ttl_s: float) -> None:
        del ttl_s
        self.values[name] = value


class Router:
    """One router's end of the store, at a time of day that the test says."""

    def __init__(self, store: Held, seal: Seal = SEAL) -> None:
        self.now_s = 1000.0
        self.answers = SharedAnswers(
            store, seal, limits=DEFAULT_LIMITS, wall_clock=lambda: self.now_s
        )

    def found(self) -> tuple[Shared | None, float] | None:
        """Return what a look-up tells; None: it was not made."""
        told: list[tuple[Shared | None, float]] = []
        is_made = self.answers.look_up(KEY, lambda *found: told.append(found))
        assert len(told) == is_made
        return told[0] if told else None


@pytest.mark.parametrize("other", [Seal(b"t" * 32, "net"), Seal(b"s" * 32, "other")])
def test_value_of_another_secret_or_network_is_no_answer_and_has_another_name(other: Seal) -> None:
    assert other.read(KEY, value(), DEFAULT_LIMITS) is None
    assert other.name_of(KEY) != SEAL.name_of(KEY)


def test_every_changed_bit_is_seen() -> None:
    good = value()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        assert SEAL.read(KEY, bytes(bad), DEFAULT_LIMITS) is None, at
    for end in range(len(good)):
        assert SEAL.read(KEY, good[:end], DEFAULT_LIMITS) is None
    assert SEAL.read(KEY, good + b"\0", DEFAULT_LIMITS) is None


@pytest.mark.parametrize("seed", range(5))
def test_junk_under_the_seal_is_no_answer_and_raises_nothing(seed: int) -> None:
    """As a router of another version may have written it."""
    rng = random.Random(seed)
    good = value()[32:]
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        entry = bytes(bad[: rng.randrange(len(bad) + 1)])
        found = SEAL.read(KEY, SEAL._sealed(entry) + entry, DEFAULT_LIMITS)
        if found is not None:
            for tensor in found.answer.outputs:
                tensor.to_numpy()


def test_answer_that_one_router_keeps_is_found_by_another_with_its_age() -> None:
    store = Held()
    one, other = Router(store), Router(store)
    assert one.found() == (None, 0.0)
    one.answers.keep(KEY, ANSWER, PEER, 60.0)
    one.answers.keep(bytes(32), of_bytes(MOST_BYTES), PEER, 60.0)
    assert list(store.values) == [SEAL.name_of(KEY)]
    other.now_s = 1007.5
    found = other.found()
    assert found is not None
    assert (found[0] is not None, found[1], other.answers.refused) == (True, 7.5, 0)
    store.is_away = True
    assert other.found() is None


def test_value_that_others_have_written_is_counted_and_no_answer() -> None:
    store = Held()
    router, stranger = Router(store), Router(store, Seal(b"x" * 32, "net"))
    store.values[SEAL.name_of(KEY)] = b"junk"
    assert (router.found(), router.answers.refused) == ((None, 0.0), 1)
    stranger.answers.keep(KEY, ANSWER, PEER, 60.0)
    (theirs,) = [each for name, each in store.values.items() if name != SEAL.name_of(KEY)]
    store.values[SEAL.name_of(KEY)] = theirs
    assert (router.found(), router.answers.refused) == ((None, 0.0), 2)
