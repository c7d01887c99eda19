"""The metrics of several processes, added up."""

from __future__ import annotations

import re

from capamesh.protocol.errors import ModelNotFound, Overloaded
from capamesh.protocol.ids import ModelName
from capamesh.router.telemetry import HTTP, MOST_MODELS, Telemetry
from capamesh.router.telemetry.summing import Sum
from capamesh.router.telemetry.totals import MOST_TENANTS, OTHERS

M = ModelName("m")


def test_requests_of_all_wires_are_one_count_by_model_and_each_has_its_own() -> None:
    telemetry = Telemetry()
    telemetry.totals.answered(M, HTTP, 0.003)
    telemetry.totals.answered(M, "grpc", 0.004)
    telemetry.totals.answered(ModelName("n"), "grpc", 0.02)
    telemetry.refused(M, Overloaded("full"), is_known=True, wire="grpc")
    telemetry.refused(M, Overloaded("full"), is_known=True)
    lines = telemetry.exposition().decode().splitlines()
    assert {
        'capamesh_requests_total{code="ok",model="m"} 2.0',
        'capamesh_requests_total{code="overloaded",model="m"} 2.0',
        'capamesh_request_seconds_count{model="m"} 2.0',
        'capamesh_wire_requests_total{code="ok",wire="http"} 1.0',
        'capamesh_wire_requests_total{code="ok",wire="grpc"} 2.0',
        'capamesh_wire_requests_total{code="overloaded",wire="grpc"} 1.0',
        'capamesh_wire_request_seconds_bucket{le="0.005",wire="grpc"} 1.0',
        'capamesh_wire_request_seconds_count{wire="grpc"} 2.0',
    } <= set(lines)
    assert telemetry.refusals() == {("m", "overloaded"): 2}
    assert sum(telemetry.latency_counts()[M]) == 2


def test_tenants_have_their_requests_and_those_beyond_the_first_share_one_label() -> None:
    telemetry = Telemetry()
    for seconds in (0.5, 0.25):
        telemetry.totals.tenant_answered("lab", seconds)
    telemetry.tenant_refused("lab", Overloaded("full"))
    for number in range(MOST_TENANTS + 2):
        telemetry.totals.tenant_answered(f"t{number}", 0.1)
    telemetry.tenant_refused("t0", Overloaded("full"))
    lines = telemetry.exposition().decode().splitlines()
    assert {
        'capamesh_tenant_requests_total{code="ok",tenant="lab"} 2.0',
        'capamesh_tenant_requests_total{code="overloaded",tenant="lab"} 1.0',
        'capamesh_tenant_request_seconds_total{tenant="lab"} 0.75',
        f'capamesh_tenant_requests_total{{code="ok",tenant="{OTHERS}"}} 3.0',
        'capamesh_tenant_requests_total{code="overloaded",tenant="t0"} 1.0',
    } <= set(lines)


def test_invented_model_names_make_no_series() -> None:
    telemetry = Telemetry()
    for number in range(100):
        telemetry.refused(ModelName(f"x{number}"), ModelNotFound("none"), is_known=False)
    text = telemetry.exposition().decode()
    assert 'capamesh_requests_total{code="model_not_found",model=""} 100.0' in text
    assert "x42" not in text


def test_models_beyond_the_first_share_one_label_and_no_count_is_lost() -> None:
    telemetry, last = Telemetry(), ModelName("last")
    for number in range(MOST_MODELS):
        telemetry.totals.answered(ModelName(f"m{number}"), HTTP, 0.003)
    for _ in range(3):
        telemetry.totals.answered(last, HTTP, 0.003)
    telemetry.totals.answered(ModelName("later"), HTTP, 0.003)
    telemetry.refused(last, Overloaded("full"), is_known=True)
    telemetry.attempted_again(last)
    text = telemetry.exposition().decode()
    assert {
        f'capamesh_requests_total{{code="ok",model="m{MOST_MODELS - 1}"}} 1.0',
        f'capamesh_requests_total{{code="ok",model="{OTHERS}"}} 4.0',
        f'capamesh_requests_total{{code="overloaded",model="{OTHERS}"}} 1.0',
        f'capamesh_request_seconds_count{{model="{OTHERS}"}} 4.0',
        f'capamesh_attempts_extra_total{{model="{OTHERS}"}} 1.0',
    } <= set(text.splitlines())
    assert not {'model="last"', 'model="later"'} & set(re.findall(r'model="[^"]*"', text))


def test_gauges_are_added_or_the_least_or_the_first_by_what_they_mean() -> None:
    names = ("requests_in_flight", 'fleet_usable{node="a"}', 'nodes{state="usable"}')

    def process(*values: int) -> bytes:
        lines: list[str] = []
        for name, value in zip(names, values, strict=True):
            bare = name.partition("{")[0]
            lines += [f"# HELP capamesh_{bare} Some words.", f"# TYPE capamesh_{bare} gauge"]
            lines.append(f"capamesh_{name} {value}")
        return "\n".join([*lines, ""]).encode()

    whole = Sum()
    for values in ((2, 1, 7), (3, 0, 6)):
        whole.add(process(*values))
    lines = [line for line in whole.text().decode().splitlines() if not line.startswith("#")]
    assert lines == [
        f"capamesh_{name} {value}" for name, value in zip(names, (5.0, 0.0, 7.0), strict=True)
    ]


CHAT = ModelName("chat")


def test_times_are_told_as_histograms() -> None:
    telemetry = Telemetry()
    telemetry.texts.ended(CHAT, "lab", (10, 4, 3), 0.3, 0.02)
    lines = telemetry.exposition().decode().splitlines()
    assert 'capamesh_first_token_seconds_bucket{le="0.2",model="chat"} 0.0' in lines
    assert 'capamesh_first_token_seconds_bucket{le="0.5",model="chat"} 1.0' in lines
    assert 'capamesh_token_gap_seconds_sum{model="chat"} 0.02' in lines
    assert 'capamesh_tenant_tokens_total{kind="completion",tenant="lab"} 3.0' in lines
