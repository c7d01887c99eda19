from __future__ import annotations

import dataclasses
import json
import math

from replicas import replica

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.balancing.attempt import AttemptRecord
from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.balancing.explanation import (
    MAX_SHOWN,
    Explanation,
    attempt_bodies,
    explained,
    replica_body,
)
from capamesh.router.fleet.replica import Replica

NOW_S = 100.0


def explain(*replicas: Replica) -> Explanation:
    return explained(
        ModelName("m"),
        ModelVersion("1"),
        "prequal",
        replicas=replicas,
        rules=Eligibility(now_s=NOW_S),
        chosen=(),
        attempts=(),
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


def test_times_are_told_in_whole_microseconds_and_the_share_in_thousandths() -> None:
    (signals,) = explain(replica("a")).replicas
    body = replica_body(
        dataclasses.replace(signals, latency_s=2.0, rtt_s=3.0, reported_s=4.0, share=0.12345)
    )
    assert (body["latency_us"], body["rtt_us"]) == (2_000_000, 3_000_000)
    assert (body["report_age_us"], body["share"]) == (4_000_000, 0.123)
    times_s = ((100.0, 102.0), (102.0, None))
    attempts = attempt_bodies([AttemptRecord(replica(), *each, "answered") for each in times_s])
    assert [each["sent_us"] for each in attempts] == [0, 2_000_000]
    assert attempts[0]["ended_us"] == 2_000_000
