"""Folders in the form of onnxruntime-genai's model builder, of another architecture than Llama, from the import to the chat through a router."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import tiny_gemma
from tiny_llama import tokenizer

from capamesh.cli.local_cluster import LocalCluster

TOKENS = 24
LONG = "What do people remember of the places that they leave, when the lamps are still on?"
FOUR_BITS = "gemma-int4"


@pytest.fixture(scope="session")
def genai_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of models that were imported: as the builder writes them, in 32 bits and in 4."""
    folder = tmp_path_factory.mktemp("genai")
    for name in ("gemma", FOUR_BITS):
        tiny_gemma.write_folder(folder / name, has_four_bits=name == FOUR_BITS)
        imported(folder / name, folder / "models")
    return folder / "models"


def imported(source: Path, to: Path) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "capamesh.cli", "model", "import-llm", str(source))
    return subprocess.run(
        [*command, "--to", str(to)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def genai_cluster(
    genai_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path_factory.mktemp("cluster"), genai_models, nodes=1) as running:
        await running.wait_routable(1)
        yield running


async def chat(cluster: LocalCluster, messages: list[dict[str, str]], model: str = "gemma") -> str:
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": TOKENS}
    body |= {"temperature": 0, "ignore_eos": True}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{cluster.http_url}/v1/chat/completions", json=body) as answer,
    ):
        found = await answer.json()
        assert answer.status == 200, found
    assert found["usage"]["completion_tokens"] == TOKENS
    return str(found["choices"][0]["message"]["content"])


def expected(messages: list[dict[str, str]]) -> str:
    """Return the answer by the plain loop over the prompt that the template makes."""
    turns = [f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages]
    prompt = "".join(turns) + "<|im_start|>assistant\n"
    return tiny_gemma.answer(tokenizer().encode(prompt).ids, TOKENS)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def test_other_architecture_answers_as_it_would_by_a_plain_loop(
    genai_cluster: LocalCluster,
) -> None:
    short = expected([user("Hi")])
    first = await chat(genai_cluster, [user(LONG)])
    assert first == expected([user(LONG)]) != short
    assert await chat(genai_cluster, [user("Hi")]) == short
    # the next turn begins where the last one ended, in the slot or in one that is copied
    turns = [user(LONG), {"role": "assistant", "content": first}, user("Which lamps?")]
    assert await chat(genai_cluster, turns) == expected(turns)


async def test_answers_beside_one_another_are_those_of_each_alone(
    genai_cluster: LocalCluster,
) -> None:
    asked = [[user(LONG[:length])] for length in (1, 20, 40, 60, len(LONG))]
    found = await asyncio.gather(*(chat(genai_cluster, each) for each in asked))
    assert found == [expected(each) for each in asked]


async def test_four_bits_with_an_accuracy_level_answer_whoever_is_beside(
    genai_cluster: LocalCluster,
) -> None:
    asked = [[user(LONG[:length])] for length in (20, len(LONG))]
    alone = [await chat(genai_cluster, each, FOUR_BITS) for each in asked]
    assert len({*alone}) == 2
    beside = await asyncio.gather(*(chat(genai_cluster, each, FOUR_BITS) for each in asked))
    assert beside == alone
