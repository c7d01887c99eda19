"""What one warm request costs in calls of the project's own code: from its bytes to a node's, and from the answer back."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType

import pytest
from fleet_fakes import in_virtual_time
from warm_router import BINARY, JSON, WARM, message_of, warm

from capamesh.protocol.links.link import Link
from capamesh.router.balancing.attempt import Attempt
from capamesh.router.grpc.connection import GrpcConnection
from capamesh.router.http.connection import FrontConnection

ALIVE = sorted(
    (
        # what lives: the wire's side of the request, the request, its attempt, and what each owes to others
        *("Exchange", "InFlightCall", "Attempt", "RequestPicker", "Permit"),
        # values
        *("InferRequest", "Tensor", "InferCall", "Call", "RequestShape", "Eligibility"),
    )
)
"""All objects of the project that a request under way has, of which none is made twice."""
MOST_FRAMES = 9
"""Measured, from `buffer_updated` to `Link.ask`."""


class CallCounter:
    """Counts calls of the project's code from one function's beginning to another's end, and how deep they lie."""

    def __init__(self, first: FunctionType, last: FunctionType) -> None:
        self._first, self._last = first.__code__, last.__code__
        self.calls: list[str] = []
        self.frames: list[str] = []
        """The functions that are under way when the last one ends, outermost first."""
        self._is_over = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if self._is_over or not _is_ours(frame):
            return
        if event == "call":
            if self.calls or code is self._first:
                self.calls.append(code.co_name)
        elif event == "return" and code is self._last:
            self._is_over = True
            at: FrameType | None = frame
            while at is not None:
                if _is_ours(at):
                    self.frames.insert(0, at.f_code.co_name)
                at = at.f_back


def _is_ours(frame: FrameType) -> bool:
    return "/src/capamesh/" in frame.f_code.co_filename


@contextmanager
def counted(first: FunctionType, last: FunctionType) -> Iterator[CallCounter]:
    """Count the calls in the block."""
    counter = CallCounter(first, last)
    sys.setprofile(counter)
    try:
        yield counter
    finally:
        sys.setprofile(None)


@pytest.mark.pure
@pytest.mark.parametrize(
    ("request_", "most_there", "most_back"), [(JSON, 84, 47), (BINARY, 86, 44)]
)
@in_virtual_time
async def test_warm_request_costs_few_calls_and_frames_there_and_back(
    request_: bytes, most_there: int, most_back: int
) -> None:
    world = await warm(request_)
    # A lone request is written to its link at once: the seven calls of that are among those there.
    with counted(FrontConnection.buffer_updated, Link.ask) as there:
        world.ask()
    assert (there.frames[0], there.frames[-1]) == ("buffer_updated", "ask")
    assert len(there.frames) <= MOST_FRAMES, there.frames
    assert len(there.calls) <= most_there, there.calls
    with counted(Attempt.answered, FrontConnection._go_on) as back:
        await world.answer()
    assert (back.calls[0], back.calls[-1]) == ("answered", "_go_on")
    assert len(back.calls) <= most_back, back.calls
    assert world.client.written.count(b"HTTP/1.1 200 OK") == WARM + 1
    assert world.fleet.balancer.under_way == 0


@pytest.mark.pure
@in_virtual_time
async def test_warm_call_of_grpc_costs_few_calls_there_and_back() -> None:
    world = await warm(message_of(1))
    with counted(FrontConnection.buffer_updated, Link.ask) as there:
        world.ask()
    assert (there.frames[0], there.frames[-1]) == ("buffer_updated", "ask")
    assert len(there.calls) <= 117, there.calls
    with counted(Attempt.answered, GrpcConnection._flush_now) as back:
        await world.answer()
    assert (back.calls[0], back.frames[-1]) == ("answered", "_flush_now")
    assert len(back.calls) <= 73, back.calls
    assert world.fleet.balancer.under_way == 0


@in_virtual_time
async def test_request_under_way_is_one_object_and_each_attempt_another() -> None:
    world = await warm(BINARY)
    before = objects()  # holds them, so that none of other tests ends meanwhile
    world.ask()
    known = set(map(id, before))
    assert sorted(type(each).__name__ for each in objects() if id(each) not in known) == ALIVE
    await world.answer()


def objects() -> list[object]:
    """Return all objects of the project's classes."""
    gc.collect()
    return [
        each for each in gc.get_objects() if f"{type(each).__module__}.".startswith("capamesh.")
    ]
