"""Batch jobs on this machine, on real data: rows of a table, files of any kind, texts. Every answer is held against ONNX Runtime itself.

`make demo-jobs`, or `python scripts/demo_jobs.py [--only digits,magika,texts] [--rows N] [--json]`. A router and two nodes run

- `digits` over 100,000 handwritten digits of a CSV file: scikit-learn's 1,797, again and again;
- `magika` over 5,000 files of /usr, which a job reads from a folder;
- an encoder of MiniLM's size over 5,000 texts, the doc comments of /usr's programs, through `/v1/batches`, as OpenAI's clients ask.

Exit code 0 only if each row has its answer, and it is the one that a loop over ONNX Runtime gives.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import onnxruntime as ort
from build_models import magika_features
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "build" / "models"
SEED = 20261127
ROWS = {"digits": 100_000, "magika": 5000, "texts": 5000}
NODES = 2
MOST_FILE_BYTES = 256 * 1024
MOST_TOKENS = 64
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = 20_000
"""The words that the encoder of texts knows, of its 30,522 rows of weights."""
RTOL, ATOL = 1e-3, 2e-4
"""The size of a batch changes a row's numbers a little."""
BATCH = 64
ENCODER = "encoder"
ENCODER_MANIFEST = f"""task = "text-embedding"

[text]
max_tokens = {MOST_TOKENS}

[[batching.ragged]]
input = "input_ids"
mask = "attention_mask"
outputs = ["last_hidden_state"]

[[batching.ragged]]
input = "token_type_ids"
"""
LIMIT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Done:
    """One data set, and how it went."""

    data: str
    rows: int
    answered: int
    equal: int
    """The rows whose answer is ONNX Runtime's."""
    job_s: float
    """Seconds from its submission to its end."""
    loop_s: float
    """Seconds of the loop over ONNX Runtime."""

    @property
    def is_right(self) -> bool:
        """Return whether each row has its answer."""
        return self.rows == self.answered == self.equal


def session_of(file: Path) -> ort.InferenceSession:
    """Return a model as ONNX Runtime runs it."""
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"])


def equal_rows(found: dict[int, np.ndarray], *expected: np.ndarray) -> int:
    """Return how many rows have the values of one of `expected`, each [rows, ...], and decide as it does."""
    if not found:
        return 0
    rows = np.array(sorted(found))
    mine = np.stack([found[row] for row in rows])
    axes = tuple(range(1, mine.ndim))
    is_equal = np.zeros(len(rows), bool)
    for each in expected:
        right = each[rows]
        is_close = np.isclose(mine, right, RTOL, ATOL).all(axis=axes)
        is_equal |= is_close & (mine.argmax(axis=-1) == right.argmax(axis=-1))
    return int(is_equal.sum())


async def run_job(
    client: AsyncClient,
    data: Path,
    model: str,
    columns: dict[str, str | list[str]],
    output: str,
    form: str = "",
) -> tuple[dict[int, np.ndarray], float]:
    """Submit a job, wait for it, and return one output of each row, and the seconds until its end."""
    job = await client.jobs.submit(data.as_uri(), model=model, columns=columns, format=form)
    info = await job.wait(LIMIT_S)
    found = {result.row: result.outputs[output] async for result in job.results()}
    if info.state != "completed":
        raise SystemExit(f"the job of {data} is {info.state}: {info.reason}")
    return found, info.ended_at - info.created_at


async def digits(client: AsyncClient, folder: Path, count: int) -> Done:
    """Classify digits of a table, each of whose columns is a pixel."""
    images = load_digits().data.astype(np.float32)
    rows = np.tile(images, (-(-count // len(images)), 1))[:count]
    columns = [f"pixel_{at}" for at in range(rows.shape[1])]
    file = folder / "digits.csv"
    with file.open("w") as table:
        table.write(",".join(columns) + "\n")
        table.writelines(",".join(map(str, row)) + "\n" for row in rows.astype(int).tolist())
    found, job_s = await run_job(client, file, "digits", {"X": columns}, "probabilities")
    began_s = time.perf_counter()
    session = session_of(MODELS / "digits" / "1" / "model.onnx")
    expected = np.concatenate(
        [
            session.run(["probabilities"], {"X": rows[at : at + 1024]})[0]
            for at in range(0, count, 1024)
        ]
    )
    loop_s = time.perf_counter() - began_s
    return Done("digits", count, len(found), equal_rows(found, expected), job_s, loop_s)


def files_of(folder: Path, count: int) -> Iterator[Path]:
    """Yield plain files below a folder, so many and the same ones each time; none of them is empty or very large."""
    rng = random.Random(SEED)  # noqa: S311 - a sample of files
    found: list[Path] = []
    for parent, _, names in os.walk(folder):
        found += [Path(parent, name) for name in names]
    found.sort()
    rng.shuffle(found)
    good = (
        file
        for file in found
        if file.is_file() and not file.is_symlink() and 0 < file.stat().st_size <= MOST_FILE_BYTES
    )
    return itertools.islice(good, count)


async def magika(client: AsyncClient, folder: Path, count: int) -> Done:
    """Tell the kinds of files, of which a job reads a folder."""
    files = folder / "files"
    files.mkdir()
    for number, file in enumerate(files_of(Path("/usr"), count)):
        shutil.copy(file, files / f"{number:06}")
    of_file: dict[str, str | list[str]] = {"file": "content"}
    found, job_s = await run_job(client, files, "magika", of_file, "target_label", "folder")
    began_s = time.perf_counter()
    session = session_of(MODELS / "magika" / "1" / "model.onnx")
    names = sorted(files.iterdir())
    rows = np.stack([magika_features(file.read_bytes()) for file in names])
    expected = np.concatenate(
        [
            session.run(["target_label"], {"bytes": rows[at : at + BATCH]})[0]
            for at in range(0, len(rows), BATCH)
        ]
    )
    loop_s = time.perf_counter() - began_s
    # ONNX Runtime itself gives some rows other numbers alone than in a batch (measured: by up to 0.007, the same label)
    alone = np.concatenate(
        [session.run(["target_label"], {"bytes": row[np.newaxis]})[0] for row in rows]
    )
    equal = equal_rows(found, expected, alone)
    return Done("magika", len(rows), len(found), equal, job_s, loop_s)


def texts_of(count: int) -> list[str]:
    """Return texts: the doc comments of programs below /usr, the same ones each time."""
    found: dict[str, None] = {}
    programs = sorted(Path("/usr/lib").rglob("*.py")) + sorted(Path(sys.prefix).rglob("*.py"))
    for file in programs:
        if len(found) >= count:
            break
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError):
            continue
        for comment in re.findall(r'"""(.+?)"""', text, re.DOTALL):
            words = " ".join(comment.split())
            if 20 <= len(words) <= 2000 and words.isascii():
                found[words] = None
    return list(itertools.islice(found, count))


def write_encoder(models_folder: Path, texts: list[str]) -> Path:
    """Write an encoder of MiniLM's size with random weights, and a tokenizer of the texts' words; return its folder."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import anchor_models  # noqa: PLC0415 - it is found by the path above

    counted = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    vocabulary = [*SPECIAL, *(word for word, _ in counted.most_common(WORDS))]
    of_word = {word: at for at, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(of_word, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, of_word[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    version = models_folder / ENCODER / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(anchor_models.minilm().SerializeToString())
    tokenizer.save(str(version / "tokenizer.json"))
    (version.parent / "capamesh.toml").write_text(ENCODER_MANIFEST)
    return version


def encoded(version: Path, texts: list[str]) -> np.ndarray:
    """Return the vectors of texts as ONNX Runtime gives them in a loop, f32 [texts, 384]: means of the tokens, 1 long."""
    session = session_of(version / "model.onnx")
    tokenizer = Tokenizer.from_file(str(version / "tokenizer.json"))
    tokenizer.enable_truncation(MOST_TOKENS)
    tokenizer.enable_padding()
    found = np.zeros((len(texts), 384), np.float32)
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # like lengths together
    for first in range(0, len(texts), BATCH):
        some = order[first : first + BATCH]
        batch = tokenizer.encode_batch([texts[at] for at in some])
        ids = np.array([each.ids for each in batch])
        mask = np.array([each.attention_mask for each in batch])
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = session.run(None, feed)
        means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        found[some] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return found


async def texts(client: AsyncClient, folder: Path, count: int, url: str) -> Done:
    """Make a vector of each text, through the files and batches of OpenAI's clients."""
    rows = texts_of(count)
    version = folder / "models" / ENCODER / "1"
    lines = (
        {
            "custom_id": f"text {at}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": ENCODER, "input": text},
        }
        for at, text in enumerate(rows)
    )
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    async with aiohttp.ClientSession(url) as session:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", content, filename="texts.jsonl")
        async with session.post("/v1/files", data=form) as reply:
            file = await _json(reply)
        asked = {
            "input_file_id": file["id"],
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
        }
        async with session.post("/v1/batches", json=asked) as reply:
            batch = await _json(reply)
        async with asyncio.timeout(LIMIT_S):
            while batch["status"] not in {"completed", "failed", "expired", "cancelled"}:
                await asyncio.sleep(0.2)
                async with session.get(f"/v1/batches/{batch['id']}") as reply:
                    batch = await _json(reply)
        if batch["status"] != "completed":
            raise SystemExit(f"the batch is {batch['status']}: {batch.get('errors')}")
        async with session.get(f"/v1/files/{batch['output_file_id']}/content") as reply:
            answers = [json.loads(line) for line in (await reply.read()).splitlines()]
    found = {
        int(each["custom_id"].split()[1]): np.array(
            each["response"]["body"]["data"][0]["embedding"], np.float32
        )
        for each in answers
    }
    job_s = batch["completed_at"] - batch["created_at"]
    began_s = time.perf_counter()
    expected = await asyncio.to_thread(encoded, version, rows)
    loop_s = time.perf_counter() - began_s
    equal = equal_rows(found, expected)
    return Done("texts", len(rows), len(found), equal, job_s, loop_s)


async def _json(reply: aiohttp.ClientResponse) -> dict[str, Any]:
    body = await reply.json(content_type=None)
    if reply.status >= 300:
        raise SystemExit(f"{reply.method} {reply.url}: {reply.status} {body}")
    return body


async def demo(wanted: dict[str, int], console: Console) -> list[Done]:
    """Start a network, run what is wanted, and return how it went."""
    with tempfile.TemporaryDirectory(prefix="capamesh-demo-") as top:
        folder = Path(top)
        served, data = folder / "models", folder / "data"
        data.mkdir()
        for name in wanted.keys() & {"digits", "magika"}:
            shutil.copytree(MODELS / name, served / name)
        if "texts" in wanted:
            write_encoder(served, texts_of(wanted["texts"]))
        options = ("--jobs-place", str(data))
        async with LocalCluster(folder / "net", served, NODES, router_options=options) as cluster:
            await cluster.wait_routable(NODES, timeout_s=300)
            console.print(f"router at {cluster.http_url}, {NODES} nodes; jobs may read {data}")
            done: list[Done] = []
            async with AsyncClient(cluster.http_url, headers=cluster.headers) as client:
                for name, rows in wanted.items():
                    console.print(f"{name}: {rows:,} rows")
                    match name:
                        case "digits":
                            done.append(await digits(client, data, rows))
                        case "magika":
                            done.append(await magika(client, data, rows))
                        case _:
                            done.append(await texts(client, folder, rows, cluster.http_url))
            return done


def show(done: list[Done], console: Console) -> None:
    """Print the table."""
    table = Table(title="jobs, beside a loop over ONNX Runtime")
    for column in ("data", "rows", "answered", "equal", "job", "loop"):
        table.add_column(column, justify="left" if column == "data" else "right")
    for each in done:
        counts = (f"{count:,}" for count in (each.rows, each.answered, each.equal))
        table.add_row(each.data, *counts, f"{each.job_s:.1f} s", f"{each.loop_s:.1f} s")
    console.print(table)


def main() -> int:
    """Return 0 only if all of it held."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(ROWS), help="names with commas between")
    parser.add_argument("--rows", type=int, default=0, help="of each data set; without it: all")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON alone")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    wanted = {name: options.rows or ROWS[name] for name in options.only.split(",")}
    done = asyncio.run(demo(wanted, console))
    show(done, console)
    if options.json:
        print(json.dumps([asdict(each) for each in done]))
    is_right = all(each.is_right for each in done)
    verdict = "[green]all of it held[/green]" if is_right else "[red]NOT all of it held[/red]"
    console.print(verdict)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
