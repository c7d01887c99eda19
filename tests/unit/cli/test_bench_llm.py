"""`capamesh bench-llm`: its prompts and measures, what it draws, and what it asks."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from capamesh.cli.__main__ import run
from capamesh.cli.llm_load.measures import Level, Sample, Spread, level_of
from capamesh.cli.llm_load.prompts import LONG, SHORT, Gauge, prompt
from capamesh.cli.llm_load.report import COLUMNS, bar, drawing, table_rows
from capamesh.cli.operator_client import AsyncOperatorClient
from capamesh.client import Choice, Generation, TextPiece, TokenUsage
from capamesh.protocol.errors import Overloaded, Unauthenticated

SAMPLE = Sample(1.0, 3.0, (1.5, 2.0, 2.25), 10, 4)


def test_prompts_are_the_same_for_a_seed_and_no_two_begin_alike() -> None:
    first = prompt(1, 50, "measured", 4, 0, 0)
    assert first == prompt(1, 50, "measured", 4, 0, 0)
    assert len(first.split()) == 50
    others = [prompt(1, 50, "measured", 4, 0, at) for at in range(1, 200)]
    others += [prompt(2, 50, "measured", 4, 0, 0), prompt(1, 50, "warm-up", 4, 0, 0)]
    beginnings = {" ".join(each.split()[:8]) for each in (first, *others)}
    assert len(beginnings) == len(others) + 1


@pytest.mark.parametrize(
    ("short", "long", "tokens", "words"),
    [
        (SHORT + 20, LONG + 20, 128, 108),  # a token a word, behind a template of 20
        (2 * SHORT, 2 * LONG, 128, 64),
        (0, 0, 128, 128),  # the server does not count
        (SHORT + 200, LONG + 200, 128, 1),
    ],
)
def test_prompts_have_about_the_tokens_that_are_asked_for(
    short: int, long: int, tokens: int, words: int
) -> None:
    assert Gauge.of(short, long).words(tokens) == words


def test_times_are_as_vllm_and_genai_perf_define_them() -> None:
    assert SAMPLE.first_token_s == 0.5
    assert SAMPLE.total_s == 2.0
    assert SAMPLE.token_s == 0.5  # 1.5 s behind the first of four tokens
    assert SAMPLE.gaps_s == [0.5, 0.25]
    assert Sample(0.0, 1.0, (1.0,), 1, 1).token_s is None


def test_level_counts_tokens_of_its_whole_time_and_failures_apart() -> None:
    other = Sample(2.0, 5.0, (3.0, 4.0), 20, 2)
    failed = [Sample(0.0, 1.0, error=text) for text in ("b", "a", "a")]
    level = level_of(2, [SAMPLE, *failed, other])
    assert (level.callers, level.requests, level.error_count) == (2, 2, 3)
    assert list(level.errors.items()) == [("a", 2), ("b", 1)]
    assert (level.duration_s, level.tokens_per_s, level.requests_per_s) == (5.0, 1.2, 0.4)
    assert (level.prompt_tokens, level.completion_tokens) == (15.0, 3.0)
    assert level.first_token_s == Spread(0.75, 0.75, pytest.approx(0.95), pytest.approx(0.995), 1.0)
    assert level.total_s is not None
    assert level.total_s.most == 3.0
    assert level.gap_s is not None
    assert (level.gap_s.p50, level.gap_s.most) == (0.5, 1.0)
    assert json.loads(json.dumps(level.as_json()))["total_s"]["mean"] == 2.5


def test_level_of_failures_alone_has_no_times() -> None:
    level = level_of(1, [Sample(0.0, 1.0, error="a")])
    assert (level.first_token_s, level.token_s, level.tokens_per_s) == (None, None, 0.0)
    assert level_of(1, []).requests_per_s == 0.0
    assert table_rows([level])[0][2:5] == ("", "0.00", "-")


def test_table_and_drawing_have_each_level() -> None:
    levels = [level_of(callers, [SAMPLE] * callers) for callers in (1, 2)]
    rows = table_rows(levels)
    assert [len(row) for row in rows] == [len(COLUMNS)] * 2
    assert rows[0] == (
        1, "2.0", "█" * 8, "0.50", "500 ms", "500 ms", "500 ms", "500 ms", "498 ms", "2 s", 0
    )  # fmt: skip
    assert (bar(0.51, 1.0), bar(1.0, 0.0)) == ("█" * 8 + "▏", "")
    drawn = drawing("a <model>", levels)
    assert "a &lt;model&gt;" in drawn
    lines = re.findall(r'polyline points="([^"]+)"', drawn)
    assert [len(points.split()) for points in lines] == [2] * 5


class Stream:
    """A stream of three pieces."""

    def __init__(self, prompt_tokens: int) -> None:
        usage = TokenUsage(prompt_tokens, 3)
        self.answer = Generation((Choice("abc", "length"),), usage, "small")

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[TextPiece]:
        for text in "abc":
            yield TextPiece(text)
        yield TextPiece(finish="length")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Answer every question, but for each tenth, and return what is asked."""
    found: list[tuple[str, dict[str, Any]]] = []

    def stream(_: object, model: str, text: str, **options: Any) -> Stream:
        assert model == "small"
        found.append((text, options))
        if len(found) % 10 == 0:
            raise Overloaded("full", 1.0)
        return Stream(20 + len(text.split()))

    async def tasks(_: object) -> dict[str, str]:
        return {"small": "chat", "digits": ""}

    monkeypatch.setattr(AsyncOperatorClient, "tasks", tasks)
    monkeypatch.setattr(AsyncOperatorClient, "chat_stream", stream)
    monkeypatch.setattr(AsyncOperatorClient, "complete_stream", stream)
    return found


LINE = "bench-llm --concurrency 1,3 --input-tokens 60 --output-tokens 3 --requests 2 --json"


def test_each_level_has_its_callers_requests_and_failures(
    asked: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plot = tmp_path / "load.svg"
    assert run([*LINE.split(), "--plot", str(plot), "--router", "http://r:1/v1/"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["url"], told["model"]) == ("http://r:1", "small")
    first, second = told["levels"]
    assert (first["callers"], first["requests"], first["errors"]) == (1, 2, {})
    assert (second["callers"], second["requests"]) == (3, 5)
    assert second["errors"] == {"overloaded: full": 1}
    assert first["prompt_tokens"] == 60.0
    assert first["completion_tokens"] == 3.0
    # two to gauge, and for each caller one to warm up and two that count
    assert len(asked) == 2 + 3 + 9
    assert [options["max_tokens"] for _, options in asked] == [1, 1] + [3] * 12
    assert all(options["ignore_eos"] is True for _, options in asked)
    assert len({text for text, _ in asked}) == len(asked)
    assert plot.read_text("utf-8").startswith("<svg ")


def test_people_get_a_table(
    asked: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "bench-llm small --concurrency 1 --warm-up 0 --requests 8 --completions --may-end"
    assert run(line.split()) == 3
    told = capsys.readouterr()
    header, row = told.out.splitlines()
    assert header.split()[:2] == ["CALLERS", "TOKENS/S"]
    assert row.split()[-1] == "1"
    assert told.err.endswith("1 times: overloaded: full\n")
    assert all(options["ignore_eos"] is None for _, options in asked)


def test_interrupt_tells_what_was_measured(
    asked: list[tuple[str, dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def level(callers: int, samples: list[Sample]) -> Level:
        if callers == 3:
            raise KeyboardInterrupt
        return level_of(callers, samples)

    monkeypatch.setattr("capamesh.cli.llm_load.load.level_of", level)
    assert run(LINE.split()) == 130
    assert [each["callers"] for each in json.loads(capsys.readouterr().out)["levels"]] == [1]
    assert asked


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("bench-llm --concurrency 0", 2, "give up to 16 numbers from 1 to 1024"),
        ("bench-llm --plot a.png", 2, "only .svg is written"),
        ("bench-llm digits", 1, "'digits' is for something else; those for chat are: small"),
    ],
)
def test_load_that_cannot_be_measured_is_told(
    asked: list[tuple[str, dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    line: str,
    status: int,
    told: str,
) -> None:
    assert run(line.split()) == status
    assert told in capsys.readouterr().err
    assert asked == []


async def _refused(_: object) -> dict[str, str]:
    raise Unauthenticated("no key")


def test_server_without_a_list_of_models_is_asked_for_one_that_is_named(
    asked: list[tuple[str, dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AsyncOperatorClient, "tasks", _refused)
    assert run(["bench-llm", "--requests", "1"]) == 1
    assert "no key" in capsys.readouterr().err
    assert run(["bench-llm", "small", "--concurrency", "1", "--requests", "1", "--json"]) == 0
    assert len(asked) == 4
