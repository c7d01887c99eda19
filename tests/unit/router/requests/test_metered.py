"""A call with a key: what it is let in for, and that it is settled however it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fleet_fakes import Fleet, call, offer

from capamesh.protocol.errors import NoEndpoint, TooManyRequests
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import Datatype, Tensor, join_elements
from capamesh.router.access.keys import OPERATOR, Key, Scope
from capamesh.router.access.quotas import Quotas
from capamesh.router.access.usage_batch import Amount
from capamesh.router.requests.call import NO_OPTIONS, Call, Handle, Responder
from capamesh.router.requests.generation.asked import MOST_CHOICES
from capamesh.router.requests.generation.parts import TEMPLATE_TOKENS
from capamesh.router.requests.metered import Meter

pytestmark = pytest.mark.pure  # its pipeline is made up

KEY = Key("k", b"", "lab", Scope(concurrency=1))
ANSWER: Any = SimpleNamespace(
    answer=SimpleNamespace(outputs=[SimpleNamespace(data=b"12345"), SimpleNamespace(data=b"6")])
)
PART: Any = SimpleNamespace(outcome=ANSWER)


class Metering:
    """A meter above a pipeline that is made up: it keeps the responder of the last call, and what that is told."""

    def __init__(self) -> None:
        fleet = Fleet()
        fleet.node("A", models=(offer("m"),))
        self.told: list[object] = []
        self.handle: Any = SimpleNamespace(picker="picker", cancel=lambda: None)
        self.responder: Any = None
        self.quotas = Quotas()
        self.quotas.tick(0.0, [KEY])
        self.begin: Callable[[], object] = lambda: None
        """What the pipeline does at the start of a call."""
        pipeline: Any = SimpleNamespace(start=self._start)
        self.meter = Meter(self.quotas, pipeline, fleet.view, clock=lambda: 0.0)

    def _start(self, _: Call, responder: Responder) -> Any:
        self.responder = responder
        self.begin()
        return self.handle

    def start(self, key: Key = KEY, request: InferCall | None = None) -> Handle:
        tell = self.told.append
        client: Any = SimpleNamespace(complete=tell, take_part=tell, fail=tell)
        return self.meter.start(Call(request or call(), NO_OPTIONS, 30.0), key, client)

    @property
    def used(self) -> list[Amount]:
        return list(self.quotas.unwritten().rows.values())

    @property
    def is_free(self) -> bool:
        try:
            self.quotas.admit(KEY, "m", 1, 0, 0.0).settle()
        except TooManyRequests:
            return False
        return True


@pytest.fixture
async def metering() -> Metering:
    return Metering()


@pytest.mark.parametrize("parts", [0, 2])
@pytest.mark.parametrize("end", ["answer", "error", "cancel"])
async def test_answer_and_its_parts_are_passed_on_and_counted_however_it_ends(
    metering: Metering, parts: int, end: str
) -> None:
    handle = metering.start()
    assert (handle.picker, metering.is_free, metering.used) == ("picker", False, [])
    gone = NoEndpoint("gone")
    for _ in range(parts):
        metering.responder.take_part(PART)
    match end:
        case "answer":
            metering.responder.complete(ANSWER)
        case "error":
            metering.responder.fail(gone)
        case _:
            handle.cancel()
    ends = {"answer": [ANSWER], "error": [gone], "cancel": []}
    assert metering.told == [PART] * parts + ends[end]
    size_bytes = sum(len(tensor.data) for tensor in call().inputs)
    answers = parts + (end == "answer")
    wanted = [Amount(1, 1, size_bytes + answers * 6)] if answers else []
    assert (metering.is_free, metering.used) == (True, wanted)


async def test_call_that_ends_before_it_has_begun_is_settled_once(metering: Metering) -> None:
    metering.begin = lambda: metering.responder.fail(NoEndpoint("gone"))
    handle = metering.start()
    assert handle.picker is None
    handle.cancel()
    assert metering.is_free


async def test_call_that_is_refused_is_settled(metering: Metering) -> None:
    def refuse() -> None:
        raise NoEndpoint("nobody")

    metering.begin = refuse
    with pytest.raises(NoEndpoint):
        metering.start()
    assert (metering.is_free, metering.used) == (True, [])


async def test_operator_is_not_metered(metering: Metering) -> None:
    assert metering.start(OPERATOR) is metering.handle
    metering.responder.complete(ANSWER)
    assert metering.used == []


def generated(*pieces: dict[str, Any]) -> Any:
    """Return what a node has generated, as an outcome."""
    data = join_elements([json.dumps(pieces).encode()])
    answer = SimpleNamespace(outputs=[Tensor("parts", Datatype.BYTES, (1,), data)])
    return SimpleNamespace(answer=answer)


def asked_texts(size_bytes: int) -> InferCall:
    data = join_elements([b"x" * (size_bytes - 4)])
    given = Tensor("generation", Datatype.BYTES, (1,), data)
    return InferCall(ModelName("m"), ModelVersion(""), (given,), ("parts",))


@pytest.mark.parametrize("is_broken_off", [False, True])
async def test_tokens_of_a_generated_answer_are_paid_for(
    metering: Metering, is_broken_off: bool
) -> None:
    metering.start(request=asked_texts(400))
    responder = metering.responder
    responder.take_part(SimpleNamespace(outcome=generated({"t": [1, 2, 3], "x": "a b c"})))
    if is_broken_off:
        responder.fail(NoEndpoint("gone"))
        assert [each.rows for each in metering.used] == [400 // 4 + 3]
    else:
        responder.complete(generated({"t": [4], "x": "d", "f": "stop", "u": [50, 0, 4]}))
        assert [each.rows for each in metering.used] == [54]
    assert metering.is_free


async def test_liar_about_tokens_is_paid_for_what_can_have_been(metering: Metering) -> None:
    metering.start(request=asked_texts(400))
    told = {"t": [4], "x": "d", "f": "stop", "u": [10**9, 0, 10**9]}
    metering.responder.complete(generated(told))
    (amount,) = metering.used
    assert amount.rows <= 400 + TEMPLATE_TOKENS + 1 + MOST_CHOICES
