from __future__ import annotations

import pytest
from fleet_fakes import call, fp32

from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.resilience.killers import KEPT_S, MAX_KILLERS, WHOLE_BYTES, Killers, digest


def asking(value: float, version: str = "1") -> InferCall:
    return call("m", version)._replace(inputs=(fp32("x", [value, 0]),))


def test_only_the_very_request_is_barred() -> None:
    killers = Killers()
    assert not killers
    killers.note(asking(1.0), 2, 10.0)
    assert len(killers) == 1
    assert killers.is_barred(asking(1.0), 11.0)
    others = [
        asking(2.0),
        asking(1.0, "2"),
        asking(1.0)._replace(model="n"),
        asking(1.0)._replace(inputs=(fp32("z", [1.0, 0]),)),
        asking(1.0)._replace(inputs=(Tensor("x", Datatype.FP32, (2, 1), fp32("x", [1, 0]).data),)),
        asking(1.0)._replace(inputs=(fp32("x", [1, 0, 0]),)),
    ]
    assert not any(killers.is_barred(each, 11.0) for each in others)


def test_one_death_is_not_enough_and_two_of_the_same_are() -> None:
    killers = Killers()
    killers.note(asking(1.0), 1, 10.0)
    assert not killers.is_barred(asking(1.0), 10.0)
    killers.note(asking(1.0), 1, 20.0)
    assert killers.is_barred(asking(1.0), 20.0)


def test_a_verdict_lasts_a_minute_then_ten_then_an_hour() -> None:
    killers, now_s = Killers(), 0.0
    for lasts_s in (60.0, 600.0, 3600.0):
        killers.note(asking(1.0), 2, now_s)
        assert killers.is_barred(asking(1.0), now_s + lasts_s - 1)
        assert not killers.is_barred(asking(1.0), now_s + lasts_s)
        now_s += lasts_s - 1 if lasts_s == 3600.0 else lasts_s
    killers.note(asking(2.0), 2, now_s + KEPT_S)
    assert repr(killers) == "Killers(1)"  # the first is forgotten


def test_those_remembered_are_bounded_and_the_oldest_forgotten_first() -> None:
    killers = Killers()
    for value in range(MAX_KILLERS + 10):
        killers.note(asking(float(value)), 2, 0.0)
    assert len(killers) == MAX_KILLERS
    assert not killers.is_barred(asking(9.0), 1.0)
    assert killers.is_barred(asking(10.0), 1.0)
    assert killers._shapes == {("m", 8): MAX_KILLERS}


@pytest.mark.parametrize("at", [0, WHOLE_BYTES // 2 - 1, -1])
def test_of_a_large_tensor_both_ends_and_its_size_count(at: int) -> None:
    data = bytearray(WHOLE_BYTES + 100)
    large = Tensor("x", Datatype.INT8, (1, len(data)), data)
    before = digest(call()._replace(inputs=(large,)))
    data[at] = 1
    assert digest(call()._replace(inputs=(large,))) != before
