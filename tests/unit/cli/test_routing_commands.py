"""`capamesh explain`, `circuit` and `nodes`: what they ask of a router, and how they show what it says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from replicas import replica

from capamesh.cli import explain, fleet, options
from capamesh.cli.__main__ import run
from capamesh.client import Client
from capamesh.client.answers import Answer
from capamesh.client.asks import Ask
from capamesh.protocol.oip import error_body
from capamesh.router.access.operator_key import OperatorKey
from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.policies import DEFAULT_POLICY, POLICIES

REPLICA = {
    "peer_id": "12D3KooWalpha",
    "address": "a:1",
    "is_chosen": True,
    "requests_in_flight": 1,
    "node_in_flight": 3,
    "node_limit": 8,
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


def decision(*replicas: dict[str, Any], policy: str = "p2c") -> dict[str, Any]:
    chosen = [replica["peer_id"] for replica in replicas if replica["is_chosen"]]
    return {
        "model": "m",
        "version": "1",
        "policy": policy,
        "chosen": chosen,
        "replica_count": len(replicas),
        "replicas": list(replicas),
    }


class FakeRouter:
    """Answers every request alike and keeps them."""

    def __init__(self) -> None:
        self.asks: list[Ask[Any]] = []
        self.answer = Answer(200, b"{}")

    def exchange(self, ask: Ask[Any]) -> object:
        self.asks.append(ask)
        return ask.read(self.answer, "http://router")

    def says(self, value: object) -> None:
        self.answer = Answer(200, json.dumps(value).encode())


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> FakeRouter:
    for name in ("CAPAMESH_ROUTER", "CAPAMESH_DATA"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeRouter()
    monkeypatch.setattr(Client, "_exchange", lambda _, ask: fake.exchange(ask))
    return fake


def plain(line: str) -> str:
    """Return a table's line without its padding."""
    return " ".join(line.split())


def test_explain_asks_as_a_request_with_these_wishes_would(router: FakeRouter) -> None:
    router.says(decision(REPLICA))
    line = (
        "explain a/b --version 2 --policy p2c --region eu,us --max-price 2.5 --device cpu --affinity k "
        "--tenant me&you --priority 7 --timeout 0.25"
    )
    assert run(line.split()) == 0
    (ask,) = router.asks
    assert (ask.method, ask.path) == (
        "GET",
        "/v1/models/a%2Fb/routing?version=2&tenant=me%26you&priority=7&timeout=250000",
    )
    assert ask.headers == {
        "X-Capamesh-Policy": "p2c",
        "X-Capamesh-Region": "eu,us",
        "X-Capamesh-Max-Price": "2.5",
        "X-Capamesh-Device": "cpu",
        "X-Capamesh-Affinity": "k",
    }
    assert run(["explain", "m"]) == 0
    assert (router.asks[1].path, router.asks[1].headers) == ("/v1/models/m/routing", {})


def test_explain_shows_the_chosen_and_why_the_others_are_not(
    router: FakeRouter, capsys: pytest.CaptureFixture[str]
) -> None:
    router.says(decision(REPLICA, REFUSED))
    assert run(["explain", "m"]) == 0
    why, _, header, first, second = capsys.readouterr().out.splitlines()
    assert why == (
        "A request for m/1 would go to …ooWalpha at a:1: it is the only one of the 2 that host it that may"
        " have it."
    )
    assert plain(header) == (
        "NODE CIRCUIT SHARE IN FLIGHT LATENCY REFUSAL RTT PRICE REGION ADDRESS"
    )
    assert plain(first) == "→ …ooWalpha closed 100% 1/3/8 2.5 ms - 400 µs 1.5 eu a:1"
    assert plain(second) == (
        "…ooWother inhibited 0% 1/3/8 2.5 ms inhibited: silent, 0.2 s ago 400 µs 1.5 eu a:1"
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (decision(REPLICA, OTHER), "the less busy of two drawn by chance (p2c; 2 of the 2"),
        (decision(REPLICA, OTHER, policy="new"), "it was the policy's choice (new; 2 of the 2"),
        (decision({**REPLICA, "refusal": "late"}, REFUSED), "the least unfit (late)"),
        (decision(REFUSED), "can go nowhere: none of the 1 that hosts it may have it"),
        (decision(), "none of its nodes can be reached"),
        (
            {
                **decision(REFUSED),
                "admission": {"is_admitted": False, "status": 503, "error": "all is full"},
            },
            "A request for m/1 would be refused now (503): all is full.",
        ),
        (
            {**decision(REPLICA), "admission": {"is_admitted": True}},
            "A request for m/1 would go to 12D3KooWalpha",
        ),
    ],
)
def test_sentence_says_why(found: dict[str, Any], said: str) -> None:
    assert said in explain.sentence(found)


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize(
    ("found", "status"),
    [
        (decision(REPLICA, REFUSED), 0),
        (decision({**REPLICA, "refusal": "late"}), 0),
        (decision(REFUSED), 3),
        (decision(), 3),
        ({**decision(REPLICA), "admission": {"is_admitted": True}}, 0),
        ({**decision(REPLICA), "admission": {"is_admitted": False, "error": "full"}}, 3),
    ],
)
def test_exit_status_is_3_when_the_request_can_go_nowhere(
    router: FakeRouter,
    capsys: pytest.CaptureFixture[str],
    found: dict[str, Any],
    status: int,
    form: list[str],
) -> None:
    router.says(found)
    assert run(["explain", "m", *form]) == status
    if form:
        assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize(
    ("position", "state"),
    [("open", "forced_open"), ("closed", "forced_closed"), ("auto", "automatic")],
)
def test_circuit_shows_the_router_its_own_key(
    router: FakeRouter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    position: str,
    state: str,
) -> None:
    key = OperatorKey.create(tmp_path)
    router.says({"peer_id": "12D3KooWalpha"})
    line = ["circuit", "alpha", position, "--model", "m", "--version", "2", "--data", str(tmp_path)]
    assert run(line) == 0
    (ask,) = router.asks
    assert (ask.method, ask.path) == ("PUT", "/v1/nodes/alpha/circuit")
    assert key.opens(ask.headers["Authorization"])
    assert json.loads(bytes(ask.buffers[0])) == {"state": state, "model": "m", "version": "2"}
    said = capsys.readouterr()
    assert said.out.startswith("m/2 at 12D3KooWalpha ")
    back = f"capamesh circuit 12D3KooWalpha auto --model m --version 2 --data {tmp_path}"
    assert (back in said.err) is (position != "auto")
    assert key._key.decode() not in said.out + said.err


LINK = {"address": "a:1", "state": "closed", "reason": "", "models": []}
GONE = {**LINK, "is_up": False, "is_usable": False, "last_error": "Connection refused"}
MODEL = {
    "name": "m",
    "version": "1",
    "state": "ejected",
    "reason": "5 failures in a row",
    "share": 0.1,
    "requests_in_flight": 1,
    "node_in_flight": 2,
    "node_limit": 8,
    "queue_us": 1500,
    "run_us": 20,
}


@pytest.mark.parametrize(
    ("links", "text"),
    [
        ([], "-"),
        ([{**LINK, "reason": "link lost, long ago"}], "closed"),
        ([{**LINK, "state": "inhibited", "reason": "link lost"}], "inhibited: link lost"),
        ([{**LINK, "state": "forced_open", "reason": "said so"}], "forced_open: by the operator"),
        (
            [{**LINK, "models": [MODEL, {**MODEL, "state": "closed"}]}],
            "closed\n  m/1 ejected: 5 failures in a row",
        ),
        ([LINK, {**LINK, "address": "a:2"}], "a:1 closed\na:2 closed"),
        ([GONE], "-"),
        ([{**GONE, "state": "ramping"}], "-"),
        ([{**GONE, "models": [MODEL]}], "-"),
    ],
)
def test_node_s_circuit_is_shown_with_the_reason_and_where_a_model_s_differs(
    links: list[dict[str, Any]], text: str
) -> None:
    assert fleet._row({"links": links}, {})[3] == text


def test_nodes_are_shown_by_their_names_with_the_ends_of_peer_ids_where_several_have_one(
    router: FakeRouter, capsys: pytest.CaptureFixture[str]
) -> None:
    until = "2027-03-01T12:00:00+00:00"
    nodes = [
        {"peer_id": "12D3KooWaaaaaaaa", "name": "gpu", "member_until": until},
        {"peer_id": "12D3KooWbbbbbbbb", "name": "gpu"},
        {"peer_id": "12D3KooWcccccccc", "name": "lab"},
        {"peer_id": "12D3KooWdddddddd", "name": "\x1b[2J"},
    ]
    router.says({"nodes": nodes})
    assert run(["nodes"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert plain(header).startswith("NODE STATE DEVICE MODELS ")
    assert [plain(row).split()[0] for row in rows[:3]] == [
        "gpu…aaaaaaaa",
        "gpu…bbbbbbbb",
        "lab",
    ]
    assert plain(rows[0]).endswith("2027-03-01 12:00")
    assert plain(rows[1]).endswith("-")
    assert "\x1b" not in rows[3]


PEER = "12D3KooWHCvRGvLRkQfQngsbbmLpERxw7x1GXxy6iKp94z1YL3tM"


@pytest.mark.parametrize("line", [["nodes"], ["nodes", "--models"], ["explain", "m"]])
def test_peer_id_is_shown_by_its_end_and_whole_in_wide_tables(
    router: FakeRouter, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    node = {"peer_id": PEER, "links": [{**LINK, "models": [MODEL]}]}
    router.says({"nodes": [node], **decision({**REPLICA, "peer_id": PEER})})
    assert run(line) == 0
    words = capsys.readouterr().out.split()
    assert "…4z1YL3tM" in words
    assert PEER not in words
    assert run([*line, "--wide"]) == 0
    assert PEER in capsys.readouterr().out.split()


def test_policies_in_the_help_are_those_there_are_and_each_has_a_reason() -> None:
    assert list(options.POLICY_NAMES) == sorted(POLICIES)
    assert options.DEFAULT_POLICY == DEFAULT_POLICY
    assert set(explain._WHY) == set(POLICIES)


@pytest.mark.parametrize(
    ("refusal", "state", "shown"),
    [
        ("no link", "closed", "- 0%"),
        ("no link", "inhibited", "inhibited 0%"),
        ("no link", "forced_closed", "forced_closed 0%"),
        ("price 3 is over the cap 2", "closed", "closed 100%"),
    ],
)
def test_replica_without_a_way_to_it_is_not_said_to_be_used(
    router: FakeRouter, capsys: pytest.CaptureFixture[str], refusal: str, state: str, shown: str
) -> None:
    router.says(decision({**OTHER, "name": "gpu", "state": state, "refusal": refusal}))
    assert run(["explain", "m"]) == 3
    assert plain(capsys.readouterr().out.splitlines()[-1]).startswith(f"gpu {shown} ")


def test_refusals_for_want_of_a_way_are_the_router_s_own() -> None:
    made = replica("a")
    said: set[str] = set()
    for change in ({"is_draining": True}, {"link": None}, {"is_retired": True}):
        each = replica("a")
        for name, value in change.items():
            object.__setattr__(each.endpoint, name, value)
        said.add(Eligibility().refusal(each))
    object.__setattr__(made.endpoint, "link", SimpleNamespace(is_usable=False))
    said.add(Eligibility().refusal(made))
    made.is_gone = True
    said.add(Eligibility().refusal(made))
    assert said == explain.NO_WAY


def test_circuit_command_that_cannot_be_given_asks_nothing_and_a_refusal_is_reported(
    router: FakeRouter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in ("circuit p ajar", "circuit p open --version 1", "circuit p"):
        assert run([*line.split(), "--data", str(tmp_path)]) == 2
    assert run(["circuit", "p", "open"]) == 2
    assert run(["circuit", "p", "open", "--data", str(tmp_path)]) == 1
    assert "--data is the folder of the router" in capsys.readouterr().err
    assert router.asks == []
    OperatorKey.create(tmp_path)
    line = ["circuit", "…4z1YL3tM", "open", "--data", str(tmp_path)]
    router.says({"peer_id": PEER, "overrides": []})
    assert run([*line, "--json"]) == 0
    assert router.asks[0].path == "/v1/nodes/4z1YL3tM/circuit"
    assert json.loads(capsys.readouterr().out) == {"peer_id": PEER, "overrides": []}
    router.answer = Answer(401, error_body("this takes the operator's key"), "client_error")
    assert run(line) == 1
    assert capsys.readouterr().err == "capamesh: error: this takes the operator's key\n"
    router.says([])
    assert run(["explain", "m"]) == 1
    assert "is this a router's URL?" in capsys.readouterr().err


def test_models_of_nodes_that_are_held_or_gone_are_shown_so(
    router: FakeRouter, capsys: pytest.CaptureFixture[str]
) -> None:
    healthy = {**MODEL, "state": "closed", "share": 1.0}
    held = {**LINK, "state": "forced_open", "models": [healthy]}
    old = {"name": "m", "version": "1", "state": "ready", "reason": "serves the file before"}
    router.says(
        {
            "nodes": [
                {"peer_id": "A", "links": [{**GONE, "models": [healthy]}], "models": [old]},
                {"peer_id": "B", "links": [held]},
                {"peer_id": "C", "links": [{**LINK, "models": [MODEL]}]},
            ]
        }
    )
    assert run(["nodes", "--models"]) == 0
    header, gone, open_, busy = map(plain, capsys.readouterr().out.splitlines()[:4])
    assert header.startswith("NODE MODEL CIRCUIT SHARE ")
    assert busy == "C m/1 ejected: 5 failures in a row 10% 1/2/8 1.5 ms 20 µs a:1"
    assert gone == "A m/1 - 0% 1/2/8 1.5 ms 20 µs a:1"
    assert "forced_open: by the operator" in open_
    assert run(["nodes"]) == 0
    assert "A: m/1: serves the file before" in plain(capsys.readouterr().out)
