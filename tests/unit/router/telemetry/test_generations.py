from __future__ import annotations

from capamesh.protocol.ids import ModelName
from capamesh.router.telemetry import Telemetry

CHAT = ModelName("chat")


def test_times_are_told_as_histograms() -> None:
    telemetry = Telemetry()
    telemetry.texts.ended(CHAT, "lab", (10, 4, 3), 0.3, 0.02)
    lines = telemetry.exposition().decode().splitlines()
    assert 'capamesh_first_token_seconds_bucket{le="0.2",model="chat"} 0.0' in lines
    assert 'capamesh_first_token_seconds_bucket{le="0.5",model="chat"} 1.0' in lines
    assert 'capamesh_token_gap_seconds_sum{model="chat"} 0.02' in lines
    assert 'capamesh_tenant_tokens_total{kind="completion",tenant="lab"} 3.0' in lines
