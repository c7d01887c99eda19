from __future__ import annotations

from capamesh.protocol.ids import ModelName
from capamesh.router.telemetry import Telemetry
from capamesh.router.telemetry.generations import GeneratedTexts
from capamesh.router.telemetry.totals import MOST_TENANTS, OTHERS

CHAT = ModelName("chat")


def test_tokens_are_counted_by_model_and_by_tenant() -> None:
    texts = GeneratedTexts()
    texts.ended(CHAT, "lab", (10, 4, 3), 0.3, 0.02)
    texts.ended(CHAT, "", (1, 0, 1), 0.1, None)
    assert dict(texts.of_models()) == {
        ("chat", "prompt"): 11,
        ("chat", "cached"): 4,
        ("chat", "completion"): 4,
    }
    assert dict(texts.of_tenants()) == {
        ("lab", "prompt"): 10,
        ("lab", "cached"): 4,
        ("lab", "completion"): 3,
    }


def test_times_are_of_answers_that_had_them() -> None:
    texts = GeneratedTexts()
    texts.ended(CHAT, "", (10, 0, 3), 0.3, 0.02)
    texts.ended(CHAT, "", (10, 0, 1), 0.3, None)
    texts.ended(CHAT, "", (10, 0, 0), None, None)
    of = texts.models[CHAT]
    assert (sum(of.first.counts), of.first.seconds) == (2, 0.6)
    assert (sum(of.gaps.counts), of.gaps.seconds) == (1, 0.02)


def test_tenants_beyond_the_first_have_one_place() -> None:
    texts = GeneratedTexts()
    for at in range(MOST_TENANTS + 5):
        texts.ended(CHAT, f"t{at}", (1, 0, 0), None, None)
    found = dict(texts.of_tenants())
    assert found[OTHERS, "prompt"] == 5
    assert len(found) == 3 * (MOST_TENANTS + 1)
    texts.ended(CHAT, "t0", (1, 0, 0), None, None)
    assert dict(texts.of_tenants())["t0", "prompt"] == 2


def test_times_are_told_as_histograms() -> None:
    telemetry = Telemetry()
    telemetry.texts.ended(CHAT, "lab", (10, 4, 3), 0.3, 0.02)
    lines = telemetry.exposition().decode().splitlines()
    assert 'capamesh_first_token_seconds_bucket{le="0.2",model="chat"} 0.0' in lines
    assert 'capamesh_first_token_seconds_bucket{le="0.5",model="chat"} 1.0' in lines
    assert 'capamesh_token_gap_seconds_sum{model="chat"} 0.02' in lines
    assert 'capamesh_tenant_tokens_total{kind="completion",tenant="lab"} 3.0' in lines
