"""The end of a call says what becomes of its rows."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    ModelNotFound,
    NoEndpoint,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RequestKills,
    RunFailed,
    TooLarge,
    TooManyRequests,
    Unsatisfiable,
)
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tensors import Tensor
from capamesh.router.jobs.running.nodes import Ended
from capamesh.router.jobs.running.verdict import (
    Verdict,
    judge,
)


def sudden() -> LinkLost:
    error = LinkLost("it ended")
    error.is_sudden = True
    return error


@pytest.mark.parametrize(
    ("error", "at_node", "unsent"),
    [
        (Overloaded("full"), Verdict.FULL, Verdict.FULL),
        (TooManyRequests("full"), Verdict.FULL, Verdict.FULL),
        (RequestKills("it ends workers"), Verdict.DIED, Verdict.DIED),
        (sudden(), Verdict.DIED, Verdict.UNSENT),
        (LinkLost("silent"), Verdict.AGAIN, Verdict.UNSENT),
        (RunFailed("no"), Verdict.FAILED, Verdict.FAILED),
        (DeadlineExceeded("late"), Verdict.AGAIN, Verdict.UNSENT),
        (InvalidRequest("wrong"), Verdict.REFUSED, Verdict.REFUSED),
        (TooLarge("long"), Verdict.REFUSED, Verdict.REFUSED),
        (Unsatisfiable("nobody may"), Verdict.NOBODY, Verdict.NOBODY),
        (ModelNotFound("none"), Verdict.UNSENT, Verdict.UNSENT),
        (NoEndpoint("none"), Verdict.AGAIN, Verdict.UNSENT),
        (Draining("it leaves"), Verdict.UNSENT, Verdict.UNSENT),
        (PeerError("?"), Verdict.AGAIN, Verdict.UNSENT),
        (ProtocolViolation("?"), Verdict.AGAIN, Verdict.UNSENT),
    ],
    ids=lambda each: each.code if isinstance(each, CapameshError) else str(each.value),
)
def test_errors_are_judged_by_whether_a_node_had_the_call(
    error: CapameshError, at_node: Verdict, unsent: Verdict
) -> None:
    assert judge(Ended(None, error, "a", "A"), 8) is at_node
    assert judge(Ended(None, error), 8) is unsent


def test_answer_has_a_row_for_each() -> None:
    output = Tensor.from_numpy("y", np.zeros((4, 2), np.float32))
    answer = InferAnswer(ModelVersion("1"), (output,), 0, 0, LoadReport())
    assert judge(Ended(answer, None, "a", "A"), 4) is Verdict.ANSWERED
    assert judge(Ended(answer, None, "a", "A"), 5) is Verdict.AGAIN
    scalar = InferAnswer(
        ModelVersion("1"), (Tensor("y", output.datatype, (), b"\0" * 4),), 0, 0, LoadReport()
    )
    assert judge(Ended(scalar, None, "a", "A"), 1) is Verdict.AGAIN
