"""KServe's own clients, unmodified: REST with JSON and with binary tensors, and gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from direct_answers import check, direct, rows_of
from foreign_clients import answers

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("wire", ["json", "binary", "grpc"])
async def test_health_answers_and_errors(
    address: str, built_models: Path, tmp_path: Path, wire: str
) -> None:
    name, rows = rows_of(built_models, "digits")
    file = tmp_path / "rows.npy"
    np.save(file, rows)
    told = await asyncio.to_thread(
        answers, "kserve", "kserve_clients.py", wire, address, "digits", file, name
    )
    assert (told["live"], told["ready"], told["model_ready"]) == (True, True, True)
    assert told["id"] == "seven"
    assert told["version"] == ("1" if wire == "grpc" else None)  # over REST the client drops it
    got = {output: np.array(data, dtype) for output, (dtype, data) in told["outputs"].items()}
    check(got, direct(built_models, "digits", {name: rows}))
    assert "no node hosts model 'nonesuch'" in told["error"]
