"""NVIDIA's load generator for language models, unmodified: streams of chats from a router whose nodes have a tiny model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from foreign_clients import folder_of, run
from tiny_llama import write_decoder_folder

from capamesh.cli.local_cluster import LocalCluster

pytestmark = pytest.mark.asyncio(loop_scope="session")
REQUESTS, CALLERS = 50, 8
PROMPT, ANSWER = 32, 8


async def test_load_generator_measures_streams_of_chats(tmp_path: Path) -> None:
    folder_of("aiperf")  # before there is anything to wait for
    folder = write_decoder_folder(tmp_path / "models" / "tiny" / "1")
    (tmp_path / "models" / "tiny" / "capamesh.toml").write_text("task = 'chat'\n")
    report = tmp_path / "report"
    # with HF_HUB_OFFLINE set it takes the tokenizer's folder for a name
    async with LocalCluster(tmp_path / "cluster", tmp_path / "models", nodes=2) as running:
        await running.wait_routable(2)
        await asyncio.to_thread(
            run, "aiperf", "aiperf", "profile", "--model", "tiny", "--url", running.http_url,
            "--endpoint-type", "chat", "--streaming", "--concurrency", str(CALLERS), "--request-count", str(REQUESTS),
            "--tokenizer", folder.path, "--isl", str(PROMPT), "--osl", str(ANSWER), "--extra-inputs", "ignore_eos:true",
            "--random-seed", "1", "--artifact-dir", report, "--ui", "none", "--no-gpu-telemetry", "--no-server-metrics",
        )  # fmt: skip
    (file,) = report.rglob("profile_export_aiperf.json")
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["request_count"]["avg"] == REQUESTS
    assert found.get("error_request_count", {"avg": 0})["avg"] == 0
    for measured in ("time_to_first_token", "inter_token_latency", "request_latency"):
        assert found[measured]["avg"] > 0
