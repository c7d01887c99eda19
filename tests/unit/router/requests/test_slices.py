"""Long work in slices: in turn, in short, and stoppable."""

from __future__ import annotations

import asyncio

from capamesh.protocol.steps import Steps
from capamesh.router.requests.slices import Slices


def counting(log: list[str], name: str, steps: int, error: Exception | None = None) -> Steps[str]:
    for at in range(steps):
        log.append(f"{name}{at}")
        yield
    if error is not None:
        raise error
    return name


async def test_end_of_a_job_is_reported() -> None:
    slices = Slices()
    done: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    error = ZeroDivisionError("x")
    slices.begin(counting([], "a", 2, error), done.set_exception, done.set_result)
    assert await done is error


async def test_cancelled_job_lets_go_of_what_its_steps_hold_at_once() -> None:
    held = ["body"]

    def holding() -> Steps[str]:
        try:
            while True:
                yield
        finally:
            held.clear()

    steps = holding()
    job = Slices().begin(steps, print, print)
    job.step()
    assert held == ["body"]
    job.cancel()
    assert held == []


async def test_crash_in_what_one_job_tells_stops_no_other() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, what: complaints.append(what))
    slices = Slices()
    over: asyncio.Future[str] = loop.create_future()
    over.cancel()
    slices.begin(counting([], "a", 0), over.set_result, over.set_exception, "m")
    slices.begin(counting([], "b", 0, ZeroDivisionError("x")), print, over.set_exception, "m")
    for _ in range(2):  # beside it, and later
        done: asyncio.Future[str] = loop.create_future()
        slices.begin(counting([], "c", 3), done.set_result, done.set_exception)
        assert await asyncio.wait_for(done, 60) == "c"
    assert [type(each["exception"]) for each in complaints] == [asyncio.InvalidStateError] * 2
    assert "'m' crashed" in str(complaints[0]["message"])
