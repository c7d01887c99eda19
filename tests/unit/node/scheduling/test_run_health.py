"""What is said of a model's runs."""

from __future__ import annotations

import numpy as np
from engine_desk import Desk

from capamesh.node.scheduling.run_health import FAILED_REQUESTS, RunHealth
from capamesh.protocol.errors import DeadlineExceeded, RunFailed
from capamesh.protocol.tensors import Tensor


def x(value: float) -> list[Tensor]:
    return [Tensor.from_numpy("x", np.array([value], np.float32))]


def test_model_that_never_ran_is_said_so_until_a_run_succeeds() -> None:
    health = RunHealth("it does not run on generated inputs: bad allocation")
    assert health.reason == (
        "no run has succeeded yet: it does not run on generated inputs: bad allocation"
    )
    assert health.is_doubted
    health.succeeded()
    assert (health.reason, health.is_doubted) == ("", False)


def test_engine_takes_note_of_runs_that_fail_and_of_the_first_that_does_not() -> None:
    desk = Desk(batch_rows=1)

    def run(value: float, *results: object) -> None:
        request = desk.request()
        request.inputs = (Tensor.from_numpy("x", np.full((1, 1), value, np.float32)),)
        desk.batcher.submit(request, desk.now_s)
        desk.finish(desk.taken(), results=list(results))  # type: ignore[arg-type]

    for number in range(FAILED_REQUESTS):
        run(number, RunFailed("broken"))
    assert desk.batcher.health.reason.endswith("the latest: broken")
    run(1)
    assert desk.batcher.health.reason == ""
    for number in range(FAILED_REQUESTS):  # nobody's run has failed
        run(number, DeadlineExceeded("too late"))
    assert desk.batcher.health.reason == ""
