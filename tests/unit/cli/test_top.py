"""`capamesh top`: what it shows of a snapshot, and how it goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from capamesh.cli import printing, top
from capamesh.cli.__main__ import run
from capamesh.cli.top_view import top_lines
from capamesh.client import Client
from capamesh.client.answers import Answer
from capamesh.protocol.errors import LinkLost

TRAFFIC = {"requests_per_s": 12.5, "errors_per_s": 0.5, "p50_us": 2500, "p99_us": 40000}
HOSTILE = "\x1b[2J\u202e" + "\u6f22" * 100


def model(**more: Any) -> dict[str, Any]:
    return {"is_newest": True, "is_reached": True, "nodes_ready": 2, "requests_in_flight": 3} | more


def node(state: str, **more: Any) -> dict[str, Any]:
    row = {"name": "", "state": state, "reason": "", "models": 2, "models_ready": 2}
    return {**row, "counts": [[400, 1, 10, 2], [300, 2, 20, 0]], **more}


SNAPSHOT = {
    "revision": "a-1",
    "router": {"state": "ready", "reason": ""},
    "nodes": {
        "12D3KooWaaaaaaaa": node("usable", name="good"),
        "12D3KooWbbbbbbbb": node("unusable", name="gone", reason="Connection refused"),
    },
    "models": {
        "iris/2": model(traffic=TRAFFIC),
        "iris/1": model(is_newest=False, traffic=TRAFFIC),
        "bad/1": model(is_reached=False, failed_at=[{"peer_id": "x", "reason": "no memory; x"}]),
    },
}


def test_view_shows_trouble_first_and_counts_a_model_once() -> None:
    lines = [" ".join(line.split()) for line in top_lines(SNAPSHOT, 80, 24)]
    assert lines == [
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
    large = {
        "nodes": {f"peer-{at:08}": node("usable", reason=HOSTILE, name=HOSTILE) for at in range(90)},
        "models": {f"{HOSTILE}{at}/1": model(traffic=TRAFFIC) for at in range(90)},
    }  # fmt: skip
    lines = top_lines(large, width, height, note=f"not current: {HOSTILE}")
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    assert sum("usable" in line for line in lines[1:]) >= 3
    assert sum("12.5" in line for line in lines[1:]) >= 3
    assert len(top_lines(large, width, None)) == 90 + 90 + 5


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["router", "nodes", "models", "counts", "failing", "failed_at", "traffic"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["router", "nodes", "models"]), VALUES, max_size=3))
def test_view_of_any_json_is_lines(snapshot: dict[str, Any]) -> None:
    assert all(cell_len(line) <= 80 for line in top_lines(snapshot, 80, 24))


def test_top_prints_once_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CAPAMESH_ROUTER", raising=False)
    body = Answer(200, json.dumps(SNAPSHOT).encode())
    monkeypatch.setattr(Client, "_exchange", lambda _, ask: ask.read(body, "http://router"))
    assert run(["top", "--once"]) == 0
    assert "iris/2" in capsys.readouterr().out
    assert run(["top", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == SNAPSHOT


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
