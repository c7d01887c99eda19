"""The messages between a router's processes, each one's part of the limits, and pages made of the parts of several."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capamesh.protocol.channel.framing import Decoder, encode
from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.tensors import Limits
from capamesh.router.fleet.overrides import Hold
from capamesh.router.process.workers import main
from capamesh.router.process.workers.main import chunks
from capamesh.router.process.workers.merging import merged_node, merged_nodes, merged_requests
from capamesh.router.process.workers.messages import (
    Part,
    Start,
    ToMain,
    ToWorker,
    from_wire,
    held_of,
    hold_of,
    settings_of,
    settings_values,
    to_wire,
)
from capamesh.router.process.workers.shares import worker_settings
from capamesh.router.resilience.health import CircuitState
from capamesh.router.settings import RouterSettings


def travelled(message: ToWorker | ToMain) -> ToWorker | ToMain:
    (raw,) = Decoder().feed(encode(to_wire(message)))
    return from_wire(raw)


def test_settings_travel_without_the_token() -> None:
    settings = RouterSettings(
        data_folder=Path("/d"),
        token="secret",  # noqa: S106 - no secret
        token_file=Path("/t"),
        bootstrap=("/ip4/1.2.3.4/tcp/1/p2p/Q",),
        rules_file=Path("/r.toml"),
        keys="postgresql://me:secret@db/keys",
        tls_certificate=Path("/c.pem"),
        tls_key=Path("/c.key"),
        tls_client_ca=Path("/ca.pem"),
        limits=Limits(max_json_bytes=7),
        trusted_proxies=("10.0.0.0/8",),
        workers=3,
    )
    start = travelled(Start(2, settings_values(settings)))
    assert isinstance(start, Start)
    assert settings_of(start.settings) == replace(settings, token=None, token_file=None)


@pytest.mark.parametrize("state", [None, CircuitState.FORCED_OPEN])
def test_operators_word_travels_whole(state: CircuitState | None) -> None:
    hold = Hold(PeerId("p"), ModelName("m"), ModelVersion("1"), state)
    held = travelled(held_of(hold, 5))
    assert held == held_of(hold, 5)
    assert hold_of(held_of(hold)) == hold


@pytest.mark.parametrize(
    "raw",
    [{"type": "else"}, {"type": "part", "number": 1}, {"type": "part", "number": "1", "body": b""}],
)
def test_message_that_does_not_fit_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        from_wire(raw)
    assert travelled(Part(1, b"")) == Part(1, b"")


def test_envelopes_are_cut_into_messages_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "KNOWN_BYTES", 4)
    assert list(chunks([b"aa", b"bb", b"ccccc", b"d"])) == [(b"aa", b"bb"), (b"ccccc",), (b"d",)]
    assert list(chunks([])) == []


def test_given_limits_are_divided_and_rounded_up() -> None:
    budgets = {"body_budget_bytes": 100, "answer_budget_bytes": 50}
    connections = {"max_connections": 10, "max_connections_per_address": 4}
    settings = RouterSettings(Path(), workers=3, **budgets, **connections)
    mine = worker_settings(settings, memory_bytes=10**9, link_port=4102)
    assert (mine.body_budget_bytes, mine.answer_budget_bytes) == (34, 17)
    assert (mine.max_connections, mine.max_connections_per_address) == (4, 2)
    assert mine.link_port == 4102


def test_missing_limits_are_shares_of_the_machine() -> None:
    mine = worker_settings(RouterSettings(Path(), workers=2), memory_bytes=1600, link_port=0)
    assert (mine.body_budget_bytes, mine.answer_budget_bytes) == (100, 100)
    assert (mine.max_connections, mine.max_connections_per_address) == (2048, 1024)


def link(address: str, **fields: Any) -> dict[str, Any]:
    health = {"is_up": True, "is_usable": True, "last_error": "", "state": "closed", "reason": ""}
    counts = {"requests_in_flight": 1, "answered": 10, "failed": 2, "models": []}
    return {"address": address, **health, **counts, **fields}


def model(**fields: Any) -> dict[str, Any]:
    health = {"state": "closed", "reason": "", "share": 1.0, "requests_in_flight": 1}
    return {"name": "m", "version": "1", **health, **fields}


def node(*links: dict[str, Any], peer: str = "p") -> dict[str, Any]:
    return {"peer_id": peer, "links": list(links)}


def part(body: Any) -> bytes:
    return json.dumps(body).encode()


def test_links_to_the_same_address_add_up_and_show_what_is_wrong_with_one() -> None:
    own = link("a:1", is_up=False, is_usable=False, models=[model()])
    wrong = {"last_error": "refused", "state": "ejected", "reason": "it failed"}
    back, second = model(share=0.5, state="ramping", reason="back"), model(version="2")
    other = link("a:1", **wrong, models=[back, second])
    counts = {"requests_in_flight": 2, "answered": 20, "failed": 4}
    both = link("a:1", **wrong, **counts, models=[{**back, "requests_in_flight": 2}, second])
    assert json.loads(merged_node([part(node(own)), part(node(other))])) == node(both)


def test_links_that_a_node_has_dialled_are_each_processs_own() -> None:
    visit = link("dialled-in-1")
    found = json.loads(merged_node([part(node(visit)), part(node(visit))]))
    assert found == node(visit, visit)


def test_page_of_nodes_has_those_of_the_process_that_was_asked() -> None:
    pages = [{"nodes": [node(link("a:1")), node(peer="q")]}, {"nodes": [node(peer="r")]}]
    assert json.loads(merged_nodes([*map(part, pages)])) == pages[0]


def kind(count: int, last_at: float, error: str, *began_at: float) -> dict[str, Any]:
    newest = [{"began_at": each} for each in began_at]
    told = {"count": count, "last_at": last_at, "error": error, "newest": newest}
    return {"model": "m", "code": "late", **told}


def test_requests_of_one_kind_are_counted_together_and_the_newest_of_all_shown() -> None:
    full = {**kind(1, 7.0, "x"), "code": "full"}
    own = [kind(2, 5.0, "old", 5.0, 1.0)]
    other = [kind(7, 9.0, "new", 9.0, 8.0, 4.0, 3.0), full]
    merged = merged_requests([part({"kinds": kinds}) for kinds in (own, other)])
    assert json.loads(merged) == {"kinds": [kind(9, 9.0, "new", 9.0, 8.0, 5.0, 4.0, 3.0), full]}
