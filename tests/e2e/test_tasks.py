"""Texts, pictures and files of models that are for them, in real processes: over HTTP, gRPC, the SDK and the command."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import commands
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc as triton_grpc
from PIL import Image
from text_models import WORDS, table, write_classifier, write_encoder

import capamesh.cli
from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import Client
from capamesh.protocol.errors import InvalidRequest, TooLarge

SAMPLES = Path(capamesh.cli.__path__[0]) / "samples"
MAGIKA_MANIFEST = 'task = "file-type"\n'
"""Its numbers are what a manifest has where it says none."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tasks(
    built_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalCluster]:
    """A router and a node with a model for each task."""
    models = tmp_path_factory.mktemp("tasks") / "models"
    models.mkdir()
    write_encoder(models)
    write_classifier(models)
    shutil.copytree(SAMPLES / "models/digits", models / "digits")
    shutil.copytree(built_models / "magika", models / "magika")
    (models / "magika" / "capamesh.toml").unlink()
    (models / "magika" / "capamesh.toml").write_text(MAGIKA_MANIFEST)
    async with LocalCluster(models.parent / "cluster", models, nodes=1) as running:
        await running.wait_routable(1)
        yield running


def run(cluster: LocalCluster, *words: str) -> subprocess.CompletedProcess[str]:
    return commands.run("infer", *words, router=cluster.http_url)


def run_json(cluster: LocalCluster, *words: str) -> Any:
    return commands.run_json("infer", *words, router=cluster.http_url)


async def embed(cluster: LocalCluster, **body: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(cluster.http_url) as session,
        session.post("/v1/embeddings", json={"model": "words", **body}) as answer,
    ):
        return answer.status, await answer.json()


def mean(*words: str) -> np.ndarray:
    """Return the vector that a text of these words has."""
    rows = [table()[WORDS.index(word)] for word in ("[CLS]", *words, "[SEP]")]
    found = np.mean(rows, axis=0)
    return found / np.linalg.norm(found)


def digit_pictures() -> list[tuple[int, bytes]]:
    """Return held-out digits as pictures of 8 x 8, dark ink on light paper, each with the digit that it is."""
    with np.load(SAMPLES / "cases/digits.npz") as cases:
        rows, expected = cases["rows"][:40], cases["expected"][:40]
    found: list[tuple[int, bytes]] = []
    for row, digit in zip(rows, expected, strict=True):
        pixels = (255 - row.reshape(8, 8) * 255 / 16).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        found.append((int(digit), out.getvalue()))
    return found


@pytest.mark.smoke
async def test_texts_become_vectors_over_openais_route(tasks: LocalCluster) -> None:
    status, body = await embed(tasks, input=["cat sat", "A DOG", "cat"])
    assert status == 200
    vectors = np.array([entry["embedding"] for entry in body["data"]], np.float32)
    wanted = np.stack([mean("cat", "sat"), mean("a", "dog"), mean("cat")])
    np.testing.assert_allclose(vectors, wanted, rtol=1e-5)
    assert body["usage"] == {"prompt_tokens": 4 + 4 + 3, "total_tokens": 11}
    _, of_tokens = await embed(
        tasks, input=[WORDS.index(word) for word in ("[CLS]", "cat", "[SEP]")]
    )
    np.testing.assert_allclose(of_tokens["data"][0]["embedding"], vectors[2], rtol=1e-6)
    _, short = await embed(tasks, input="cat", dimensions=2)
    np.testing.assert_allclose(
        short["data"][0]["embedding"], wanted[2, :2] / np.linalg.norm(wanted[2, :2]), rtol=1e-5
    )
    _, many = await embed(tasks, input=["cat", "a cat sat"] * 300)
    np.testing.assert_allclose(many["data"][598]["embedding"], vectors[2], rtol=1e-5)


async def test_texts_are_embedded_over_grpc_and_by_the_command(tasks: LocalCluster) -> None:
    with triton_grpc.InferenceServerClient(tasks.http_url.removeprefix("http://")) as client:
        given = triton_grpc.InferInput("text", [1], "BYTES")
        given.set_data_from_numpy(np.array([b"dog"], object))
        wanted = [triton_grpc.InferRequestedOutput("embedding")]
        found = client.infer("words", [given], outputs=wanted).as_numpy("embedding")
    np.testing.assert_allclose(found, [mean("dog")], rtol=1e-5)
    shown = run_json(tasks, "words", "--text", "cat")
    assert [output["name"] for output in shown["outputs"]] == ["embedding", "tokens"]
    np.testing.assert_allclose(shown["outputs"][0]["data"], [mean("cat")], rtol=1e-5)


async def test_texts_are_classified_with_their_labels(tasks: LocalCluster) -> None:
    with Client(tasks.http_url) as client:
        found = client.infer(
            "mood", {"text": ["good good cat", "a bad dog"]}, classes={"scores": 1}
        ).classes["scores"]
        assert [[(one.label, one.score) for one in row] for row in found] == [
            [("good", 2.0)],
            [("bad", 1.0)],
        ]
        with pytest.raises(TooLarge, match="text 0 has 9 tokens; this model takes 8"):
            client.infer("mood", {"text": ["cat " * 7]})
    shown = run(tasks, "mood", "--text", "good cat", "--text", "bad")
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["OUTPUT", "ROW", "LABEL", "SCORE", "CLASS"],
        ["scores", "good", "cat", "good", "1", "1"],
        ["scores", "good", "cat", "bad", "0", "0"],
        ["scores", "bad", "bad", "1", "0"],
        ["scores", "bad", "good", "0", "1"],
    ]


async def test_pictures_are_classified_as_well_as_their_pixels(
    tasks: LocalCluster, tmp_path: Path
) -> None:
    pictures = digit_pictures()
    with Client(tasks.http_url) as client:
        given = np.array([picture for _, picture in pictures], object)
        found = client.infer("digits", {"image": given}, classes={"probabilities": 1})
        labels = [int(row[0].label) for row in found.classes["probabilities"]]
        right = np.mean(
            [label == digit for label, (digit, _) in zip(labels, pictures, strict=True)]
        )
        assert right >= 0.95
        with pytest.raises(InvalidRequest, match="image 1, of 3 bytes, is no picture"):
            client.infer("digits", {"image": np.array([pictures[0][1], b"GIF"], object)})
    paths = [tmp_path / f"{at}.png" for at in range(2)]
    for path, (_, picture) in zip(paths, pictures, strict=False):
        path.write_bytes(picture)
    shown = run_json(tasks, "digits", *map(str, paths), "--top", "1")
    (output,) = shown["outputs"]
    assert [int(row[0]["label"]) for row in output["classes"]] == [
        digit for digit, _ in pictures[:2]
    ]


async def test_types_of_files_are_told(tasks: LocalCluster, tmp_path: Path) -> None:
    png = tmp_path / "picture"
    png.write_bytes(digit_pictures()[0][1])
    found = run_json(tasks, "magika", str(png), __file__, sys.executable, "--top", "1")
    assert [row[0]["label"] for row in found["outputs"][0]["classes"]] == ["png", "python", "elf"]
    assert run(tasks, "magika", "--text", "a").returncode == 2
    assert "takes tensors alone" not in run(tasks, "magika", "--text", "a").stderr
