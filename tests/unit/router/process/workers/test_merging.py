"""Pages that are made of the parts of several processes."""

from __future__ import annotations

import json
from typing import Any

from capamesh.router.process.workers.merging import merged_node, merged_nodes, merged_requests


def link(address: str, **fields: Any) -> dict[str, Any]:
    return {
        "address": address,
        "is_up": True,
        "is_usable": True,
        "last_error": "",
        "state": "closed",
        "reason": "",
        "requests_in_flight": 1,
        "answered": 10,
        "failed": 2,
        "models": [],
        **fields,
    }


def model(**fields: Any) -> dict[str, Any]:
    return {
        "name": "m",
        "version": "1",
        "state": "closed",
        "reason": "",
        "share": 1.0,
        "requests_in_flight": 1,
        **fields,
    }


def node(*links: dict[str, Any], peer: str = "p") -> dict[str, Any]:
    return {"peer_id": peer, "links": list(links)}


def part(body: Any) -> bytes:
    return json.dumps(body).encode()


def test_links_to_the_same_address_add_up_and_show_what_is_wrong_with_one() -> None:
    own = link("a:1", is_up=False, is_usable=False, models=[model()])
    other = link(
        "a:1",
        last_error="refused",
        state="ejected",
        reason="it failed",
        models=[model(share=0.5, state="ramping", reason="back"), model(version="2")],
    )
    found = json.loads(merged_node([part(node(own)), part(node(other))]))
    assert found == node(
        link(
            "a:1",
            last_error="refused",
            state="ejected",
            reason="it failed",
            requests_in_flight=2,
            answered=20,
            failed=4,
            models=[
                model(requests_in_flight=2, share=0.5, state="ramping", reason="back"),
                model(version="2"),
            ],
        )
    )


def test_links_that_a_node_has_dialled_are_each_processs_own() -> None:
    visit = link("dialled-in-1")
    found = json.loads(merged_node([part(node(visit)), part(node(visit))]))
    assert found == node(visit, visit)


def test_page_of_nodes_has_those_of_the_process_that_was_asked() -> None:
    pages = [{"nodes": [node(link("a:1")), node(peer="q")]}, {"nodes": [node(peer="r")]}]
    assert json.loads(merged_nodes([*map(part, pages)])) == pages[0]


def kind(count: int, last_at: float, error: str, *began_at: float) -> dict[str, Any]:
    newest = [{"began_at": each} for each in began_at]
    return {
        "model": "m", "code": "late", "count": count, "last_at": last_at, "error": error, "newest": newest,
    }  # fmt: skip


def test_requests_of_one_kind_are_counted_together_and_the_newest_of_all_shown() -> None:
    own = {"kinds": [kind(2, 5.0, "old", 5.0, 1.0)]}
    other = {
        "kinds": [kind(7, 9.0, "new", 9.0, 8.0, 4.0, 3.0), {**kind(1, 7.0, "x"), "code": "full"}]
    }
    assert json.loads(merged_requests([part(own), part(other)])) == {
        "kinds": [
            kind(9, 9.0, "new", 9.0, 8.0, 5.0, 4.0, 3.0),
            {**kind(1, 7.0, "x"), "code": "full"},
        ]
    }
