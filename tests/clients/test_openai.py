"""OpenAI's own client, unmodified: embeddings of texts and of tokens, models, errors, sync and async; files and batches."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from foreign_clients import answers
from text_models import WORDS, table, write_classifier, write_encoder

from capamesh.cli.local_cluster import LocalCluster

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def texts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Return the host and port of a router whose two nodes have an encoder of texts and a classifier."""
    folder = tmp_path_factory.mktemp("openai")
    (folder / "models").mkdir()
    write_encoder(folder / "models")
    write_classifier(folder / "models")
    async with LocalCluster(folder / "cluster", folder / "models", nodes=2) as running:
        await running.wait_routable(2)
        yield running.http_url.removeprefix("http://")


def mean(*words: str) -> np.ndarray:
    rows = [table()[WORDS.index(word)] for word in ("[CLS]", *words, "[SEP]")]
    found = np.mean(rows, axis=0)
    return found / np.linalg.norm(found)


async def test_client_gets_embeddings_models_and_errors(texts: str) -> None:
    told = await asyncio.to_thread(answers, "openai", "openai_client.py", texts, "words", "2")
    wanted = np.stack([mean("a", "cat", "sat"), mean("dog")])
    for form in ("vectors", "plain", "async"):
        np.testing.assert_allclose(told[form], wanted, rtol=1e-5)
    np.testing.assert_allclose(told["of_tokens"], np.stack([mean("cat"), mean()]), rtol=1e-5)
    assert told["indices"] == [0, 1]
    assert (told["model"], told["tokens"], told["short"]) == ("words", [8, 8], 2)
    assert told["models"] == told["async_models"] == ["mood", "words"]
    assert told["retrieved"] == "words"
    errors = told["errors"]
    assert errors["missing"][:3] == ["NotFoundError", "model_not_found", None]
    assert errors["empty"][:3] == ["BadRequestError", "invalid_request", "input"]
    assert errors["long"][:2] == ["APIStatusError", "too_large"]
    assert errors["dimensions"][:2] == ["BadRequestError", "invalid_request"]
    assert "this model's embeddings have 4" in errors["dimensions"][3]


async def test_client_runs_batches(texts: str, tmp_path: Path) -> None:
    told = await asyncio.to_thread(answers, "openai", "openai_batches.py", texts, "words", tmp_path)
    assert told["uploaded"][:2] == ["batch", "requests.jsonl"]
    assert told["uploaded"][3] == "processed"
    assert told["chunked"] == ["completed", "batch", "requests.jsonl", True]
    assert told["given_up"] == "cancelled"
    assert told["created"][1:] == [{"for": "a test"}, "24h"]
    assert told["done"] == "completed"
    assert told["counts"] == [6, 5, 1]
    # what a batch answers is what the endpoint answers
    for at, alone in enumerate(told["alone"]):
        answer = told["answers"][f"r{at}"]
        vectors = [[each["embedding"] for each in one["data"]] for one in (answer, alone)]
        np.testing.assert_allclose(*vectors, rtol=1e-6)
        assert {**answer, "data": []} == {**alone, "data": []}
    (short,) = told["answers"]["short"]["data"]
    vector = np.frombuffer(base64.b64decode(short["embedding"]), "<f4")
    wanted = mean("dog")[:2]
    np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), rtol=1e-5)
    assert told["errors"] == [["bad", 400]]
    assert told["cancelled"] in {"cancelled", "completed"}
    assert told["listed"] == told["batches"][::-1]
    assert (told["files"], told["deleted"]) == (["batch", "batch_output"], True)
    refused = told["refused"]
    assert refused["twice"][:3] == ["BadRequestError", "invalid_request", "file"]
    assert "line 2: custom_id 'r0'" in refused["twice"][3]
    assert refused["missing"][:2] == ["NotFoundError", "file_not_found"]
    assert refused["no batch"][:2] == ["NotFoundError", "job_not_found"]
