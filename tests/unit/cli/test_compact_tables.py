"""The tables of `capamesh nodes`, `models`, `explain`, `status` and `network show` in terminals of several widths."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from capamesh.cli import fleet_rows, printing
from capamesh.cli.__main__ import run
from capamesh.cli.compact_table import Column, table_lines
from capamesh.cli.short_text import cut_end, cut_middle, short_reason
from capamesh.client import Client
from capamesh.client.answers import Answer
from capamesh.client.asks import Ask
from capamesh.protocol.data_dir import DataDir

WIDTHS = (80, 160)
LONG = "a-name-of-a-machine-that-somebody-made-as-long-as-a-name-may-be"
RUNTIME = (
    "[ONNXRuntimeError] : 1 : FAIL : Load model from /srv/models/iris/1/model.onnx failed:/onnxruntime_src/onnxruntime/"
    "core/graph/model.cc:150 onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&, const "
    "onnxruntime::logging::Logger&) Unsupported model IR version: 11, max supported IR version: 10\n\nand a trace"
)
HOSTILE = "\x1b[2J\u202eevil\u2028" + "\u6f22" * 200
NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)


def node(number: int, name: str, **more: Any) -> dict[str, Any]:
    models = [
        {"name": f"sentiment-{at}", "version": "1", "state": "ready", "reason": ""}
        for at in range(8)
    ]
    return {
        "peer_id": f"12D3KooWHCvRGvLRkQfQngsbbmLpERxw7x1GXxy6iKp94z1Y{number:04}",
        "name": name,
        "region": "europe-west4-the-long-one",
        "price_per_million": 1.25,
        "member_since": "2027-02-28T12:00:00+00:00",
        "member_until": "2027-06-01T12:00:00+00:00",
        "devices": [{"kind": "cuda", "name": "NVIDIA H100 80GB HBM3", "memory_free_bytes": 2**36}],
        "models": models,
        "links": [
            {
                "address": "[2001:db8:85a3::8a2e:370:7334]:4100",
                "state": "closed",
                "reason": "",
                "is_usable": True,
                "requests_in_flight": 12,
                "answered": 123456789,
                "models": [{"name": "m", "version": "1", "state": "closed"}],
            }
        ],
        **more,
    }


def failing(number: int, name: str, reason: str) -> dict[str, Any]:
    bad = {"name": "iris", "version": "2", "state": "failed", "reason": reason}
    link = {"address": "a:1", "state": "closed", "is_usable": False, "last_error": reason}
    return node(number, name, models=[bad], links=[link])


NODES = [
    node(1, "gpu-1"),
    node(2, LONG),
    node(3, LONG),
    failing(4, "", RUNTIME),
    failing(5, HOSTILE, HOSTILE),
]
TENSORS = [
    {"name": f"a_rather_long_input_{at}", "datatype": "FP32", "shape": [-1, 3, 224, 224]}
    for at in range(3)
]


class Fleet:
    """A router with these nodes and models; it answers each question by its path."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = NODES
        self.index: list[dict[str, Any]] = [
            {"name": "iris", "version": "1", "state": "READY", "reason": ""},
            {"name": "iris", "version": "2", "state": "UNAVAILABLE", "reason": RUNTIME},
            {"name": "x" * 200, "version": "9" * 18, "state": "READY", "reason": ""},
            {"name": HOSTILE, "version": "", "state": "LOADING", "reason": HOSTILE},
        ]
        self.entries: list[dict[str, Any]] = []
        self.paths: list[str] = []

    def exchange(self, ask: Ask[Any]) -> object:
        self.paths.append(ask.path)
        replica = {
            "peer_id": "12D3KooWalpha", "name": LONG, "address": "a:1", "state": "forced_closed", "share": 1.0,
            "requests_in_flight": 100, "node_in_flight": 1000, "node_limit": 10000, "latency_us": 123456, "rtt_us": 400,
            "refusal": f"price 3 is over the cap 2; {HOSTILE}", "region": "eu",
        }  # fmt: skip
        bodies: dict[str, object] = {
            "/v1/nodes": {"nodes": self.nodes},
            "/v2/repository/index": self.index,
            "/v1/models": {"data": self.entries, "models": []},
            "/v1/models/m/routing": {"model": "m", "version": "1", "policy": "p2c", "replicas": [replica]},
        }  # fmt: skip
        metadata = {
            "name": "m",
            "versions": ["1"],
            "platform": "",
            "inputs": TENSORS,
            "outputs": TENSORS[:1],
        }
        body = bodies.get(ask.path, metadata)
        return ask.read(Answer(200, json.dumps(body).encode()), "http://router")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    for name in ("CAPAMESH_ROUTER", "CAPAMESH_DATA"):
        monkeypatch.delenv(name, raising=False)
    found = Fleet()
    monkeypatch.setattr(Client, "_exchange", lambda _, ask: found.exchange(ask))
    # the memberships of its nodes are new at this time, whenever the tests run
    clock = SimpleNamespace(UTC=dt.UTC, datetime=SimpleNamespace(now=NOW.astimezone))
    monkeypatch.setattr("capamesh.cli.fleet.dt", clock)
    return found


def set_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(printing, "console", lambda: Console(width=width, highlight=False))


def widest(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("line", ["nodes", "nodes --models", "models", "explain m"])
def test_table_fits_its_terminal_with_long_and_hostile_names(
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    width: int,
    line: str,
) -> None:
    set_width(monkeypatch, width)
    assert run(line.split()) in {0, 3}
    said = capsys.readouterr().out
    assert 40 < widest(said) <= width
    for raw in ("\x1b", "\u202e", "\u2028", "::Model", ".cc:", "/srv", "ONNXRuntimeError"):
        assert raw not in said


def test_node_is_one_line_and_what_is_wrong_stands_below(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_width(monkeypatch, 80)
    fleet.nodes = [NODES[0], NODES[3]]
    assert run(["nodes"]) == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "NODE STATE DEVICE MODELS IN FLIGHT ANSWERED REGION",
        "gpu-1 usable NVIDIA H100… 8 12 123456789 europe-west4…",
        "…4z1Y0004 not usable NVIDIA H100… 0 of 1 0 0 europe-west4…",
        "",
        "…4z1Y0004: Load model failed: Unsupported model IR version: 11, max supported…",
        "…4z1Y0004: iris/2 failed: Load model failed: Unsupported model IR version: 11…",
    ]


@pytest.mark.parametrize("line", ["nodes", "models", "nodes --wide", "models --wide"])
def test_empty_list_says_the_next_step(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    fleet.nodes, fleet.index = [], []
    assert run(line.split()) == 0
    assert "capamesh " in capsys.readouterr().out


def test_models_counts_ready_nodes_and_shows_no_other_version_s_tensors(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    def hosting(version: str, *, is_served: bool = True) -> dict[str, Any]:
        return {"name": "iris", "version": version, "state": "ready", "is_served": is_served}

    fleet.index = fleet.index[:2]
    fleet.nodes = [
        node(1, "a", models=[hosting("1"), hosting("1")]),  # on two devices
        node(2, "b", models=[hosting("1")]),
        node(3, "c", models=[hosting("1", is_served=False)]),
    ]
    assert run(["models"]) == 0
    header, first, second, _, note = capsys.readouterr().out.splitlines()
    assert header.split() == ["MODEL", "VERSION", "STATE", "NODES", "INPUTS", "OUTPUTS", "FILE"]
    assert " ".join(first.split()) == (
        "iris 1 READY 2 a_rather_long_input_0 FP32[-1,3,224,224] +2 a_rather_long_input_0 FP32[-1,3,224,224] -"
    )
    assert second.split() == ["iris", "2", "UNAVAILABLE", "0", "-", "-", "-"]
    assert (
        note
        == "iris/2: Load model failed: Unsupported model IR version: 11, max supported IR version: 10"
    )
    assert [path for path in fleet.paths if path.startswith("/v2/models")] == [
        "/v2/models/iris/versions/1"
    ]
    fleet.entries = [{"id": "iris", "task": "chat"}, {"id": "other", "task": None}]
    assert run(["models", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(one["nodes_ready"], one["inputs"]) for one in shown] == [(2, TENSORS), (0, None)]
    assert [one["task"] for one in shown] == ["chat", "chat"]
    assert run(["models", "--wide"]) == 0
    told = capsys.readouterr()
    assert "max supported IR version: 10" in told.out
    assert told.err == "for chat: capamesh chat iris\n"


def test_state_of_a_node_is_one_or_two_words() -> None:
    usable, not_usable = {"is_usable": True, "state": "closed"}, {"is_usable": False}
    for links, state in [
        ([], "no link"),
        ([usable], "usable"),
        ([not_usable], "not usable"),
        ([usable, not_usable], "partly usable"),
        ([{**usable, "state": "ejected"}], "ejected"),
        ([{**usable, "state": "forced_open"}], "held open"),
    ]:
        assert fleet_rows.short_state({"links": links}) == state
    assert fleet_rows.short_state({"is_draining": True, "links": [usable]}) == "draining"
    drained = {"links": [usable], "drained_until": "2026-12-24T20:30:00+00:00"}
    assert fleet_rows.short_state(drained) == "drained"
    (note,) = fleet_rows.node_notes({**node(1, "gpu"), **drained}, {}, NOW)
    assert note.endswith(": drained until 2026-12-24 20:30 UTC")


@pytest.mark.parametrize(
    ("age_days", "said"),
    [
        (49, []),
        (50, ["ends 2027-04-20 12:00 UTC, less than half of it is left"]),
        (90, ["ends 2027-03-11 12:00 UTC, less than a tenth of it is left"]),
    ],
)
def test_membership_is_noted_once_half_and_once_a_tenth_of_it_is_left(
    age_days: int, said: list[str]
) -> None:
    since = NOW - dt.timedelta(days=age_days)
    until = since + dt.timedelta(days=100)
    row = node(1, "gpu", member_since=since.isoformat(), member_until=until.isoformat())
    notes = fleet_rows.node_notes(row, {row["peer_id"]: "gpu"}, NOW)
    assert notes == [f"gpu: its membership {end}" for end in said]
    for unknown in (None, "yesterday", 7, "2027-01-01T00:00:00"):
        assert fleet_rows.node_notes({**row, "member_since": unknown}, {}, NOW) == []


def test_columns_are_left_out_before_names_are_shortened() -> None:
    columns = (Column("NAME", least=6, is_name=True), Column("N"), Column("MORE", is_optional=True))
    rows = [("gpu-in-room-12", 7, "y" * 9)]
    assert table_lines(columns, rows, 40)[1] == "gpu-in-room-12  7  yyyyyyyyy"
    assert table_lines(columns, rows, 20)[1] == "gpu-in-room-12  7"
    assert table_lines(columns, rows, 12)[1] == "gpu-…m-12  7"
    assert [cell_len(line) for line in table_lines(columns, rows, 4)] == [4, 4]


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        (
            RUNTIME,
            "Load model failed: Unsupported model IR version: 11, max supported IR version: 10",
        ),
        ("Connection refused (os error 111)", "Connection refused"),
        (
            "10 : INVALID_GRAPH : Load model from x.onnx failed:This is an invalid model. Error in Node:",
            "Load model from x.onnx failed:This is an invalid model",
        ),
    ],
)
def test_reason_is_short(reason: str, short: str) -> None:
    assert short_reason(reason) == short


@given(st.text(), st.integers(0, 30))
def test_no_text_is_wider_than_its_room(text: str, cells: int) -> None:
    for short in (cut_end(text, cells), cut_middle(text, cells)):
        assert cell_len(short) <= max(cells, 0)
    assert cell_len(short_reason(text, cells)) <= max(cells, 0)
    assert cut_end(text, 10**6) == text


@given(st.lists(st.tuples(st.text(), st.text()), max_size=4), st.integers(1, 60))
def test_no_line_of_any_table_is_wider_than_the_terminal(
    rows: list[tuple[str, str]], width: int
) -> None:
    columns = (Column("A", least=4, is_name=True), Column("B"))
    lines = table_lines(columns, rows, width)
    assert len(lines) == len(rows) + 1
    assert all(cell_len(line) <= width for line in lines)


def test_status_fits_but_for_addresses_which_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    set_width(monkeypatch, 80)
    address = f"/ip4/10.0.0.5/tcp/4001/p2p/{NODES[0]['peer_id']}"
    model = {"name": LONG, "version": "1", "device": 0, "state": "failed", "reason": RUNTIME}
    worker = {"device": 0, "name": LONG, "pid": 7, "starts": 1, "last_down": RUNTIME}
    members = {"mesh_addresses": [address], "workers": [worker], "models": [model]}
    DataDir(tmp_path).write_status(
        {"role": "node", "state": "waiting", "reason": " ".join([LONG] * 5), **members}
    )
    run(["node", "status", "--data", str(tmp_path)])
    said = capsys.readouterr().out
    assert widest("\n".join(line for line in said.splitlines() if address not in line)) <= 80
    assert address in said.split()
    assert ".cc:" not in said


def test_many_notes_are_counted(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.nodes = [failing(number, f"n{number}", "gone") for number in range(20)]
    assert run(["nodes"]) == 0
    assert capsys.readouterr().out.splitlines()[32:] == ["and 30 more: give --wide"]
