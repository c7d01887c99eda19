"""MLServer's batch client, unmodified: `mlserver infer`, a file of requests in, a file of answers out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from direct_answers import direct, rows_of
from foreign_clients import run

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("form", [(), ("--binary-data",)], ids=["json", "binary"])
@pytest.mark.parametrize("together", [1, 3])
async def test_file_of_requests_is_answered(
    address: str, built_models: Path, tmp_path: Path, form: tuple[str, ...], together: int
) -> None:
    name, rows = rows_of(built_models, "digits")
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    lines = [
        {
            "inputs": [
                {"name": name, "shape": [1, row.size], "datatype": "FP32", "data": row.tolist()}
            ]
        }
        for row in rows
    ]
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    await asyncio.to_thread(
        run, "mlserver", "mlserver", "infer", "-u", address, "-m", "digits", "-i", asked,
        "-o", answered, "-w", "2", "-r", "1", "-s", str(together), *form,
    )  # fmt: skip
    told = [json.loads(line) for line in answered.read_text().splitlines()]
    labels = {
        answer["parameters"]["batch_index"]: output["data"]
        for answer in told
        for output in answer["outputs"]
        if output["name"] == "label"
    }
    expected = direct(built_models, "digits", {name: rows})["label"]
    assert labels == {at: [int(label)] for at, label in enumerate(expected)}
