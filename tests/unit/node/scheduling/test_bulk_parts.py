"""Bulk requests that run in parts while requests of people come, and are answered as if they had run whole."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from engine_desk import Desk

from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import Batch, PendingRequest
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.node.scheduling.slots import ONLINE_S
from capamesh.protocol.errors import RunFailed
from capamesh.protocol.tensors import Tensor

STEEP = ServiceProfile((ProfilePoint(1, 0.010), ProfilePoint(8, 0.024)))
"""A row more takes 2 ms more, so that two rows take 1.2 times what one takes, and four 1.6 times."""


def numbered(desk: Desk, rows: int, **asked: bool) -> PendingRequest:
    """Submit a bulk request whose rows are numbered from 0."""
    x = Tensor.from_numpy("x", np.arange(rows, dtype=np.float32).reshape(rows, 1))
    return desk.submit(inputs=[x], is_bulk=True, **asked)


def beside_people(**how: Any) -> Desk:
    """Return an engine that has just answered a person."""
    desk = Desk(profile=STEEP, **how)
    desk.submit()
    desk.finish(desk.taken())
    return desk


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
    desk = beside_people()
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


def test_part_that_fails_fails_the_request_once() -> None:
    desk = beside_people()
    request = numbered(desk, 8)
    run(desk, desk.taken())
    error = RunFailed("a bad row")
    desk.finish(desk.taken(), results=[error])
    assert desk.answers[-1] == (request, error)
    assert desk.batcher.is_idle
    assert desk.batcher._requests.bulk_rows == 0


def test_request_that_is_to_run_alone_and_those_of_people_are_never_cut() -> None:
    desk = beside_people()
    numbered(desk, 8, is_alone=True)
    assert desk.taken().rows == 8
    desk = Desk(profile=STEEP)
    desk.submit(8)
    desk.submit(8)
    assert desk.taken().rows == 8


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_run_once_and_answered_in_its_place_whatever_comes(seed: int) -> None:
    rng = random.Random(seed)
    desk = Desk(profile=STEEP, rules=Rules(instances=rng.choice([1, 2])), limit_rows=10_000)
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
    assert ran == sum(result[0].shape[0] for _, result in desk.answers)
    requests = desk.batcher._requests
    assert (requests.rows, requests.bulk_rows, requests.queue.rows) == (0, 0, 0)
