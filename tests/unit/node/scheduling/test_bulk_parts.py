"""Bulk requests that run in parts while requests of people come, and are answered as if they had run whole."""

from __future__ import annotations

import random

import numpy as np
import pytest
from engine_desk import Desk

from capamesh.node.scheduling import Batch, PendingRequest
from capamesh.node.scheduling.bulk_parts import BulkParts
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.node.scheduling.slots import BULK_TIMES, ONLINE_S, SHORT_BULK_S
from capamesh.protocol.errors import RunFailed
from capamesh.protocol.tensors import Tensor

STEEP = ServiceProfile((ProfilePoint(1, 0.010), ProfilePoint(8, 0.024)))
"""A row more takes 2 ms more, so that two rows take 1.2 times what one takes, and four 1.6 times."""
STRAIGHT = ServiceProfile((ProfilePoint(1, 0.010), ProfilePoint(8, 0.080)))
"""Each row takes as long as the one before it, as on a CPU."""
TINY = ServiceProfile((ProfilePoint(1, 0.000_05), ProfilePoint(8, 0.000_4)))


def numbered(desk: Desk, rows: int, **asked: bool) -> PendingRequest:
    """Submit a bulk request whose rows are numbered from 0."""
    request = desk.request(rows, is_bulk=True, **asked)
    x = np.arange(rows, dtype=np.float32).reshape(rows, 1)
    request.inputs = (Tensor.from_numpy("x", x),)
    desk.batcher.submit(request, desk.now_s)
    return request


def rows_of(batch: Batch) -> list[float]:
    return [float(row[0]) for request in batch.requests for row in request.inputs[0].to_numpy()]


def run(desk: Desk, batch: Batch, run_s: float = 0.01) -> list[float]:
    """Run a batch as a model that doubles its input would; return the first numbers of its rows."""
    rows = rows_of(batch)
    results = [
        [Tensor.from_numpy("y", request.inputs[0].to_numpy() * np.float32(2))]
        for request in batch.requests
    ]
    desk.finish(batch, run_s, results)
    return rows


def answer(desk: Desk, request: PendingRequest) -> list[float]:
    (result,) = [result for one, result in desk.answers if one is request]
    assert not isinstance(result, Exception)
    return [float(row[0]) for row in result[0].to_numpy()]


def test_bulk_request_runs_whole_where_no_request_of_people_came_of_late() -> None:
    desk = Desk(profile=STEEP)
    request = numbered(desk, 8)
    assert run(desk, desk.taken()) == list(range(8))
    assert answer(desk, request) == [2.0 * at for at in range(8)]
    desk.submit()
    desk.finish(desk.taken())
    desk.now_s += ONLINE_S
    numbered(desk, 8)
    assert len(run(desk, desk.taken())) == 8


def test_people_s_request_waits_for_a_part_and_its_run_has_few_bulk_rows() -> None:
    desk = Desk(profile=STEEP)
    desk.submit()
    desk.finish(desk.taken())
    bulk = numbered(desk, 8)
    first = desk.taken()
    assert rows_of(first) == [0, 1]
    online = desk.submit()
    assert desk.load().bulk_in_flight == 8
    run(desk, first, 0.015)
    assert desk.load().bulk_in_flight == 6
    second = desk.taken()
    assert second.requests == [online, bulk]
    assert second.rows == 2  # its own, and one of the job's
    run(desk, second, 0.012)
    assert desk.answers[-1][0] is online
    while desk.batcher.in_flight:
        run(desk, desk.taken())
    assert answer(desk, bulk) == [2.0 * at for at in range(8)]


def test_bulk_rows_that_gain_nothing_are_in_no_run_of_people_however_long_it_is() -> None:
    desk = Desk(profile=STRAIGHT)
    desk.submit()
    desk.finish(desk.taken())
    numbered(desk, 8)
    first = desk.taken()
    people = [desk.submit() for _ in range(6)]
    run(desk, first)
    assert STRAIGHT.seconds_at(7) <= BULK_TIMES * STRAIGHT.seconds_at(6)
    assert desk.taken().requests == people


def test_run_with_many_people_has_room_for_more_of_a_job() -> None:
    desk = Desk(profile=STEEP)
    desk.submit()
    desk.finish(desk.taken())
    numbered(desk, 8)
    first = desk.taken()
    people = [desk.submit() for _ in range(6)]
    run(desk, first, 0.012)
    second = desk.taken()
    assert (second.requests[:6], second.rows) == (people, 8)  # two of the job's
    assert STEEP.seconds_at(8) <= BULK_TIMES * STEEP.seconds_at(6)


def test_request_that_has_begun_goes_on_before_others_begin() -> None:
    desk = Desk(profile=STEEP)
    desk.submit()
    desk.finish(desk.taken())
    first, second = numbered(desk, 4), numbered(desk, 4)
    assert [run(desk, desk.taken()) for _ in range(4)] == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert [one for one, _ in desk.answers[1:]] == [first, second]


def test_bulk_request_is_not_taken_ahead_while_people_come() -> None:
    desk = Desk(profile=STEEP)
    numbered(desk, 8)
    numbered(desk, 8)
    running = desk.taken()
    assert desk.batcher.take(desk.now_s, is_ahead=True) is not None
    desk = Desk(profile=STEEP)
    desk.submit()
    desk.finish(desk.taken())
    numbered(desk, 8)
    numbered(desk, 8)
    running = desk.taken()
    assert desk.batcher.take(desk.now_s, is_ahead=True) is None
    assert running.rows == 2


def test_short_runs_are_not_cut() -> None:
    desk = Desk(profile=TINY)
    desk.submit()
    desk.finish(desk.taken(), 0.000_05)
    numbered(desk, 8)
    assert TINY.seconds_at(8) < SHORT_BULK_S
    assert desk.taken().rows == 8


def test_part_that_fails_fails_the_request_once() -> None:
    desk = Desk(profile=STEEP)
    desk.submit()
    desk.finish(desk.taken())
    request = numbered(desk, 8)
    run(desk, desk.taken())
    error = RunFailed("a bad row")
    desk.finish(desk.taken(), results=[error])
    assert desk.answers[-1] == (request, error)
    assert desk.batcher.is_idle
    assert desk.batcher._requests.bulk_rows == 0


def test_output_that_has_not_the_rows_of_its_part_is_an_error() -> None:
    desk = Desk(profile=STEEP)
    desk.submit()
    desk.finish(desk.taken())
    numbered(desk, 8)
    wrong = Tensor.from_numpy("y", np.zeros((1, 1), np.float32))
    desk.finish(desk.taken(), results=[[wrong]])
    _, result = desk.answers[-1]
    assert isinstance(result, RunFailed)
    assert result.message == (
        "output 'y' of shape [1, 1] cannot be joined: 2 rows were run and its axis 0 is not their number"
    )


def test_request_between_two_parts_gives_way_as_any_bulk_request() -> None:
    desk = Desk(profile=STEEP, limit_rows=8, max_in_flight=100)
    desk.submit()
    desk.finish(desk.taken())
    bulk = numbered(desk, 4)
    run(desk, desk.taken())
    desk.batcher.limit.rows = 8
    for _ in range(7):
        desk.submit()
    assert (desk.answers[-1][0], desk.outcomes()[-1]) == (bulk, "overloaded")


def test_request_that_is_to_run_alone_and_those_of_people_are_never_cut() -> None:
    desk = Desk(profile=STEEP)
    desk.submit()
    desk.finish(desk.taken())
    numbered(desk, 8, is_alone=True)
    assert desk.taken().rows == 8
    desk = Desk(profile=STEEP)
    desk.submit(8)
    desk.submit(8)
    assert desk.taken().rows == 8


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_run_once_and_answered_in_its_place_whatever_comes(seed: int) -> None:
    rng = random.Random(seed)
    desk = Desk(profile=STEEP, instances=rng.choice([1, 2]), limit_rows=10_000)
    bulk: list[PendingRequest] = []
    running: list[Batch] = []
    ran = 0
    for _ in range(200):
        match rng.randrange(4):
            case 0:
                bulk.append(numbered(desk, rng.randrange(1, 20)))
            case 1 if rng.random() < 0.5:
                desk.submit()
            case 2 if running:
                ran += len(run(desk, running.pop(rng.randrange(len(running)))))
            case _:
                batch = desk.batcher.take(desk.now_s)
                if batch is not None:
                    running.append(batch)
        desk.now_s += rng.choice([0.0, 0.01, 2.0])
        assert desk.batcher._requests.queue.bulk_rows >= 0
    while desk.batcher.in_flight or running:
        batch = desk.batcher.take(desk.now_s)
        running += [] if batch is None else [batch]
        ran += len(run(desk, running.pop(0)))
    for request in bulk:
        rows = len(answer(desk, request))
        assert answer(desk, request) == [2.0 * at for at in range(rows)]
    assert ran == sum(result[0].shape[0] for _, result in desk.answers)  # type: ignore[index, union-attr]
    requests = desk.batcher._requests
    assert (requests.rows, requests.bulk_rows, requests.queue.rows) == (0, 0, 0)


def test_parts_of_several_inputs_are_slices_of_their_bytes() -> None:
    x = Tensor.from_numpy("x", np.arange(12, dtype=np.float32).reshape(4, 3))
    mask = Tensor.from_numpy("mask", np.arange(4, dtype=np.int64).reshape(4))
    request = PendingRequest((x, mask), (), lambda _, __: None, arrived_s=0.0, is_bulk=True)
    request.rows = 4
    parts = BulkParts(request.inputs)
    parts.cut(request, 3)
    assert (request.rows, request.later_rows) == (3, 1)
    assert [tensor.to_numpy().tolist() for tensor in request.inputs] == [
        [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
        [0, 1, 2],
    ]
    assert parts.ran(request, request.inputs) is None
    assert [tensor.to_numpy().tolist() for tensor in request.inputs] == [[[9, 10, 11]], [3]]
    whole = parts.ran(request, request.inputs)
    assert isinstance(whole, list)
    assert [tensor.to_numpy().tolist() for tensor in whole] == [
        x.to_numpy().tolist(),
        mask.to_numpy().tolist(),
    ]
