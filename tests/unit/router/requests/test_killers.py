from __future__ import annotations

from collections.abc import Callable

import pytest
from fleet_fakes import call, fp32

from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.balancing.witnesses import Witness
from capamesh.router.requests.killers import (
    BARRED_S,
    HASHED_BYTES,
    KEPT_S,
    MAX_KILLERS,
    MAX_WITNESSES,
    SAMPLES,
    WHOLE_BYTES,
    Killers,
    digest,
)

A, B, C = (Witness(PeerId(name), "one") for name in "ABC")
BOTH = frozenset({A, B})


def replicas(*which: Witness) -> Callable[[], list[Witness]]:
    return lambda: list(which)


FLEET = replicas(A, B, C)


def target(value: float, version: str = "1") -> InferCall:
    return call("m", version).replace(inputs=(fp32("x", [value, 0]),))


def test_verdict_lasts_a_minute_then_ten_then_an_hour() -> None:
    killers, now_s = Killers(), 0.0
    for lasts_s in (60.0, 600.0, 3600.0):
        killers.note(target(1.0), 2, BOTH, now_s)
        assert killers.is_barred(target(1.0), FLEET, now_s + lasts_s - 1)
        assert not killers.is_barred(target(1.0), FLEET, now_s + lasts_s)
        now_s += lasts_s - 1 if lasts_s == 3600.0 else lasts_s
    killers.note(target(2.0), 2, BOTH, now_s + KEPT_S)
    assert repr(killers) == "Killers(1)"  # the first is forgotten


def test_killers_remembered_are_bounded_and_the_oldest_forgotten_first() -> None:
    killers = Killers()
    for value in range(MAX_KILLERS + 10):
        killers.note(target(float(value)), 2, BOTH, 0.0)
    assert len(killers) == MAX_KILLERS
    assert not killers.is_barred(target(9.0), FLEET, 1.0)
    assert killers.is_barred(target(10.0), FLEET, 1.0)
    assert len(killers._samples) == MAX_KILLERS


@pytest.mark.pure
def test_requests_that_look_like_a_killer_are_looked_at_for_so_many_bytes_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = 0

    def counted(asked: InferCall) -> bytes:
        nonlocal made
        made += 1
        return digest(asked)

    monkeypatch.setattr("capamesh.router.requests.killers.digest", counted)
    data = bytearray(WHOLE_BYTES)
    large = call().replace(inputs=(Tensor("x", Datatype.INT8, (1, len(data)), data),))
    data_alike = bytearray(data)
    data_alike[1] = 1  # is not sampled
    alike = call().replace(inputs=(Tensor("x", Datatype.INT8, (1, len(data)), data_alike),))
    killers = Killers(phase=0)
    killers.note(large, 2, BOTH, 10.0)
    for _ in range(100):
        assert not killers.is_barred(alike, FLEET, 10.5)
    assert made == HASHED_BYTES // WHOLE_BYTES == 8
    assert not killers.is_barred(large, FLEET, 10.9)
    assert killers.is_barred(large, FLEET, 11.1)
    assert made == 9


@pytest.mark.parametrize(
    ("size_bytes", "at", "counts"),
    [
        (WHOLE_BYTES + 100, 0, True),
        (WHOLE_BYTES + 100, WHOLE_BYTES // 2 - 1, True),
        (WHOLE_BYTES + 100, WHOLE_BYTES // 2, False),
        (WHOLE_BYTES + 100, -(WHOLE_BYTES // 2) - 1, False),
        (WHOLE_BYTES + 100, -(WHOLE_BYTES // 2), True),
        (WHOLE_BYTES + 100, -1, True),
        (WHOLE_BYTES, WHOLE_BYTES // 2, True),
    ],
)
def test_large_tensor_counts_by_both_ends_and_a_smaller_one_whole(
    size_bytes: int, at: int, counts: bool
) -> None:
    data = bytearray(size_bytes)
    large = Tensor("x", Datatype.INT8, (1, len(data)), data)
    before = digest(call().replace(inputs=(large,)))
    data[at] = 1
    assert (digest(call().replace(inputs=(large,))) != before) is counts


def test_killer_noted_again_is_not_among_the_first_to_be_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("capamesh.router.requests.killers.MAX_KILLERS", 2)
    killers = Killers()
    for value in (1.0, 2.0, 1.0, 3.0, 2.0):
        killers.note(target(value), 1, BOTH, 10.0)
    assert not killers.is_barred(target(2.0), FLEET, 10.0)  # its first death was forgotten
    killers.note(target(3.0), 1, BOTH, 10.0)
    assert killers.is_barred(target(3.0), FLEET, 10.0)


def alike(last: int) -> InferCall:
    """Return a request that differs from others of its kind in a byte that is not sampled."""
    data = bytes(2 * SAMPLES - 1) + bytes([last])
    return call().replace(inputs=(Tensor("x", Datatype.INT8, (1, len(data)), data),))


def test_killers_that_look_alike_are_barred_and_cleared_each_by_itself() -> None:
    killers = Killers(phase=0)
    for _ in range(2):
        killers.note(alike(1), 2, BOTH, 10.0)
    killers.note(alike(2), 2, BOTH, 11.0)
    assert len(killers._samples) == 1
    assert killers.is_barred(alike(2), FLEET, 11.0 + BARRED_S[0] - 0.5)
    assert not killers.is_barred(
        alike(2), FLEET, 11.0 + BARRED_S[0]
    )  # the other's bar has not ended
    assert not killers.is_barred(alike(3), FLEET, 12.0)
    assert killers.is_barred(alike(1), FLEET, 10.0 + BARRED_S[1] - 0.5)
    killers.answered(alike(2), 12.0)
    assert killers.is_barred(alike(1), FLEET, 12.0)
    killers.answered(alike(1), 12.0)
    assert not killers._samples


def test_witnesses_that_are_remembered_of_a_killer_are_bounded() -> None:
    killers = Killers()
    for number in range(2 * MAX_WITNESSES):
        killers.note(target(1.0), 1, frozenset({Witness(PeerId(f"{number}"), "one")}), 10.0)
    (entry,) = killers._entries.values()
    assert len(entry.witnesses) == MAX_WITNESSES


def test_each_byte_of_a_small_request_tells_it_from_a_killer_without_a_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def small(at: int | None) -> InferCall:
        data = bytearray(SAMPLES)
        if at is not None:
            data[at] = 1
        return call().replace(inputs=(Tensor("x", Datatype.INT8, (1, len(data)), data),))

    killers = Killers(phase=1)
    killers.note(small(None), 2, BOTH, 10.0)
    monkeypatch.setattr("capamesh.router.requests.killers.digest", pytest.fail)
    assert not any(killers.is_barred(small(at), FLEET, 11.0) for at in range(SAMPLES))


def test_death_after_a_verdict_is_one_again_and_not_enough_for_the_next() -> None:
    killers = Killers()
    killers.note(target(1.0), 2, BOTH, 10.0)
    killers.note(target(1.0), 1, BOTH, 20.0)
    assert killers.until_s == 10.0 + BARRED_S[0]
    killers.note(target(1.0), 1, BOTH, 30.0)
    assert killers.until_s == 30.0 + BARRED_S[1]
