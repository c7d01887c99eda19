"""A language model on real nodes, asked by chats and texts as clients of OpenAI's API ask; one node is killed in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from chaos import slowed, worker_pids
from clusters import metrics_at
from patience import until
from tiny_llama import Variant, gguf, write_decoder_folder

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient

HI = [{"role": "user", "content": "What do people remember?"}]
LONG = 400
"""Tokens of an answer that takes a while."""
LONGEST = 1500
"""Tokens of an answer that takes longer than a client takes to read its beginning, and a node to die."""
SHARE = 0.1
"""Of the time in which a worker may run while an answer must not be whole before a client has done something."""
BATCH = 40
"""The long answers of a batch, which take longer than some short ones of people's."""


@pytest.fixture(scope="session")
def chat_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one tiny language model of random weights."""
    folder = tmp_path_factory.mktemp("chat") / "models"
    write_decoder_folder(folder / "tiny" / "1")
    (folder / "tiny" / "capamesh.toml").write_text("task = 'chat'\n")
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chat_cluster(
    chat_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path_factory.mktemp("cluster"), chat_models, nodes=2) as running:
        await running.wait_routable(2)
        yield running


def body_of(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HI, "max_tokens": 12, "temperature": 0, **more}


async def ask(
    cluster: LocalCluster, path: str = "chat/completions", **body: Any
) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{cluster.http_url}/v1/{path}", json=body) as answer,
    ):
        return answer.status, await answer.json()


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """Yield the data of a stream's events as JSON; comments and the end are texts."""
    async for line in answer.content:
        text = line.decode().strip()
        if text.startswith("data: ") and text != "data: [DONE]":
            yield json.loads(text[6:])
        elif text:
            yield text


def said(event: Any) -> str:
    choices = [] if isinstance(event, str) else event.get("choices", [])
    return "".join(each["delta"].get("content") or "" for each in choices)


async def streamed(cluster: LocalCluster, **body: Any) -> list[Any]:
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{cluster.http_url}/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return [event async for event in events(answer)]


@pytest.mark.smoke
async def test_chat_is_answered_whole_and_in_parts_alike(chat_cluster: LocalCluster) -> None:
    # long: tokens that a busy machine has ready at once come as one part
    asked = body_of(ignore_eos=True, max_tokens=LONG)
    status, whole = await ask(chat_cluster, **asked)
    assert status == 200, whole
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == LONG
    assert whole["usage"]["prompt_tokens"] > 10

    async def comes_in_parts() -> bool:
        parts = await streamed(
            chat_cluster, **asked, stream=True, stream_options={"include_usage": True}
        )
        assert parts[-1] == "data: [DONE]"
        assert "".join(map(said, parts)) == choice["message"]["content"] != ""
        assert parts[-2]["usage"]["completion_tokens"] == LONG
        return sum(bool(said(part)) for part in parts) > 2

    await until(comes_in_parts)  # a router that stood still meanwhile has all tokens at once


def counted(cluster: LocalCluster) -> tuple[int, int, int]:
    """Return what the nodes have counted: requests answered, requests in flight, tokens run."""
    models = [model for node in cluster.nodes for model in node.status()["models"]]
    return (
        sum(model.get("requests", {}).get("ok", 0) for model in models),
        sum(model.get("requests_in_flight", 0) for model in models),
        sum(model.get("rows", 0) for model in models),
    )


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_client_that_leaves_frees_its_slots(
    chat_models: Path, tmp_path: Path, *, is_streamed: bool
) -> None:
    async with LocalCluster(tmp_path / "cluster", chat_models, nodes=1) as cluster:
        await cluster.wait_routable(1)

        async def is_under_way() -> bool:
            return (await metrics_at(cluster.http_url))["capamesh_requests_in_flight"] > 0

        async def leave() -> None:
            async with aiohttp.ClientSession() as client:
                asking = client.post(
                    f"{cluster.http_url}/v1/chat/completions",
                    json=body_of(stream=is_streamed, ignore_eos=True, max_tokens=LONG, n=8),
                )
                if is_streamed:
                    async with asking as answer:
                        assert answer.status == 200
                        await answer.content.readline()
                    return
                waiting = asyncio.ensure_future(asking)
                await until(is_under_way, every_s=0.01)
                waiting.cancel()
                await asyncio.wait({waiting})

        with slowed(dict.fromkeys(worker_pids(cluster.nodes[0]), SHARE)):
            await asyncio.gather(*[leave() for _ in range(6)])
        status, found = await ask(cluster, **body_of(n=8, ignore_eos=True))
        assert status == 200, found
        await until(lambda: counted(cluster)[:2] == (1, 0))
        # had nobody left, six times eight answers would have been made
        assert counted(cluster)[2] < 6 * 8 * LONG / 2


async def test_answer_whose_node_is_killed_is_as_if_nothing_had_happened(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_decoder_folder(models / "tiny" / "1", source=gguf(variant=Variant(context=2048)))
    (models / "tiny" / "capamesh.toml").write_text("task = 'chat'\n")
    async with LocalCluster(tmp_path / "cluster", models, nodes=2) as cluster:
        await cluster.wait_routable(2)
        asked = body_of(ignore_eos=True, max_tokens=LONGEST)
        _, undisturbed = await ask(cluster, **asked)
        expected = undisturbed["choices"][0]["message"]["content"]
        by_peer = {node.status()["peer_id"]: node for node in cluster.nodes}
        workers = [pid for node in cluster.nodes for pid in worker_pids(node)]
        with ExitStack() as until_killed:
            until_killed.enter_context(slowed(dict.fromkeys(workers, SHARE)))
            async with (
                aiohttp.ClientSession() as client,
                client.post(
                    f"{cluster.http_url}/v1/chat/completions", json={**asked, "stream": True}
                ) as answer,
            ):
                assert answer.status == 200
                victim = by_peer[answer.headers["X-Capamesh-Node"]]
                found: list[Any] = []
                async for event in events(answer):
                    found.append(event)
                    if len(found) == 5:
                        victim.signal(signal.SIGKILL)
                        for pid in victim.status()["worker_pids"]:
                            os.kill(pid, signal.SIGKILL)
                        until_killed.close()
        assert "".join(map(said, found)) == expected
        assert ": resumed" in found
        assert found[-1] == "data: [DONE]"


async def test_people_are_answered_beside_a_batch_whose_answers_stay_the_same(
    chat_models: Path, tmp_path: Path
) -> None:
    async with LocalCluster(tmp_path / "cluster", chat_models, nodes=1) as cluster:
        await cluster.wait_routable(1)
        bodies = [
            body_of(ignore_eos=True, max_tokens=LONG, seed=at, temperature=1) for at in range(BATCH)
        ]
        alone = [await ask(cluster, **body) for body in bodies[:3]]
        _, mine = await ask(cluster, **body_of(ignore_eos=True))
        lines = [
            {"custom_id": f"{at}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            for at, body in enumerate(bodies)
        ]
        async with aiohttp.ClientSession(f"{cluster.http_url}/v1/") as client:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", "\n".join(map(json.dumps, lines)), filename="asked.jsonl")
            uploaded = await (await client.post("files", data=form)).json()
            asked = {
                "input_file_id": uploaded["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            }

            async def batch_now() -> Any:
                return await (await client.get(f"batches/{batch['id']}")).json()

            async def is_under_way() -> bool:
                return bool((await batch_now())["status"] == "in_progress")

            async def ask_beside() -> None:
                status, found = await ask(cluster, **body_of(ignore_eos=True))
                assert (status, found["choices"]) == (200, mine["choices"])

            # so that it is not over before it is looked at
            with slowed(dict.fromkeys(worker_pids(cluster.nodes[0]), SHARE)):
                batch = await (await client.post("batches", json=asked)).json()
                await until(is_under_way, every_s=0.01)
                await ask_beside()
                assert (await batch_now())["status"] == "in_progress"
            for _ in range(4):
                await ask_beside()

            async def is_over() -> bool:
                return bool((await batch_now())["status"] == "completed")

            await until(is_over)
            done = await batch_now()
            assert done["request_counts"] == {"total": BATCH, "completed": BATCH, "failed": 0}
            output = await client.get(f"files/{done['output_file_id']}/content")
            told = [json.loads(line) for line in (await output.text()).splitlines()]
        for (_, expected), line in zip(alone, told[:3], strict=True):
            assert line["response"]["body"]["choices"] == expected["choices"]


async def test_table_of_chats_is_a_job_that_can_be_cancelled(chat_cluster: LocalCluster) -> None:
    chats = ({"messages": HI, "max_tokens": LONG, "ignore_eos": True} for _ in range(1000))
    async with AsyncClient(chat_cluster.http_url) as client:
        job = await client.jobs.submit(chats, model="tiny", id_column="name")
        async for event in job.events(follow=True):
            if event.kind == "planned":
                break
        await job.cancel()
        assert (await job).state == "cancelled"
        assert len([row async for row in job.results()]) < 1000
    status, whole = await ask(chat_cluster, **body_of())  # the nodes are left to people
    assert status == 200, whole
