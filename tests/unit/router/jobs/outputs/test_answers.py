"""The answers to the requests of a batch are those that the endpoint gives by itself, in the order of the requests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from capamesh.protocol.steps import run_through
from capamesh.router.jobs.endpoints import ENDPOINTS
from capamesh.router.jobs.outputs.answers import answer_lines, undone_line
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.row_forms import RowForm


def form(**changed: Any) -> RowForm:
    body = {"model": "words", "input": "x", **changed}
    return run_through(ENDPOINTS["/v1/embeddings"].read(body))[1]


def results(*rows: tuple[int, int, float], of: RowForm | None = None) -> Results:
    """Return rows by the number of their request, their place in it, and the first number of their vector."""
    vectors: npt.NDArray[Any] = np.array([[value, value + 0.5] for _, _, value in rows], np.float32)
    return Results(
        [number for number, _, _ in rows],
        [f"r{number}" for number, _, _ in rows],
        {"embedding": vectors, "tokens": np.array([3] * len(rows), np.int32)},
        [place for _, place, _ in rows],
        of or form(),
    )


def lines(*some: Results) -> list[dict[str, Any]]:
    return [json.loads(line) for line in b"".join(answer_lines(some)).splitlines()]


def test_answer_that_json_cannot_hold_is_an_error_of_that_request_alone() -> None:
    first, second = lines(results((0, 0, float("nan")), (1, 0, 2.0)))
    assert first["response"]["status_code"] == 500
    assert first["response"]["body"]["error"]["code"] == "run_failed"
    assert second["response"]["status_code"] == 200


def test_request_that_was_not_done_says_why() -> None:
    line = json.loads(undone_line(3, "r3", "batch_expired", "the time was over"))
    assert line == {
        "id": "batch_req_000000000003",
        "custom_id": "r3",
        "response": None,
        "error": {"code": "batch_expired", "message": "the time was over"},
    }
