"""Uploads of files as forms, at the front of a real router core with a real store and a real disk. IO: files, sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from batch_requests import request, text_of
from fleet_fakes import offer
from job_pages import JobClients, make_place
from router_http import serving

DATA = bytes(range(256)) * 40
BOUNDARY = "b0undary"


@asynccontextmanager
async def served(tmp_path: Path, **options: Any) -> AsyncIterator[JobClients]:
    place = make_place(tmp_path / "place")
    async with serving(jobs_folder=tmp_path / "jobs", **options) as http:
        http.node("A", models=(offer(),))
        yield JobClients(http, place)


def line(name: str, **changed: Any) -> bytes:
    return text_of(request(name, **changed))


def part(name: str, data: bytes, headers: Iterable[str] = (), filename: str | None = None) -> bytes:
    shown = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        shown += f'; filename="{filename}"'
    head = "\r\n".join([f"--{BOUNDARY}", shown, *headers])
    return f"{head}\r\n\r\n".encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def usual(data: bytes, purpose: str = "user_data", filename: str = "in.bin") -> bytes:
    return form(part("purpose", purpose.encode()), part("file", data, filename=filename))


def on_disk(clients: JobClients) -> list[Path]:
    folder = clients.http.job_service.places.jobs_folder / "files"
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def refused(response: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
    """Return the error of an answer, which is in OpenAI's form."""
    assert response.status == status, await response.text()
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["X-Capamesh-Error"] == body["error"]["code"]
    return dict(body["error"])
