"""Calls of tasks: their inputs are made in threads, while others come, leave and die."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from patience import LIMIT_S
from worker_fakes import FakeClock

from capamesh.node.runtime.tasks.task import ModelTask, TaskRequest
from capamesh.node.worker import task_calls
from capamesh.node.worker.task_calls import LARGE_BYTES, TaskCalls
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensors import Datatype, Tensor, join_elements

X = Tensor.from_numpy("x", np.ones((1, 2), np.float32))
LARGE = Tensor.from_numpy("y", np.zeros(LARGE_BYTES // 4 + 1, np.float32))
RAW = Tensor("file", Datatype.BYTES, (1,), join_elements([b"abc"]))


class FakeRequest(TaskRequest):
    """Waits at the task's gate, and raises what the task says."""

    def __init__(self, task: FakeTask) -> None:
        super().__init__(("y",))
        self._task = task

    def inputs(self) -> tuple[Tensor, ...]:
        self._task.threads.append(threading.current_thread())
        assert self._task.gate.wait(LIMIT_S)
        if self._task.error is not None:
            raise self._task.error
        return (X,)

    def of(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self._task.threads.append(threading.current_thread())
        if self._task.error is not None:
            raise self._task.error
        return outputs


class FakeTask(ModelTask):
    """Makes the same input of whatever comes."""

    def __init__(self) -> None:
        super().__init__(Task.FILE_TYPE)
        self.gate = threading.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.threads: list[threading.Thread] = []

    def request(self, inputs: Sequence[Tensor], outputs: tuple[str, ...]) -> TaskRequest:
        return FakeRequest(self)


class Rig:
    """The calls of a worker with one model, and what was queued and answered."""

    def __init__(self) -> None:
        self.task = FakeTask()
        self.hosted: Any = SimpleNamespace(source=SimpleNamespace(name="m"), version="1")
        self.found: Any = self.hosted
        self.queued: list[Any] = []
        self.failed: list[tuple[Any, CapameshError]] = []
        self.done: list[Any] = []
        self.links = [object(), object()]
        models: Any = SimpleNamespace(find=lambda *_: self.found)
        self.calls = TaskCalls(
            models,
            lambda *queued: self.queued.append(queued),
            lambda key, error, _: self.failed.append((key, error)),
            clock=FakeClock(50.0),
        )

    def ask(
        self, stream: int = 1, *, link: int = 0, deadline_s: float | None = None, **more: Any
    ) -> Any:
        call = InferCall(ModelName("m"), ModelVersion("1"), (RAW,), ("y", "tokens"), **more)
        key: Any = (self.links[link], stream)
        self.calls.begin(key, self.hosted, self.task, call, 40.0, deadline_s, self._done)
        return key

    def _done(self, *answered: Any) -> None:
        self.done.append(answered)

    async def settle(self, until: Any) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not until():
                await asyncio.sleep(0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    made.task.gate.set()
    made.calls.close()
    made.calls._threads.shutdown(wait=True)


async def test_call_is_queued_with_the_models_own_inputs_and_outputs(rig: Rig) -> None:
    key = rig.ask(deadline_s=60.0, priority=7, classes=(2, 0))
    assert len(rig.calls) == 1
    await rig.settle(lambda: rig.queued)
    ((found, hosted, call, arrived_s, deadline_s, on_done),) = rig.queued
    assert (found, hosted, arrived_s, deadline_s) == (key, rig.hosted, 40.0, 60.0)
    assert (call.inputs, call.outputs, call.classes, call.priority) == ((X,), ("y",), (), 7)
    assert rig.task.threads[0] is not threading.current_thread()
    assert len(rig.calls) == 0
    on_done("pending", [X])
    assert rig.done == [("pending", [X])]
    assert rig.task.threads[1] is threading.current_thread()


async def test_large_outputs_become_an_answer_in_a_thread(rig: Rig) -> None:
    rig.ask()
    await rig.settle(lambda: rig.queued)
    rig.queued[0][-1]("pending", [LARGE])
    assert len(rig.calls) == 1
    await rig.settle(lambda: rig.done)
    error = RunFailed("no")
    rig.queued[0][-1]("pending", error)
    assert rig.done == [("pending", [LARGE]), ("pending", error)]
    assert rig.task.threads[1] is not threading.current_thread()


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (InvalidRequest("text 0 is not UTF-8"), InvalidRequest),
        (MemoryError(), Overloaded),
        (ValueError("a bug"), RunFailed),
    ],
)
async def test_inputs_that_fail_are_told(
    rig: Rig, raised: Exception, told: type[CapameshError]
) -> None:
    rig.task.error = raised
    key = rig.ask()
    await rig.settle(lambda: rig.failed)
    ((found, error),) = rig.failed
    assert found is key
    assert type(error) is told
    assert not rig.queued
    assert len(rig.calls) == 0


async def test_late_call_is_not_even_begun(rig: Rig) -> None:
    rig.ask(deadline_s=50.0)
    await rig.settle(lambda: rig.failed)
    assert isinstance(rig.failed[0][1], DeadlineExceeded)
    assert rig.task.threads == []


async def test_replaced_model_is_not_given_another_tokenizers_tokens(rig: Rig) -> None:
    rig.task.gate.clear()
    rig.ask()
    rig.found = object()
    rig.task.gate.set()
    await rig.settle(lambda: rig.failed)
    assert isinstance(rig.failed[0][1], ModelUnavailable)
    assert not rig.queued


async def test_caller_who_leaves_is_told_nothing_and_costs_no_run(rig: Rig) -> None:
    rig.task.gate.clear()
    key = rig.ask(1)
    rig.ask(2, link=1)
    rig.ask(3, link=1)
    rig.calls.withdraw(key)
    rig.calls.withdraw_all_of(rig.links[1])
    rig.calls.withdraw(key)  # again is harmless
    assert len(rig.calls) == 0
    rig.task.gate.set()
    await rig.settle(lambda: rig.calls._waiting == 0)
    assert rig.calls._waiting_bytes == 0
    assert not rig.queued
    assert not rig.failed
    assert len(rig.task.threads) <= task_calls.THREADS  # the third was not begun


async def test_too_many_that_wait_are_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_calls, "MAX_WAITING", 2)
    rig.task.gate.clear()
    rig.ask(1)
    rig.ask(2)
    with pytest.raises(Overloaded, match="2 requests of 14 bytes wait for their texts"):
        rig.ask(3)
    monkeypatch.setattr(task_calls, "MAX_WAITING", 9)
    monkeypatch.setattr(task_calls, "MAX_WAITING_BYTES", 20)
    with pytest.raises(Overloaded):
        rig.ask(3)
    rig.task.gate.set()
    await rig.settle(lambda: len(rig.queued) == 2)
    rig.ask(3)
    await rig.settle(lambda: len(rig.queued) == 3)


@pytest.mark.parametrize(
    "more", [{"takes_parts": True}, {"sequence": SequenceMark(1, is_start=True, is_end=False)}]
)
async def test_task_has_a_whole_answer_and_no_sequence(rig: Rig, more: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="a whole answer and no sequence"):
        rig.ask(**more)


async def test_end_of_the_process_is_told_to_all(rig: Rig) -> None:
    rig.task.gate.clear()
    waiting = rig.ask(1)
    rig.calls.fail_all("stuck")
    assert [(key, type(error)) for key, error in rig.failed] == [(waiting, ModelUnavailable)]
    rig.task.gate.set()
    ran = rig.ask(2)
    await rig.settle(lambda: rig.queued)
    rig.queued[0][-1]("pending", [LARGE])
    rig.calls.fail_all("stuck")
    assert [(key, type(error)) for key, error in rig.failed[1:]] == [(ran, RunFailed)]
    assert not rig.done
