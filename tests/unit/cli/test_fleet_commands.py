"""`capamesh nodes`, `models`, `explain`, `circuit` and `top`: what they ask of a router, and how they show what it says."""

from __future__ import annotations

import datetime as dt
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import replica
from rich.cells import cell_len
from rich.console import Console

from capamesh.cli import explain, fleet, fleet_rows, options, printing, top
from capamesh.cli.compact_table import Column, table_lines
from capamesh.cli.short_text import cut_end, cut_middle, short_reason
from capamesh.cli.top_view import top_lines
from capamesh.client.answers import Answer
from capamesh.protocol.errors import LinkLost
from capamesh.protocol.oip import error_body
from capamesh.router.access.operator_key import OperatorKey
from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.policies import DEFAULT_POLICY, POLICIES

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli, Router

LONG = "a-name-of-a-machine-that-somebody-made-as-long-as-a-name-may-be"
RUNTIME = (
    "[ONNXRuntimeError] : 1 : FAIL : Load model from /srv/models/iris/1/model.onnx failed:/onnxruntime_src/onnxruntime/"
    "core/graph/model.cc:150 onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&, const "
    "onnxruntime::logging::Logger&) Unsupported model IR version: 11, max supported IR version: 10\n\nand a trace"
)
SHORT = "Load model failed: Unsupported model IR version: 11, max supported IR version: 10"
HOSTILE = "\x1b[2J\u202eevil\u2028" + "\u6f22" * 200
NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)
PEER = "12D3KooWHCvRGvLRkQfQngsbbmLpERxw7x1GXxy6iKp94z1YL3tM"
UP = {"address": "a:1", "state": "closed", "reason": "", "is_usable": True, "models": []}
GONE = {**UP, "is_up": False, "is_usable": False, "last_error": "Connection refused"}
NAMED = {"name": "m", "version": "1"}
BUSY = {"requests_in_flight": 1, "node_in_flight": 2, "node_limit": 8}
MODEL = {
    **NAMED,
    **BUSY,
    "state": "ejected",
    "reason": "5 failures in a row",
    "share": 0.1,
    "queue_us": 1500,
    "run_us": 20,
}


def node(number: int, name: str, **more: Any) -> dict[str, Any]:
    ready = {"version": "1", "state": "ready", "reason": ""}
    address = "[2001:db8:85a3::8a2e:370:7334]:4100"
    counts = {"requests_in_flight": 12, "answered": 123456789}
    return {
        "peer_id": f"12D3KooWHCvRGvLRkQfQngsbbmLpERxw7x1GXxy6iKp94z1Y{number:04}",
        "name": name,
        "region": "europe-west4-the-long-one",
        "price_per_million": 1.25,
        "member_since": "2027-02-28T12:00:00+00:00",
        "member_until": "2027-06-01T12:00:00+00:00",
        "devices": [{"kind": "cuda", "name": "NVIDIA H100 80GB HBM3", "memory_free_bytes": 2**36}],
        "models": [{"name": f"sentiment-{at}", **ready} for at in range(8)],
        "links": [{**UP, "address": address, **counts, "models": [{**MODEL, "state": "closed"}]}],
        **more,
    }


def failing(number: int, name: str, reason: str) -> dict[str, Any]:
    bad = {"name": "iris", "version": "2", "state": "failed", "reason": reason}
    return node(number, name, models=[bad], links=[{**GONE, "last_error": reason}])


NODES = [node(number, name) for number, name in ((1, "gpu-1"), (2, LONG), (3, LONG))]
NODES += [failing(4, "", RUNTIME), failing(5, HOSTILE, HOSTILE)]
TENSORS = [
    {"name": f"a_rather_long_input_{at}", "datatype": "FP32", "shape": [-1, 3, 224, 224]}
    for at in range(3)
]
REPLICA = {
    **BUSY,
    "peer_id": "12D3KooWalpha",
    "address": "a:1",
    "is_chosen": True,
    "latency_us": 2500,
    "rtt_us": 400,
    "report_age_us": None,
    "price_per_million": 1.5,
    "region": "eu",
    "state": "closed",
    "share": 1.0,
    "refusal": "",
}
OTHER = {**REPLICA, "peer_id": "12D3KooWother", "is_chosen": False}
REFUSED = {**OTHER, "state": "inhibited", "share": 0.0, "refusal": "inhibited: silent, 0.2 s ago"}


def decision(*replicas: dict[str, Any], policy: str = "p2c", **more: object) -> dict[str, Any]:
    return {
        "model": "m",
        "version": "1",
        "policy": policy,
        "chosen": [each["peer_id"] for each in replicas if each["is_chosen"]],
        "replica_count": len(replicas),
        "replicas": list(replicas),
        **more,
    }


@pytest.fixture
def hosting(router: Router, monkeypatch: pytest.MonkeyPatch) -> Router:
    """Return a router of nodes and models with long and hostile names, at a time when their memberships are new."""
    router.body = {"name": "m", "versions": ["1"], "platform": "", "inputs": TENSORS}
    router.body |= {"outputs": TENSORS[:1]}
    router.bodies = {
        "/v1/nodes": {"nodes": NODES},
        "/v2/repository/index": [
            {"name": "iris", "version": "1", "state": "READY", "reason": ""},
            {"name": "iris", "version": "2", "state": "UNAVAILABLE", "reason": RUNTIME},
            {"name": "x" * 200, "version": "9" * 18, "state": "READY", "reason": ""},
            {"name": HOSTILE, "version": "", "state": "LOADING", "reason": HOSTILE},
        ],
        "/v1/models": {"data": [], "models": []},
        "/v1/models/m/routing": decision(
            {**REPLICA, "name": LONG, "is_chosen": False, "refusal": f"price 3; {HOSTILE}"}
        ),
    }
    clock = SimpleNamespace(UTC=dt.UTC, datetime=SimpleNamespace(now=NOW.astimezone))
    monkeypatch.setattr("capamesh.cli.fleet.dt", clock)
    return router


def set_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(printing, "console", lambda: Console(width=width, highlight=False))


def widest(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


# tables


@pytest.mark.usefixtures("hosting")
@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize(
    ("line", "status"), [("nodes", 0), ("nodes --models", 0), ("models", 0), ("explain m", 3)]
)
def test_table_fits_its_terminal_with_long_and_hostile_names(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int, line: str, status: int
) -> None:
    set_width(monkeypatch, width)
    said = cli(line, status=status).out
    assert 40 < widest(said) <= width
    for raw in ("\x1b", "\u202e", "\u2028", "::Model", ".cc:", "/srv", "ONNXRuntimeError"):
        assert raw not in said


def test_node_is_one_line_and_what_is_wrong_stands_below(
    hosting: Router, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_width(monkeypatch, 80)
    hosting.bodies["/v1/nodes"] = {"nodes": [NODES[0], NODES[3]]}
    assert cli("nodes").lines == [
        "NODE STATE DEVICE MODELS IN FLIGHT ANSWERED REGION",
        "gpu-1 usable NVIDIA H100… 8 12 123456789 europe-west4…",
        "…4z1Y0004 not usable NVIDIA H100… 0 of 1 0 0 europe-west4…",
        "",
        "…4z1Y0004: Load model failed: Unsupported model IR version: 11, max supported…",
        "…4z1Y0004: iris/2 failed: Load model failed: Unsupported model IR version: 11…",
    ]
    many = [failing(number, f"n{number}", "gone") for number in range(20)]
    hosting.bodies["/v1/nodes"] = {"nodes": many}
    assert cli("nodes").lines[32:] == ["and 30 more: give --wide"]


def test_lost_node_and_other_routers_are_named(hosting: Router, cli: Cli) -> None:
    models = [{"name": "iris", "version": "2", "nodes_before": 1}]
    gone = {"peer_id": "12D3KooWgone", "name": "gpu-9", "lost_at": "2026-03-01T12:00:07+00:00"}
    hosting.bodies |= {
        "/v1/nodes": {"nodes": [], "lost": [{**gone, "models": models}]},
        "/v1/routers": {
            "routers": [
                {"peer_id": "12D3KooWaaaaaaaa", "name": "r1", "is_this": True},
                {"peer_id": "12D3KooWbbbbbbbb", "name": "r2", "is_this": False},
            ]
        },
    }
    said = cli("nodes")
    assert "gpu-9 lost - 0 of 1 0 0 - 0 -" in said.lines
    assert "gpu-9: lost since 2026-03-01 12:00:07 UTC; it had iris/2" in said.lines
    assert "2 routers: r1 (…aaaaaaaa), this one, r2 (…bbbbbbbb)" in said.err
    assert "capamesh node forget" in said.err
    assert "lost since 2026-03-01 12:00:07 UTC" in cli("nodes --wide").out


def test_empty_list_says_the_next_step(hosting: Router, cli: Cli) -> None:
    hosting.bodies |= {"/v1/nodes": {"nodes": []}, "/v2/repository/index": []}
    for line in ("nodes", "models", "nodes --wide", "models --wide"):
        assert "capamesh " in cli(line).out


def test_models_counts_ready_nodes_and_shows_no_other_version_s_tensors(
    hosting: Router, cli: Cli
) -> None:
    def hosted(*, is_served: bool = True) -> dict[str, Any]:
        return {"name": "iris", "version": "1", "state": "ready", "is_served": is_served}

    nodes = [
        node(1, "a", models=[hosted(), hosted()]),  # on two devices
        node(2, "b", models=[hosted()]),
        node(3, "c", models=[hosted(is_served=False)]),
    ]
    index: Any = hosting.bodies["/v2/repository/index"]
    hosting.bodies |= {"/v1/nodes": {"nodes": nodes}, "/v2/repository/index": index[:2]}
    tensor = "a_rather_long_input_0 FP32[-1,3,224,224]"
    assert cli("models").lines == [
        "MODEL VERSION STATE NODES INPUTS OUTPUTS FILE",
        f"iris 1 READY 2 {tensor} +2 {tensor} -",
        "iris 2 UNAVAILABLE 0 - - -",
        "",
        f"iris/2: {SHORT}",
    ]
    paths = [ask.path for ask in hosting.asks if ask.path.startswith("/v2/models")]
    assert paths == ["/v2/models/iris/versions/1"]
    entries = [{"id": "iris", "task": "chat"}, {"id": "other", "task": None}]
    hosting.bodies["/v1/models"] = {"data": entries, "models": []}
    shown = cli("models --json").json
    assert [(one["nodes_ready"], one["inputs"]) for one in shown] == [(2, TENSORS), (0, None)]
    assert [one["task"] for one in shown] == ["chat", "chat"]
    told = cli("models --wide")
    assert "max supported IR version: 10" in told.out
    assert told.err == "for chat: capamesh chat iris\n"


USABLE, NOT_USABLE = {"is_usable": True, "state": "closed"}, {"is_usable": False}


def test_node_s_state_is_said_in_words() -> None:
    for row, short, wide in (
        ({"links": []}, "no link", "no link"),
        ({"links": [USABLE]}, "usable", "usable"),
        ({"links": [{**NOT_USABLE, "last_error": "no"}]}, "not usable", "not usable: no"),
        ({"links": [USABLE, NOT_USABLE]}, "partly usable", "usable 1 of 2 devices"),
        ({"links": [{**USABLE, "state": "ejected"}]}, "ejected", "usable"),
        ({"links": [{**USABLE, "state": "forced_open"}]}, "held open", "usable"),
        ({"links": [USABLE], "is_draining": True}, "draining", "draining"),
    ):
        assert (fleet_rows.short_state(row), fleet._row(row, {})[2]) == (short, wide)


def test_membership_is_noted_once_half_and_once_a_tenth_of_it_is_left() -> None:
    for age_days, said in (
        (49, []),
        (50, ["ends 2027-04-20 12:00 UTC, less than half of it is left"]),
        (90, ["ends 2027-03-11 12:00 UTC, less than a tenth of it is left"]),
    ):
        since = NOW - dt.timedelta(days=age_days)
        until = since + dt.timedelta(days=100)
        row = node(1, "gpu", member_since=since.isoformat(), member_until=until.isoformat())
        notes = fleet_rows.node_notes(row, {row["peer_id"]: "gpu"}, NOW)
        assert notes == [f"gpu: its membership {end}" for end in said]
        for unknown in (None, "yesterday", 7, "2027-01-01T00:00:00"):
            assert fleet_rows.node_notes({**row, "member_since": unknown}, {}, NOW) == []


def test_reason_is_short() -> None:
    load = "Load model from x.onnx failed:This is an invalid model"
    for reason, short in (
        (RUNTIME, SHORT),
        ("Connection refused (os error 111)", "Connection refused"),
        (f"10 : INVALID_GRAPH : {load}. Error in Node:", load),
    ):
        assert short_reason(reason) == short


@given(st.lists(st.tuples(st.text(), st.text()), max_size=4), st.integers(1, 60))
def test_no_text_and_no_table_is_wider_than_its_room(
    rows: list[tuple[str, str]], width: int
) -> None:
    lines = table_lines((Column("A", least=4, is_name=True), Column("B")), rows, width)
    assert len(lines) == len(rows) + 1
    for text, _ in rows:
        lines += [cut_end(text, width), cut_middle(text, width), short_reason(text, width)]
        assert cut_end(text, 10**6) == text
    assert all(cell_len(line) <= width for line in lines)


def test_key_that_may_only_infer_lists_the_models_that_it_may_run(router: Router, cli: Cli) -> None:
    router.body = Answer(403, error_body("no"), "forbidden")
    router.bodies["/v1/models"] = {
        "object": "list",
        "data": [{"id": "m", "task": None, "versions": ["1", "2"]}],
    }
    specs = [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    for version in "12":
        told = {"name": "m", "versions": [version], "platform": "p", "inputs": specs, "outputs": []}
        router.bodies[f"/v2/models/m/versions/{version}"] = told
    assert [line.split()[:4] for line in cli("models").lines[1:]] == [
        ["m", "1", "READY", "-"],
        ["m", "2", "READY", "-"],
    ]
    assert [entry["nodes_ready"] for entry in cli("models --json").json] == [None, None]


def test_circuits_and_models_of_a_node_are_shown_with_the_reason() -> None:
    both = [MODEL, {**MODEL, "state": "closed"}]
    for links, text in (
        ([], "-"),
        ([{**UP, "reason": "link lost, long ago"}], "closed"),
        ([{**UP, "state": "inhibited", "reason": "link lost"}], "inhibited: link lost"),
        ([{**UP, "state": "forced_open", "reason": "x"}], "forced_open: by the operator"),
        ([{**UP, "models": both}], "closed\n  m/1 ejected: 5 failures in a row"),
        ([UP, {**UP, "address": "a:2"}], "a:1 closed\na:2 closed"),
        ([{**GONE, "models": [MODEL]}], "-"),
    ):
        assert fleet._row({"links": links}, {})[3] == text
    for model, text in (
        ({"provider": "CPUExecutionProvider"}, "m/1 (CPU)"),
        ({"provider": "CUDAExecutionProvider", "precision": "fp16"}, "m/1 (CUDA, fp16)"),
        ({"state": "loading", "provider": "CUDAExecutionProvider"}, "m/1 loading"),
        ({"state": "failed", "reason": "no memory"}, "m/1 failed: no memory"),
    ):
        shown = {**NAMED, "state": "ready", **model}
        assert fleet._row({"models": [shown]}, {})[5] == text


def test_peer_id_is_shown_by_its_end_and_whole_in_wide_tables(router: Router, cli: Cli) -> None:
    nodes = [{"peer_id": PEER, "links": [{**UP, "models": [MODEL]}]}]
    router.body = decision({**REPLICA, "peer_id": PEER}, nodes=nodes)
    for line in ("nodes", "nodes --models", "explain m"):
        words = cli(line).out.split()
        assert ("…4z1YL3tM" in words, PEER in words) == (True, False)
        assert PEER in cli(f"{line} --wide").out.split()


def test_models_of_nodes_that_are_held_or_gone_are_shown_so(router: Router, cli: Cli) -> None:
    healthy = {**MODEL, "state": "closed", "share": 1.0}
    held = {**UP, "state": "forced_open", "models": [healthy]}
    old = {"name": "m", "version": "1", "state": "ready", "reason": "serves the file before"}
    router.body = {
        "nodes": [
            {"peer_id": "A", "links": [{**GONE, "models": [healthy]}], "models": [old]},
            {"peer_id": "B", "links": [held]},
            {"peer_id": "C", "links": [{**UP, "models": [MODEL]}]},
        ]
    }
    header, gone, open_, busy = cli("nodes --models").lines[:4]
    assert header.startswith("NODE MODEL CIRCUIT SHARE ")
    assert busy == "C m/1 ejected: 5 failures in a row 10% 1/2/8 1.5 ms 20 µs a:1"
    assert gone == "A m/1 - 0% 1/2/8 1.5 ms 20 µs a:1"
    assert "forced_open: by the operator" in open_
    assert "A: m/1: serves the file before" in cli("nodes").lines


# explain


def test_explain_asks_as_a_request_with_these_wishes_would(router: Router, cli: Cli) -> None:
    router.body = decision(REPLICA)
    cli(
        "explain a/b --version 2 --policy p2c --region eu,us --max-price 2.5 --device cpu --affinity k "
        "--tenant me&you --priority 7 --timeout 0.25"
    )
    cli("explain m")
    path = "/v1/models/a%2Fb/routing?version=2&tenant=me%26you&priority=7&timeout=250000"
    names = ("Policy", "Region", "Max-Price", "Device", "Affinity")
    wishes = zip(names, ("p2c", "eu,us", "2.5", "cpu", "k"), strict=True)
    assert [(ask.method, ask.path, ask.headers) for ask in router.asks] == [
        ("GET", path, {f"X-Capamesh-{name}": value for name, value in wishes}),
        ("GET", "/v1/models/m/routing", {}),
    ]


def test_explain_shows_the_chosen_and_why_the_others_are_not(router: Router, cli: Cli) -> None:
    router.body = decision(REPLICA, REFUSED)
    assert cli("explain m").lines == [
        "A request for m/1 would go to …ooWalpha at a:1: it is the only one of the 2 that host it that may"
        " have it.",
        "",
        "NODE CIRCUIT SHARE IN FLIGHT LATENCY REFUSAL RTT PRICE REGION ADDRESS",
        "→ …ooWalpha closed 100% 1/2/8 2.5 ms - 400 µs 1.5 eu a:1",
        "…ooWother inhibited 0% 1/2/8 2.5 ms inhibited: silent, 0.2 s ago 400 µs 1.5 eu a:1",
    ]


ADMITTED = {"is_admitted": True}
FULL = {"is_admitted": False, "status": 503, "error": "all is full"}


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        (decision(REPLICA, OTHER), 0, "the less busy of two drawn by chance (p2c; 2 of the 2"),
        (decision(REPLICA, OTHER, policy="new"), 0, "it was the policy's choice (new; 2 of the 2"),
        (decision({**REPLICA, "refusal": "late"}, REFUSED), 0, "the least unfit (late)"),
        (decision(REFUSED), 3, "can go nowhere: none of the 1 that hosts it may have it"),
        (decision(), 3, "none of its nodes can be reached"),
        (decision(REPLICA, admission=FULL), 3, "m/1 would be refused now (503): all is full."),
        (decision(REPLICA, admission=ADMITTED), 0, "A request for m/1 would go to 12D3KooWalpha"),
    ],
)
def test_sentence_says_why_and_the_status_is_3_where_the_request_can_go_nowhere(
    router: Router, cli: Cli, found: dict[str, Any], status: int, said: str
) -> None:
    assert said in explain.sentence(found)
    router.body = found
    cli("explain m", status=status)
    assert cli("explain m --json", status=status).json == found


def test_words_of_policies_and_refusals_are_the_router_s_own() -> None:
    assert list(options.POLICY_NAMES) == sorted(POLICIES)
    assert options.DEFAULT_POLICY == DEFAULT_POLICY
    assert set(explain._WHY) == set(POLICIES)
    said: set[str] = set()
    for name, value in (
        ("is_draining", True),
        ("link", None),
        ("is_retired", True),
        ("link", SimpleNamespace(is_usable=False)),
    ):
        made = replica("a")
        object.__setattr__(made.endpoint, name, value)
        said.add(Eligibility().refusal(made))
    made.is_gone = True
    said.add(Eligibility().refusal(made))
    assert said == explain.NO_WAY


# circuit


def test_circuit_shows_the_router_its_own_key(router: Router, cli: Cli, tmp_path: Path) -> None:
    key = OperatorKey.create(tmp_path)
    router.body = {"peer_id": "12D3KooWalpha"}
    words = f"--model m --version 2 --data {tmp_path}"
    for position, state in (
        ("open", "forced_open"),
        ("closed", "forced_closed"),
        ("auto", "automatic"),
    ):
        said = cli(f"circuit alpha {position} {words}")
        ask = router.asks.pop()
        assert (ask.method, ask.path) == ("PUT", "/v1/nodes/alpha/circuit")
        assert key.opens(ask.headers["Authorization"])
        sent = {"state": state, "model": "m", "version": "2"}
        assert json.loads(bytes(ask.buffers[0])) == sent
        assert said.out.startswith("m/2 at 12D3KooWalpha ")
        back = f"capamesh circuit 12D3KooWalpha auto {words}"
        assert (back in said.err) is (position != "auto")
        assert key._key.decode() not in said.out + said.err


def test_circuit_command_that_cannot_be_given_asks_nothing_and_a_refusal_is_reported(
    router: Router, cli: Cli, tmp_path: Path
) -> None:
    for line in ("circuit p ajar", "circuit p open --version 1", "circuit p"):
        cli(f"{line} --data", tmp_path, status=2)
    assert "there is no router in" in cli("circuit p open", status=1).err
    said = cli("circuit p open --data", tmp_path, status=1).err
    assert "--data is the folder of the router" in said
    assert router.asks == []
    OperatorKey.create(tmp_path)
    router.body = {"peer_id": PEER, "overrides": []}
    assert cli("circuit …4z1YL3tM open --json --data", tmp_path).json == router.body
    assert router.asks[0].path == "/v1/nodes/4z1YL3tM/circuit"
    router.body = Answer(401, error_body("this takes the operator's key"), "client_error")
    said = cli("circuit p open --data", tmp_path, status=1).err
    assert said == "capamesh: error: this takes the operator's key\n"
    router.body = []
    assert "is this a router's URL?" in cli("explain m", status=1).err


# top

TRAFFIC = {"requests_per_s": 12.5, "errors_per_s": 0.5, "p50_us": 2500, "p99_us": 40000}


def top_model(**more: Any) -> dict[str, Any]:
    return {"is_newest": True, "is_reached": True, "nodes_ready": 2, "requests_in_flight": 3} | more


def top_node(state: str, **more: Any) -> dict[str, Any]:
    row = {"name": "", "state": state, "reason": "", "models": 2, "models_ready": 2}
    return {**row, "counts": [[400, 1, 10, 2], [300, 2, 20, 0]], **more}


SNAPSHOT = {
    "revision": "a-1",
    "router": {"state": "ready", "reason": ""},
    "nodes": {
        "12D3KooWaaaaaaaa": top_node("usable", name="good"),
        "12D3KooWbbbbbbbb": top_node("unusable", name="gone", reason="Connection refused"),
    },
    "models": {
        "iris/2": top_model(traffic=TRAFFIC),
        "iris/1": top_model(is_newest=False, traffic=TRAFFIC),
        "bad/1": top_model(
            is_reached=False, failed_at=[{"peer_id": "x", "reason": "no memory; x"}]
        ),
    },
}


def test_view_shows_trouble_first_and_counts_a_model_once() -> None:
    assert [" ".join(line.split()) for line in top_lines(SNAPSHOT, 80, 24)] == [
        "ready nodes 1 of 2 usable models 3 12.5 req/s 0.5 errors/s",
        "",
        "MODEL NODES IN FLIGHT REQ/S ERR/S p50 p99 WHY",
        "bad/1 2 3 0.0 0.0 - - no memory",
        "iris/2 2 3 12.5 0.5 2.5 ms 40 ms",
        "iris/1 2 3 0.0 0.0 - -",
        "",
        "NODE STATE MODELS IN FLIGHT ANSWERED FAILED RTT WHY",
        "gone unusable 2 of 2 3 30 2 300 µs Connection refused",
        "good usable 2 of 2 3 30 2 300 µs",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50), (40, 12)])
def test_view_fits_its_terminal_however_large_the_fleet_is(width: int, height: int) -> None:
    nodes = {f"peer-{at:08}": top_node("usable", reason=HOSTILE, name=HOSTILE) for at in range(90)}
    models = {f"{HOSTILE}{at}/1": top_model(traffic=TRAFFIC) for at in range(90)}
    large = {"nodes": nodes, "models": models}
    lines = top_lines(large, width, height, note=f"not current: {HOSTILE}")
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    for word in ("usable", "12.5"):
        assert sum(word in line for line in lines[1:]) >= 3
    assert len(top_lines(large, width, None)) == 90 + 90 + 5


KEYS = ["router", "nodes", "models", "counts", "failing", "failed_at", "traffic"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(KEYS[:3]), VALUES, max_size=3))
def test_view_of_any_json_is_lines(snapshot: dict[str, Any]) -> None:
    assert all(cell_len(line) <= 80 for line in top_lines(snapshot, 80, 24))


def test_top_prints_once_where_there_is_no_terminal(router: Router, cli: Cli) -> None:
    router.body = SNAPSHOT
    assert "iris/2" in cli("top --once").out
    assert cli("top --json").json == SNAPSHOT


def test_top_goes_on_when_the_router_is_back_and_ends_with_q(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Console(width=80, height=24, force_terminal=True)
    monkeypatch.setattr(printing, "console", lambda: screen)
    answers: list[dict[str, Any] | Exception] = [SNAPSHOT, LinkLost("it was closed"), SNAPSHOT]
    keys = ["", "", "q"]

    def snapshot() -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    top._follow(snapshot, lambda _: keys.pop(0), 2.0)
    assert (answers, keys) == ([], [])
    said = capsys.readouterr().out
    assert "not current, asked again in 2 s: it was closed" in said
    assert said.count("iris/2") == 3  # what was known is still shown meanwhile
