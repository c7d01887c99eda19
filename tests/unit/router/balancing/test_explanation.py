from __future__ import annotations

import dataclasses
import json
import math

from replicas import fleet, replica

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.attempt import AttemptRecord
from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.balancing.explanation import (
    MAX_SHOWN,
    Explanation,
    ReplicaSignals,
    attempt_bodies,
    explained,
    replica_body,
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


def test_replica_is_explained_by_what_it_was_judged_by() -> None:
    load = LoadReport(in_flight=4, limit=8, latency_us=12_345)
    one = replica("a", rif=2, load=load, load_s=NOW_S - 0.25, rtt_s=0.002, price=2.0)
    found = explain(one, chosen=(one,))
    assert found.replicas == (
        ReplicaSignals(
            peer=one.endpoint.peer,
            address="a:7000",
            refusal="",
            is_chosen=True,
            rif=2,
            reported_in_flight=4,
            limit=8,
            latency_s=0.012345,
            rtt_s=0.002,
            reported_s=0.25,
            price=2.0,
            region="eu",
            state="closed",
            share=1.0,
        ),
    )
    assert json.loads(found.to_json()) == {
        "model": "m",
        "version": "1",
        "policy": "prequal",
        "chosen": ["a"],
        "attempts": [],
        "replica_count": 1,
        "replicas": [
            {
                "peer_id": "a",
                "address": "a:7000",
                "is_chosen": True,
                "requests_in_flight": 2,
                "node_in_flight": 4,
                "node_limit": 8,
                "latency_us": 12345,
                "rtt_us": 2000,
                "report_age_us": 250000,
                "price_per_million": 2.0,
                "region": "eu",
                "state": "closed",
                "share": 1.0,
            }
        ],
    }


def test_chosen_come_first_then_the_others_that_could_then_those_that_could_not() -> None:
    refused, free, inhibited, chosen = replicas = fleet("abcd")
    refused.endpoint.is_draining = True
    inhibited.endpoint.health.failed(NOW_S, is_hard=True, cause="silent")
    found = explain(*replicas, chosen=(chosen,))
    assert [(each.peer, each.refusal) for each in found.replicas] == [
        ("d", ""),
        ("b", ""),
        ("a", "draining"),
        ("c", "inhibited: silent, 0.0 s ago"),
    ]
    assert [each.state for each in found.replicas] == ["closed"] * 3 + ["inhibited"]
    assert [each.share for each in found.replicas] == [1.0, 1.0, 1.0, 0.0]
    assert free.endpoint.peer == "b"
    capped = explain(*replicas, constraints=Constraints(max_price=1.0))
    assert {each.refusal for each in capped.replicas} >= {"price 1.5 is over the cap 1.0"}


def test_replica_that_was_chosen_and_is_gone_meanwhile_is_still_explained() -> None:
    gone, here = fleet("ab")
    gone.is_gone = True
    found = explain(here, chosen=(gone, here))
    assert found.chosen == ("a", "b")
    assert [(each.peer, each.is_chosen) for each in found.replicas] == [("b", True), ("a", True)]
    assert found.replicas[1].refusal == "it hosts the model no more"


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


def test_outcome_of_each_attempt_is_told_by_the_time_since_the_first() -> None:
    one, other = replica("a"), replica("b")
    attempts = (
        AttemptRecord(one, 100.0, 100.0015, "overloaded: " + "x" * 200),
        AttemptRecord(other, 100.25, None, "under way"),
    )
    body = json.loads(explain(one, other, chosen=(one, other), attempts=attempts).to_json())
    assert body["attempts"] == [
        {"peer_id": "a", "sent_us": 0, "ended_us": 1500, "outcome": "overloaded: " + "x" * 88},
        {"peer_id": "b", "sent_us": 250_000, "ended_us": None, "outcome": "under way"},
    ]
    assert json.loads(explain(one).to_json())["attempts"] == []


def test_times_are_told_in_whole_microseconds_and_the_share_in_thousandths() -> None:
    signals = dataclasses.replace(
        explain(replica("a")).replicas[0], latency_s=2.0, rtt_s=3.0, reported_s=4.0, share=0.12345
    )
    body = replica_body(signals)
    assert (body["latency_us"], body["rtt_us"], body["report_age_us"], body["share"]) == (
        2_000_000,
        3_000_000,
        4_000_000,
        0.123,
    )
    (attempt,) = attempt_bodies([AttemptRecord(replica("a"), 100.0, 102.0, "answered")])
    assert (attempt["sent_us"], attempt["ended_us"]) == (0, 2_000_000)
    attempts = attempt_bodies([AttemptRecord(replica(), at_s, None, "") for at_s in (100.0, 102.0)])
    assert [each["sent_us"] for each in attempts] == [0, 2_000_000]


def test_state_is_the_replica_s_own_where_it_is_not_well_and_the_endpoint_s_else() -> None:
    failing, recovering = fleet("ab")
    failing.health.failed(NOW_S, is_hard=False, cause="run_failed")
    recovering.endpoint.health.failed(NOW_S - 6.0, is_hard=True)  # for 5 s, then half of a ramp
    found = {each.peer: each for each in explain(failing, recovering).replicas}
    assert (found["a"].state, found["a"].share) == ("inhibited", 0.0)
    assert found["b"].state == "ramping"
    assert round(found["b"].share, 9) == 0.55
