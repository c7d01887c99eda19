"""A sequence of requests: its id, first and last request, and what loses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from capamesh.client import AsyncClient, Client
from capamesh.client.answers import Outputs
from capamesh.client.asks import CutOff, Unreachable
from capamesh.client.sequences import ID_BITS
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    LinkLost,
    NoEndpoint,
    Overloaded,
    RunFailed,
    SequenceLost,
    SequenceUnknown,
)


class Recording:
    """Stands for what a client's `infer` does: notes the arguments, and answers or fails as it was told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.failures: list[BaseException | None] = []

    def infer(self, model: str, inputs: object, **options: Any) -> Outputs:
        self.asked.append({"model": model, "inputs": inputs, **options})
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return Outputs({}, version="3")

    async def infer_soon(self, model: str, inputs: object, **options: Any) -> Outputs:
        await asyncio.sleep(0)
        return self.infer(model, inputs, **options)

    @property
    def parameters(self) -> list[dict[str, Any]]:
        return [each["parameters"] for each in self.asked]


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    made = Recording()
    monkeypatch.setattr(Client, "infer", lambda _, *args, **kwargs: made.infer(*args, **kwargs))
    monkeypatch.setattr(
        AsyncClient, "infer", lambda _, *args, **kwargs: made.infer_soon(*args, **kwargs)
    )
    return made


def test_first_request_starts_and_the_last_ends(recording: Recording) -> None:
    with Client().sequence("vad", id="call-7", timeout_s=2, priority=1, outputs=["p"]) as sequence:
        assert sequence.id == "call-7"
        for inputs, is_last in (({"x": 1}, False), ({"x": 2}, False), ({"x": 3}, True)):
            sequence.infer(inputs, is_last=is_last)
    assert recording.parameters == [
        {"sequence_id": "call-7", "sequence_start": True},
        {"sequence_id": "call-7"},
        {"sequence_id": "call-7", "sequence_end": True},
    ]
    assert [each["version"] for each in recording.asked] == ["", "3", "3"]
    Client().sequence("vad", version="2").infer({})
    assert recording.asked[-1]["version"] == "2"
    first = recording.asked[0]
    assert (first["model"], first["inputs"]) == ("vad", {"x": 1})
    assert (first["timeout_s"], first["priority"], first["outputs"]) == (2, 1, ["p"])


def test_each_step_is_sent_and_the_last_ends(recording: Recording) -> None:
    found = list(Client().sequence("vad", id=7).infer_each({"x": at} for at in range(3)))
    assert len(found) == 3
    assert [each["inputs"] for each in recording.asked] == [{"x": 0}, {"x": 1}, {"x": 2}]
    assert [set(each) - {"sequence_id"} for each in recording.parameters] == [
        {"sequence_start"},
        set(),
        {"sequence_end"},
    ]
    list(Client().sequence("vad", id=8).infer_each([{}]))
    single = {"sequence_id": 8, "sequence_start": True, "sequence_end": True}
    assert recording.parameters[3:] == [single]
    assert list(Client().sequence("vad").infer_each([])) == []
    assert len(recording.asked) == 4


def test_sequence_that_has_ended_takes_nothing_more(recording: Recording) -> None:
    with Client().sequence("vad", id=7) as sequence:
        sequence.infer({}, is_last=True)
        with pytest.raises(InvalidRequest, match="sequence 7 has ended; begin another"):
            sequence.infer({})
    with Client().sequence("vad", id=8) as left:
        left.infer({})
    with pytest.raises(InvalidRequest, match="sequence 8 has ended"):
        left.infer({})
    assert len(recording.asked) == 2


@pytest.mark.parametrize(
    "error",
    [Overloaded("x"), NoEndpoint("x"), Unreachable("x"), InvalidRequest("x")],
    ids=lambda error: error.code,
)
def test_request_that_did_not_run_may_be_sent_again(
    recording: Recording, error: CapameshError
) -> None:
    sequence = Client().sequence("vad", id=7)
    sequence.infer({})
    recording.failures = [error]
    with pytest.raises(type(error)):
        sequence.infer({})
    sequence.infer({})
    assert recording.parameters[2] == {"sequence_id": 7}


@pytest.mark.parametrize(
    "error",
    [
        CutOff("x"),
        LinkLost("x"),
        DeadlineExceeded("x"),
        RunFailed("x"),
        SequenceUnknown("x"),
        SequenceLost("x"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_request_that_may_have_run_loses_the_sequence_unless_it_was_the_first(
    recording: Recording, error: BaseException
) -> None:
    sequence = Client().sequence("vad", id=7)
    recording.failures = [error, None, error]
    with pytest.raises(type(error)):
        sequence.infer({})
    sequence.infer({})
    assert recording.parameters[1] == {"sequence_id": 7, "sequence_start": True}
    with pytest.raises(type(error)):
        sequence.infer({})
    with pytest.raises(SequenceLost, match="sequence 7 is lost"):
        sequence.infer({})
    assert len(recording.asked) == 3


async def test_asynchronous_sequence_does_the_same(recording: Recording) -> None:
    async def steps() -> AsyncIterator[dict[str, int]]:
        for at in range(3):
            yield {"x": at}

    async with AsyncClient().sequence("vad", id=7) as sequence:
        assert len([outputs async for outputs in sequence.infer_each(steps())]) == 3
    async with AsyncClient().sequence("vad", id=8) as sequence:
        assert len([outputs async for outputs in sequence.infer_each([{}, {}])]) == 2
    assert [list(each.values())[1:] for each in recording.parameters] == [
        [True],
        [],
        [True],
        [True],
        [True],
    ]
    assert [each["sequence_id"] for each in recording.parameters] == [7, 7, 7, 8, 8]


async def test_request_before_the_answer_of_the_one_before_is_refused(
    recording: Recording,
) -> None:
    sequence = AsyncClient().sequence("vad", id=7)
    first = asyncio.ensure_future(sequence.infer({}))
    await asyncio.sleep(0)
    with pytest.raises(InvalidRequest, match="sequence 7 has a request under way"):
        await sequence.infer({})
    await first
    await sequence.infer({})
    assert len(recording.asked) == 2


async def test_request_that_is_cancelled_may_have_run(recording: Recording) -> None:
    sequence = AsyncClient().sequence("vad", id=7)
    await sequence.infer({})
    second = asyncio.ensure_future(sequence.infer({}))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    with pytest.raises(SequenceLost):
        await sequence.infer({})


def test_ids_are_drawn_as_numbers_that_integers_hold() -> None:
    ids = {Client().sequence("vad").id for _ in range(100)}
    assert len(ids) == 100
    assert all(isinstance(each, int) and 0 < each < 2**ID_BITS for each in ids)
