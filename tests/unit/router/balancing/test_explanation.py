from __future__ import annotations

import json
import math

from replicas import replica

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.balancing.attempt import AttemptRecord
from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.balancing.explanation import (
    MAX_SHOWN,
    Explanation,
    explained,
)
from capamesh.router.fleet.replica import Replica
from capamesh.router.rules.constraints import ANYWHERE, Constraints

NOW_S = 100.0


def explain(
    *replicas: Replica,
    chosen: tuple[Replica, ...] = (),
    constraints: Constraints = ANYWHERE,
    attempts: tuple[AttemptRecord, ...] = (),
) -> Explanation:
    return explained(
        ModelName("m"),
        ModelVersion("1"),
        "prequal",
        replicas=replicas,
        rules=Eligibility(constraints, now_s=NOW_S),
        chosen=chosen,
        attempts=attempts,
    )


def test_text_fits_a_header_whatever_the_fleet() -> None:
    replicas = [replica(f"peer-{number:046}-ü") for number in range(1000)]
    for one in replicas:
        one.endpoint.health.failed(NOW_S, is_hard=True, cause="x" * 1000)
    text = explain(*replicas).to_json()
    assert text.isascii()
    assert "\n" not in text
    assert len(text) < 8190
    shown = json.loads(text)
    assert (shown["replica_count"], len(shown["replicas"])) == (1000, MAX_SHOWN)
    assert shown["replicas"][0]["report_age_us"] is None
    assert math.isinf(explain(*replicas).replicas[0].reported_s)
