"""OpenAI's own client, unmodified: embeddings of texts and of tokens, models, and errors, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

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
