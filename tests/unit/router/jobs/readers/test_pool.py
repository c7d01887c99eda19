"""Processes that read inputs are few, are given to who waits, and end when nobody needs them. In virtual time."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from capamesh.protocol.channel.framing import MAX_MESSAGE_BYTES
from capamesh.protocol.errors import ProtocolViolation
from capamesh.router.jobs.inputs.row_numbers import NumberNames
from capamesh.router.jobs.inputs.rows import RowBatch, RowWindow
from capamesh.router.jobs.readers.pool import MOST, OTHERS_PAUSE_S, PAUSE_S, Readers, Use
from capamesh.router.jobs.readers.process import ReaderProcess
from capamesh.router.jobs.readers.wire import packed, unpacked
from capamesh.router.jobs.values import BadRow


class FakeProcess(ReaderProcess):
    """A process that is none."""

    made: list[FakeProcess]

    def __init__(self) -> None:
        self.ended, self.tenant, self.is_nice = "", None, False
        self.is_at_work = False
        self.drops = 0
        self.made.append(self)

    is_busy = property(lambda self: self.is_at_work)

    @override
    def drop(self) -> None:
        self.drops += 1

    @override
    async def close(self) -> None:
        self.ended = "closed"


@pytest.fixture
async def pool() -> Readers:
    FakeProcess.made = []
    return Readers(FakeProcess, asyncio.get_running_loop().time)


async def test_task_left_in_the_middle_is_dropped_and_reader_at_work_is_ended(
    pool: Readers,
) -> None:
    async with pool.lend(Use.ROWS, "t"):
        pass
    (process,) = FakeProcess.made
    assert process.drops == 1
    with suppress(asyncio.CancelledError):
        async with pool.lend(Use.ROWS, "t"):
            process.is_at_work = True
            raise asyncio.CancelledError
    await asyncio.sleep(0)
    assert (process.ended, pool.count) == ("closed", 0)


async def test_process_that_has_ended_is_given_to_nobody(pool: Readers) -> None:
    async with pool.lend(Use.ROWS, "t") as loan:
        loan.is_over = True
    FakeProcess.made[0].ended = "killed"
    async with pool.lend(Use.ROWS, "t") as loan:
        assert loan.process is FakeProcess.made[1]
    await pool.close()
    assert all(each.ended for each in FakeProcess.made)


async def test_process_serves_one_tenant_alone_and_processes_of_many_tenants_are_few(
    pool: Readers,
) -> None:
    tenants = [f"t{at % 20}" for at in range(40)]
    for tenant in tenants:
        async with pool.lend(Use.PLAN, tenant) as loan:
            loan.is_over = True
        assert pool.count <= MOST * len(Use)
    assert [each.tenant for each in FakeProcess.made] == tenants
    async with pool.lend(Use.ROWS, tenants[-1]) as loan:
        assert loan.process is FakeProcess.made[-1]


async def test_paused_process_of_another_tenant_is_ended_for_who_waits(pool: Readers) -> None:
    async with pool.lend(Use.ROWS, "a") as first, pool.lend(Use.ROWS, "a") as second:
        with first.paused(), second.paused():
            began_s = asyncio.get_running_loop().time()
            async with pool.lend(Use.ROWS, "b") as third:
                waited_s = asyncio.get_running_loop().time() - began_s
                assert OTHERS_PAUSE_S <= waited_s < OTHERS_PAUSE_S + PAUSE_S
                assert third.process is FakeProcess.made[2]


async def test_tenant_of_many_inputs_does_not_keep_another_from_the_next_turn(
    pool: Readers,
) -> None:
    order: list[str] = []

    async def hold(tenant: str) -> None:
        async with pool.lend(Use.ROWS, tenant):
            order.append(tenant)
            await asyncio.sleep(10 + len(order))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(hold("many"))
        await asyncio.sleep(1)
        given_up = tasks.create_task(hold("few"))
        tasks.create_task(hold("few"))
        await asyncio.sleep(1)
        given_up.cancel()
    assert order == ["many", "many", "few", "many", "many", "many", "many"]


def over(window: RowWindow) -> list[RowWindow]:
    """Return a window as it comes over, in its parts."""
    found: list[RowWindow] = []
    for head, blobs in packed(window):
        assert len(head) < MAX_MESSAGE_BYTES - 1000
        data = np.frombuffer(b"".join(bytes(blob) for blob in blobs), np.uint8)
        found.append(unpacked(head, lambda at, size, data=data: data[at : at + size].copy()))
    return found


def test_window_comes_over_as_it_was() -> None:
    arrays = {"x": np.arange(6, dtype="<f4").reshape(3, 2), "is": np.array([True, False, True])}
    numbers = RowBatch(range(5, 8), NumberNames(range(5, 8)), arrays)
    texts = np.array([b"", b"\xff\0"], object)
    named = RowBatch([1, 9], ["a", "\ud800"], {"t": texts, "n": np.zeros((2, 0), "<i8")})
    bad = [BadRow(2, "2", "input_invalid", "no number"), BadRow(3, "\ud800", "input_invalid", "é")]
    first, second, third = over(RowWindow([numbers, named], bad, "ab"))
    assert (first.bad, first.batches, first.sha256) == (bad, [], "ab")
    (batch,) = second.batches
    assert (batch.numbers, batch.rows, list(batch.ids)) == (range(5, 8), 3, ["5", "6", "7"])
    for name, array in arrays.items():
        assert batch.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(batch.inputs[name], array)
    (batch,) = third.batches
    assert (list(batch.numbers), list(batch.ids)) == ([1, 9], ["a", "\ud800"])
    assert (batch.inputs["t"].tolist(), batch.inputs["n"].shape) == (texts.tolist(), (2, 0))


@pytest.mark.parametrize(
    "changed",
    [
        {"size_bytes": -1},
        {"size_bytes": 2**40},
        {"shape": [3]},
        {"shape": []},
        {"shape": [2, -1]},
        {"shape": "x"},
        {"dtype": "V4"},
        {"dtype": "object"},
        {"dtype": "no dtype"},
        {"dtype": "<f8"},
    ],
)
def test_tensor_that_is_none_is_refused(changed: dict[str, Any]) -> None:
    ((text, _),) = packed(
        RowWindow([RowBatch(range(2), NumberNames(range(2)), {"x": np.ones(2, "<f4")})], [], "")
    )
    head = json.loads(text)
    head["batches"][0]["inputs"][0] |= changed
    with pytest.raises(ProtocolViolation, match="no window"):
        unpacked(
            json.dumps(head).encode(), lambda _, size: np.zeros(max(0, min(size, 100)), np.uint8)
        )
