"""The description of a router's routes, by tools of others: it is valid OpenAPI 3.1, and the router does what it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from foreign_clients import run

from capamesh.router.http.documents import FILE

CONFIG = Path(__file__).with_name("schemathesis.toml")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_description_is_valid() -> None:
    said = await asyncio.to_thread(run, "openapi", "openapi-spec-validator", FILE)
    assert "OK" in said


async def test_made_up_requests_are_answered_as_described(address: str) -> None:
    said = await asyncio.to_thread(
        run, "openapi", "schemathesis", "--config-file", CONFIG, "run", f"http://{address}/openapi.json",
        "--phases", "coverage,fuzzing", "--max-examples", "10", "--seed", "1", "--continue-on-failure",
        "--checks", ",".join(CHECKS), "--exclude-path", "/v1/page/changes", "--suppress-health-check", "all",
        "--generation-database", "none", "--no-color",
    )  # fmt: skip
    assert "No issues found" in said or "0 failures" in said or "passed" in said
    assert " generated" in said
