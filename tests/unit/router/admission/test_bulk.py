"""The room for jobs: rows, by a sum, without chance, and nothing that people get is less for it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from gates import Gate
from replicas import replica

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.admission.bulk_share import NO_LIMIT_ROWS
from capamesh.router.admission.controller import AdmissionController
from capamesh.router.fleet.replica import Replica


def load(limit_rows: int, *, bulk: int = 0, in_flight: int = 0, limit: int = 10) -> LoadReport:
    return LoadReport(
        in_flight, limit=limit, run_us=10_000, bulk_in_flight=bulk, limit_rows=limit_rows
    )


def host(peer: str = "a", report: LoadReport | None = None, *, best_rows: int = 1) -> Replica:
    one = replica(peer)
    one.offer = replace(one.offer, best_rows=best_rows)
    if report is not None:
        one.reported(report, 0.0)
    return one


def refusal(gate: Gate, rows: int = 1, now_s: float = 0.0, tenant: str = "") -> Overloaded | None:
    try:
        gate.admit(tenant, 128, rows, now_s)
    except Overloaded as error:
        return error
    return None


@pytest.mark.parametrize("lie", [2**64 - 1, 10**9])
def test_liar_opens_the_room_by_four_nodes_and_closes_its_own_alone(lie: int) -> None:
    honest = [host(str(at), load(400)) for at in range(3)]
    assert Gate(*honest, host("liar", load(lie))).bulk_room(0.0) == 300 + 400
    assert Gate(*honest, host("liar", load(400, bulk=lie))).bulk_room(0.0) == 300


def test_jobs_take_nothing_of_what_people_are_let_in_by() -> None:
    gate = Gate(host("a", load(40, limit=10)))
    calls = 0
    while refusal(gate, 5, tenant="job") is None:
        calls += 1
    assert calls == 2
    for _ in range(500):
        refusal(gate, 5, tenant="job")
    assert (gate.under_way, gate.saturation.extra) == (0, 0)
    assert gate.fair.in_flight("job") == 0
    assert not gate.fair.is_wanted
    assert set(gate.refusals.values()) == {0}
    assert len(gate.fair) == 0
    people = [gate.admit("people", 128, 0, 0.0) for _ in range(10)]  # every slot, as without jobs
    assert len(people) == 10
    error = refusal(gate, 0, tenant="people")
    assert error is not None
    assert "100% full, too much for online requests" in error.message


def test_router_that_limits_nobody_limits_no_job() -> None:
    controller = AdmissionController("m", random.Random(1), is_limited=False)
    replicas = (host("a", load(0)),)
    assert controller.bulk_room(replicas, 0.0) == NO_LIMIT_ROWS
    for _ in range(100):
        controller.admit(replicas, "", 128, 10**6, 0.0)
