"""The routes of uploads in parts at the front of a real router core, with a real store and a real disk."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from job_pages import JobClients
from polling import until
from upload_forms import BOUNDARY, DATA, form, line, on_disk, part, refused, served, usual

from capamesh.router.jobs.uploads import joined


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[JobClients]:
    async with served(tmp_path) as clients:
        yield clients


async def asked(
    clients: JobClients, path: str, body: dict[str, Any] | bytes | None = None, key: str = ""
) -> aiohttp.ClientResponse:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    given: dict[str, Any] = {"json": body} if isinstance(body, dict) else {"data": body}
    if isinstance(body, bytes):
        headers["Content-Type"] = f"multipart/form-data; boundary={BOUNDARY}"
    response = await clients.http.client.post(f"/v1/uploads{path}", headers=headers, **given)
    await response.read()
    return response


async def told(response: aiohttp.ClientResponse) -> dict[str, Any]:
    assert response.status == 200, await response.text()
    found: dict[str, Any] = await response.json()
    return found


async def begun(clients: JobClients, size: int, key: str = "", **changed: Any) -> dict[str, Any]:
    body = {"bytes": size, "filename": "in.bin", "purpose": "user_data", "mime_type": "x/y"}
    return await told(await asked(clients, "", {**body, **changed}, key))


async def added(clients: JobClients, upload: dict[str, Any], data: bytes, key: str = "") -> str:
    body = form(part("data", data, filename="part"))
    found = await told(await asked(clients, f"/{upload['id']}/parts", body, key))
    assert (found["object"], found["upload_id"]) == ("upload.part", upload["id"])
    part_id: str = found["id"]
    return part_id


async def completed(
    clients: JobClients, upload: dict[str, Any], *part_ids: str, **more: Any
) -> aiohttp.ClientResponse:
    return await asked(clients, f"/{upload['id']}/complete", {"part_ids": part_ids, **more})


async def test_parts_become_a_file_in_the_order_that_is_asked_for(clients: JobClients) -> None:
    upload = await begun(clients, len(DATA))
    assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
    ends = (0, 5000, 5001, len(DATA))
    pieces = [DATA[first:end] for first, end in itertools.pairwise(ends)]
    parts = await asyncio.gather(*(added(clients, upload, piece) for piece in pieces))
    listed = await (await clients.ask("", "GET", "/v1/files")).json()
    assert listed["data"] == []
    digest = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    found = await told(await completed(clients, upload, *parts, md5=digest))
    assert (found["id"], found["status"], found["bytes"]) == (
        upload["id"],
        "completed",
        len(DATA),
    )
    file = found["file"]
    assert (file["filename"], file["bytes"], file["status"]) == ("in.bin", len(DATA), "processed")
    content = await clients.ask("", "GET", f"/v1/files/{file['id']}/content")
    assert await content.read() == DATA
    assert [path.name for path in on_disk(clients)] == [file["id"]]
    again = await told(await completed(clients, upload, *parts))
    assert again["file"]["id"] == file["id"]
    await refused(await asked(clients, f"/{upload['id']}/cancel"), 409)
    await refused(await asked(clients, f"/{upload['id']}/parts", form(part("data", b"x"))), 409)


async def test_wrong_parts_are_refused_and_the_upload_stays(clients: JobClients) -> None:
    upload, other = await begun(clients, 6), await begun(clients, 3)
    one, two = await added(clients, upload, b"one"), await added(clients, upload, b"two")
    foreign = await added(clients, other, b"two")
    wrong = [
        ((one, "part_nobody"), "part_ids"),
        ((one, foreign), "part_ids"),
        ((one, one), "part_ids"),
        ((one,), "part_ids"),
    ]
    for part_ids, param in wrong:
        error = await refused(await completed(clients, upload, *part_ids), 400)
        assert error["param"] == param
    error = await refused(await completed(clients, upload, one, two, md5="0" * 32), 400)
    assert error["param"] == "md5"
    for body in ({}, {"part_ids": "x"}, {"part_ids": [1]}, {"part_ids": ["x"] * 1025}):
        await refused(await asked(clients, f"/{upload['id']}/complete", body), 400)
    found = await told(await completed(clients, upload, two, one))
    content = await clients.ask("", "GET", f"/v1/files/{found['file']['id']}/content")
    assert await content.read() == b"twoone"


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"bytes": -1}, "bytes"),
        ({"bytes": "3"}, "bytes"),
        ({"bytes": True}, "bytes"),
        ({"filename": None}, "filename"),
        ({"purpose": "fine-tune"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after"),
        ({"expires_after": 5}, "expires_after"),
    ],
)
async def test_upload_that_cannot_be_is_refused(
    clients: JobClients, changed: dict[str, Any], param: str
) -> None:
    body = {"bytes": 3, "filename": "in.bin", "purpose": "user_data", **changed}
    error = await refused(await asked(clients, "", body), 400)
    assert error["param"] == param


async def test_parts_are_so_large_and_so_many_and_files_no_larger_than_they_may(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"bytes": 2**50, "filename": "in.bin", "purpose": "user_data"}
    await refused(await asked(clients, "", body), 413)
    monkeypatch.setattr(joined, "MAX_PART_BYTES", 1000)
    monkeypatch.setattr(joined, "MAX_PARTS", 2)
    upload = await begun(clients, 3)
    path = f"/{upload['id']}/parts"
    await refused(await asked(clients, path, form(part("data", DATA))), 413)
    assert on_disk(clients) == []
    _, new = [await added(clients, upload, data) for data in (b"old", b"new")]
    await refused(await asked(clients, path, form(part("data", b"x"))), 429)
    found = await told(await completed(clients, upload, new))  # what is not used is forgotten
    content = await clients.ask("", "GET", f"/v1/files/{found['file']['id']}/content")
    assert await content.read() == b"new"
    assert len(on_disk(clients)) == 1


async def test_form_without_a_part_or_with_several_is_refused(clients: JobClients) -> None:
    upload = await begun(clients, 3)
    for body in (form(part("file", b"x")), form(part("data", b"x"), part("data", b"y"))):
        error = await refused(await asked(clients, f"/{upload['id']}/parts", body), 400)
        assert error["param"] == "data"
    assert on_disk(clients) == []


async def test_cancelled_upload_and_its_parts_are_gone(clients: JobClients) -> None:
    upload = await begun(clients, 6)
    one = await added(clients, upload, b"one")
    assert len(on_disk(clients)) == 1
    found = await told(await asked(clients, f"/{upload['id']}/cancel"))
    assert (found["status"], found["file"]) == ("cancelled", None)
    assert on_disk(clients) == []
    await refused(await completed(clients, upload, one), 404)
    await refused(await asked(clients, f"/{upload['id']}/cancel"), 404)


async def test_id_that_no_upload_has_is_not_found(clients: JobClients) -> None:
    for upload_id in ("upload_", "upload_../../x", "file-0", "x" * 300):
        await refused(await asked(clients, f"/{upload_id}/cancel"), 404)


async def test_client_that_leaves_in_the_middle_of_a_part_leaves_nothing(
    clients: JobClients,
) -> None:
    upload = await begun(clients, len(DATA))
    has_come = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield form(part("data", DATA))[:-100]
        has_come.set()
        await asyncio.Event().wait()

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    sending = asyncio.ensure_future(
        clients.http.client.post(f"/v1/uploads/{upload['id']}/parts", data=body(), headers=headers)
    )
    await has_come.wait()
    await until(lambda: bool(on_disk(clients)))
    sending.cancel()
    await until(lambda: not on_disk(clients))


async def test_requests_of_a_batch_are_checked_once_all_parts_are_here(
    clients: JobClients,
) -> None:
    lines = line("a") + line("b")
    upload = await begun(clients, len(lines), purpose="batch")
    parts = [await added(clients, upload, lines[:20]), await added(clients, upload, lines[20:])]
    found = await told(await completed(clients, upload, *parts))
    assert found["file"]["purpose"] == "batch"
    twice = line("a") + line("a")
    upload = await begun(clients, len(twice), purpose="batch")
    wrong = await added(clients, upload, twice)
    await refused(await completed(clients, upload, wrong), 400)


async def test_file_in_one_piece_is_no_part(clients: JobClients) -> None:
    upload = await begun(clients, len(DATA))
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    sent = await clients.http.client.post("/v1/files", data=usual(DATA), headers=headers)
    file = await told(sent)
    name = f"part_{file['id'].removeprefix('file-')}"
    await refused(await completed(clients, upload, name), 400)
