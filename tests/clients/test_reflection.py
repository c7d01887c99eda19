"""A client that learns all it says from the router's reflection, as grpcurl does, unmodified."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import numpy as np
import pytest
from direct_answers import check, direct, rows_of
from foreign_clients import answers

from capamesh.router.grpc.health import HEALTH
from capamesh.router.grpc.methods import SERVICE
from capamesh.router.grpc.reflection import REFLECTIONS

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_client_without_files_of_the_protocol_lists_describes_and_infers(
    address: str, built_models: Path, tmp_path: Path
) -> None:
    name, rows = rows_of(built_models, "digits")
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows.tolist()))
    told = await asyncio.to_thread(
        answers, "reflection", "reflection_client.py", address, "digits", file, name
    )
    assert told["services"] == [HEALTH, *REFLECTIONS, SERVICE]
    assert {"ModelInfer", "ModelStreamInfer", "RepositoryIndex"} < set(told["methods"])
    assert told["ready"] == {"ready": True}
    assert [each["name"] for each in told["metadata"]["inputs"]] == [name]
    answer = told["answer"]
    assert (answer["model_name"], answer["id"]) == ("digits", "seven")
    datatypes = {"FP32": np.float32, "INT64": np.int64}
    got = {
        output["name"]: np.frombuffer(base64.b64decode(raw), datatypes[output["datatype"]]).reshape(
            [int(size) for size in output["shape"]]
        )
        for output, raw in zip(answer["outputs"], answer["raw_output_contents"], strict=True)
    }
    check(got, direct(built_models, "digits", {name: rows}))
