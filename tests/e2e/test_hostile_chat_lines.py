"""Lines of chats that mean harm: each is a bad row that says why, those beside it are answered, and nothing is tried for ever."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import engine_models
import pytest
import pytest_asyncio
from clusters import metrics_at
from commands import command
from tiny_llama import write_decoder_folder

from capamesh.cli.local_cluster import LocalCluster

HI = [{"role": "user", "content": "Hi"}]
ESCAPE = "\x1b[31m\x00\x07"
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def schema(said: object) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": said}}
    }


def nested(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        made = {"type": "object", "properties": {"a": made}, "required": ["a"]}
    return made


FINE: dict[str, dict[str, Any]] = {
    "plain": {},
    "300 biases": {"logit_bias": {str(at): -1 for at in range(100, 400)}},
    "a model by another name": {"model": "gpt-5"},
    "a name with an escape": {"model": ESCAPE},
    "a long name": {"model": "m" * 500_000},
    "a tool": {"tools": [FUNCTION]},
    # a node bounds what they cost, whatever they say
    "a deep schema": schema(nested(40)),
    "a pattern of a billion": schema({"type": "string", "pattern": "((a{1,999}){1,999}){1,999}"}),
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "128 answers": ({"n": 128}, "n"),
    "301 biases": ({"logit_bias": {str(at): 1 for at in range(100, 401)}}, "logit_bias"),
    "bias of no token": ({"logit_bias": {"100000": 1}}, "logit_bias"),
    "tool without a name": ({"tools": [{"type": "function", "function": {}}]}, "tools"),
    "unknown tool": (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
    ),
    "many tools": ({"tools": [FUNCTION] * 129}, "tools"),
    "wide schema": (schema({"enum": [f"{at:06}" for at in range(60_000)]}), "characters"),
    "schema that is none": (schema({"type": 3}), "type"),
    "endless answer": ({"max_tokens": 10**12}, "max_tokens"),
    "no messages": ({"messages": []}, "messages"),
    "many messages": ({"messages": HI * 3000}, "messages"),
    "escape in a role": ({"messages": [{"role": ESCAPE, "content": "Hi"}]}, "role"),
    "stream": ({"stream": True}, "stream"),
}
RAW = {
    "10 MB": json.dumps({"messages": [{"role": "user", "content": "x" * 10_000_000}]}).encode(),
    "long id": json.dumps({"custom_id": "i" * 100_000, "messages": HI}).encode(),
    "deep JSON": b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no UTF-8": b'{"messages":[{"role":"user","content":"\xff"}]}',
    "no number": b'{"messages":[{"role":"user","content":"Hi"}],"temperature":NaN}',
    "no object": b"[1]",
    "no JSON": b"{",
}


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny language model and one that is none."""
    folder = tmp_path_factory.mktemp("two") / "models"
    write_decoder_folder(folder / "tiny" / "1")
    (folder / "tiny" / "capamesh.toml").write_text("task = 'chat'\n")
    engine_models.save(engine_models.adding(1), folder, "adding")
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(
    two_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path_factory.mktemp("cluster"), two_models, nodes=1) as running:
        await running.wait_routable(1)
        yield running


async def jobs(
    cluster: LocalCluster, folder: Path, *words: str, ends: bool = True
) -> tuple[str, str]:
    """Run `capamesh jobs`, which ends well or not, as told; return what it prints, and says beside that."""
    status, out, err = await command("jobs", *words, router=cluster.http_url, folder=folder)
    assert (status == 0) is ends, err
    return out, err


async def test_each_line_is_a_bad_row_with_a_reason_and_the_others_are_answered(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    body = {"messages": HI, "max_tokens": 3, "temperature": 0}
    others = [
        {"custom_id": "batch", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "prompt", "prompt": "The ferry left", "max_tokens": 5},
    ]
    wrong = {name: more for name, (more, _) in WRONG.items()} | {ESCAPE: {"n": 0}}
    fine, bad_lines = (
        [{"custom_id": name, **body, **more} for name, more in told.items()]
        for told in (FINE, wrong)
    )
    raw = [json.dumps(line).encode() for line in (*fine, *others, *bad_lines)] + [*RAW.values()]
    (tmp_path / "lines.jsonl").write_bytes(b"\n".join(raw))
    before = await calls(cluster)
    await jobs(cluster, tmp_path, "submit", "lines.jsonl", "--model", "tiny", "--watch")
    # a line that a node refuses is sent once, and once more alone at most
    assert await calls(cluster) - before <= 3 * (len(FINE) + len(others) + len(WRONG))
    await jobs(cluster, tmp_path, "results", "last", "-o", "answers.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [*FINE, "batch", "prompt"]
    async with (
        aiohttp.ClientSession(cluster.http_url) as client,
        client.post("/v1/chat/completions", json={"model": "tiny", **body}) as answer,
    ):
        direct = await answer.json()
    (choice,) = direct["choices"]
    assert (
        rows[0]["outputs"]
        == rows[-2]["outputs"]
        == {
            "text": choice["message"]["content"],
            "finish_reason": choice["finish_reason"],
            "prompt_tokens": direct["usage"]["prompt_tokens"],
            "completion_tokens": direct["usage"]["completion_tokens"],
        }
    )
    bad = await bad_rows(cluster, tmp_path)
    assert [each["row"] for each in bad] == list(range(len(rows), len(raw)))
    for each, (name, (_, words)) in zip(bad, WRONG.items(), strict=False):
        assert each["id"] == name
        assert words in each["message"]
        assert 10 < len(each["message"]) < 1000
    shown, _ = await jobs(cluster, tmp_path, "logs", "last", "--bad-rows")
    assert not {"\x1b", "\x00"} & set(shown)
    text = await metrics_text(cluster)
    assert "gpt-5" not in text
    assert "mmmm" not in text

    (tmp_path / "chats.jsonl").write_text((json.dumps({"messages": HI}) + "\n") * 3)
    _, err = await jobs(cluster, tmp_path, "submit", "chats.jsonl", "--model", "adding", "--watch")
    assert "3 bad" in err
    assert ["'x'" in each["message"] for each in await bad_rows(cluster, tmp_path)] == [True] * 3


async def calls(cluster: LocalCluster) -> float:
    """Return how many calls of jobs the router has sent."""
    found = await metrics_at(cluster.http_url)
    return sum(n for name, n in found.items() if name.startswith("capamesh_job_calls_total"))


async def bad_rows(cluster: LocalCluster, folder: Path) -> list[dict[str, Any]]:
    out, _ = await jobs(cluster, folder, "logs", "last", "--bad-rows", "--json")
    return [json.loads(line) for line in out.splitlines()]


async def metrics_text(cluster: LocalCluster) -> str:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"{cluster.http_url}/metrics") as answer,
    ):
        return await answer.text()


async def test_made_up_names_of_models_are_refused_and_leave_nothing_behind(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    source = {"url": "file:///nowhere/rows.jsonl", "columns": {"x": ["x"]}}
    before = (await metrics_text(cluster)).count("\n")
    async with aiohttp.ClientSession(cluster.http_url) as client:
        for at in range(200):
            job = {"model": f"made-up-{at}", "input": source}
            async with client.post("/v1/jobs", json=job) as answer:
                assert answer.status == 404, await answer.text()
        for body in (json.dumps({"model": "m" * 10_000_000, "input": source}), "[" * 200_000):
            async with client.post("/v1/jobs", data=io.BytesIO(body.encode())) as answer:
                assert answer.status in {400, 413}
    text = await metrics_text(cluster)
    assert "made-up" not in text
    assert text.count("\n") <= before + 20
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": HI}) + "\n")
    for model, words in (
        ("nobody-has-it", "nobody-has-it"),
        (ESCAPE[:-2], "model"),
        ("m" * 100_000, "model"),
    ):
        _, err = await jobs(
            cluster, tmp_path, "submit", "chats.jsonl", "--model", model, ends=False
        )
        assert words in err
        assert len(err) < 2000
        assert "\x1b[31m" not in err
