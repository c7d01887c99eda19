"""Sampled stacks are shared out among the layers of the router."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_modules import load

layers = load("router_layers")
ROOT = Path(__file__).resolve().parents[3]
RUN = "run (/usr/lib/python3.11/asyncio/runners.py:118)"
FRONT = "buffer_updated (/x/router/src/capamesh/router/http/connection.py:90)"
LINK = "flush (/x/protocol/src/capamesh/protocol/links/writer.py:40)"


@pytest.mark.parametrize(
    ("stack", "layer"),
    [
        (RUN, "loop"),
        (f"{RUN};{FRONT}", "socket and HTTP front"),
        (f"{RUN};{FRONT};loads (/usr/lib/python3.11/json/__init__.py:3)", "socket and HTTP front"),
        (f"{RUN};{FRONT};read (/x/protocol/src/capamesh/protocol/oip/forms.py:1)", "decoding"),
        (f"{RUN};{FRONT};text (/x/capamesh/protocol/oip/json_text.py:1)", "encoding"),
        (f"{RUN};{FRONT};reply (/x/capamesh/router/http/replies.py:1)", "encoding"),
        (f"{RUN};{FRONT};{LINK}", "link"),
        (f"{RUN};{FRONT};{LINK};write (/usr/lib/python3.11/ssl.py:8)", "TLS"),
        (f"{RUN};admit (/x/capamesh/router/admission/controller.py:8)", "admission"),
        (f"{RUN};choose (/x/capamesh/router/policies/prequal/pool.py:8)", "balancing"),
        (f"{RUN};act (/x/capamesh/router/requests/dispatch.py:8)", "pipeline and attempts"),
        (f"{RUN};add (/x/capamesh/router/telemetry/metrics.py:8)", "telemetry"),
        (f"{RUN};beat (/x/capamesh/router/supervision.py:8)", "other"),
        ("<module> (<string>)", "other"),
    ],
)
def test_stack_belongs_to_its_innermost_known_frame(stack: str, layer: str) -> None:
    assert layers.layer_of(stack) == layer


def test_shares_are_parts_of_the_loop_s_samples() -> None:
    waiting = "_bootstrap (/usr/lib/python3.11/threading.py:1002);_worker (/x/thread.py:81)"
    found = layers.shares(
        [f"{RUN} 6", f"{waiting} 90", f"{RUN};{FRONT} 3", f"{RUN};{FRONT};{LINK} 1", "nonsense"]
    )
    assert {layer: part for layer, part in found.items() if part} == {
        "loop": 0.6,
        "socket and HTTP front": 0.3,
        "link": 0.1,
    }
    assert tuple(found) == layers.LAYERS


def test_places_are_in_the_code() -> None:
    files = [str(path) for part in ("router", "protocol") for path in (ROOT / part).rglob("*.py")]
    places = [place for place, _ in layers._PLACES if place.startswith("capamesh/")]
    assert len(places) > 10
    assert [place for place in places if not any(place in file for file in files)] == []
