"""The routes of uploaded files, whole or in parts, at the front of a real router core, with a real store and a real disk."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fleet_fakes import offer
from job_pages import JobClients
from patience import until
from router_http import WALL_S, bearer
from upload_forms import BOUNDARY, DATA, form, line, on_disk, part, refused, served, usual

from capamesh.protocol.tensors import Limits
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.uploads import folder as folders
from capamesh.router.jobs.uploads import joined, keeper, uploads
from capamesh.router.jobs.values import Pinned

FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[JobClients]:
    async with served(tmp_path) as clients:
        yield clients


async def post(
    clients: JobClients, path: str, body: dict[str, Any] | bytes | None = None, key: str = ""
) -> aiohttp.ClientResponse:
    """Post a form, JSON or nothing."""
    headers = {**(bearer(key) if key else {}), **(FORM if isinstance(body, bytes) else {})}
    given: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
    response = await clients.http.client.post(path, headers=headers, **given)
    await response.read()
    return response


async def json_of(response: aiohttp.ClientResponse, status: int = 200) -> dict[str, Any]:
    assert response.status == status, await response.text()
    found: dict[str, Any] = await response.json()
    return found


def names(clients: JobClients) -> list[str]:
    """Return the names of the files on the disk."""
    return [place.name for place in on_disk(clients)]


async def sent(clients: JobClients, body: bytes, key: str = "") -> aiohttp.ClientResponse:
    return await post(clients, "/v1/files", body, key)


async def made(
    clients: JobClients, data: bytes = DATA, key: str = "", **options: Any
) -> dict[str, Any]:
    return await json_of(await sent(clients, usual(data, **options), key))


async def begun(clients: JobClients, size: int, key: str = "", **headers: str) -> dict[str, Any]:
    given = {"Upload-Length": str(size), "Upload-Name": "in.bin", **headers}
    response = await clients.ask(key, "POST", "/v1/files", **given)
    found = await json_of(response, 201)
    assert response.headers["Location"] == f"/v1/files/{found['id']}"
    return found


async def patched(
    clients: JobClients, file: str, offset: int | str, data: bytes, key: str = ""
) -> aiohttp.ClientResponse:
    headers = {"Upload-Offset": str(offset), **(bearer(key) if key else {})}
    path = f"/v1/files/{file}"
    response = await clients.http.client.request("PATCH", path, data=data, headers=headers)
    await response.read()
    return response


async def offset_of(clients: JobClients, file: str) -> int:
    response = await clients.ask("", "HEAD", f"/v1/files/{file}")
    assert response.status == 200
    return int(response.headers["Upload-Offset"])


async def content_of(clients: JobClients, file: str) -> bytes:
    """Return all of a file, whose digest is told, too."""
    response = await clients.ask("", "GET", f"/v1/files/{file}/content")
    data = await response.read()
    assert response.headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    return data


# by a form


async def test_file_is_uploaded_shown_listed_read_and_deleted(clients: JobClients) -> None:
    file = await made(clients)
    assert file["id"].startswith("file-")
    assert abs(file["created_at"] - WALL_S) < 60
    expected = {"object": "file", "bytes": len(DATA), "filename": "in.bin"}
    expected |= {"purpose": "user_data", "status": "processed"}
    assert file == file | expected | {"expires_at": file["created_at"] + 30 * 86400}
    path = f"/v1/files/{file['id']}"
    assert await clients.told("", "GET", path) == file
    listed = await clients.told("", "GET", "/v1/files")
    assert (listed["data"], listed["has_more"]) == ([file], False)
    assert await content_of(clients, file["id"]) == DATA
    assert names(clients) == [file["id"]]
    deleted = await clients.told("", "DELETE", path)
    assert deleted == {"id": file["id"], "object": "file", "deleted": True}
    assert names(clients) == []
    error = await refused(await clients.ask("", "GET", path), 404)
    assert (error["type"], error["code"]) == ("not_found_error", "file_not_found")


async def test_fields_of_the_form_may_come_in_any_order(clients: JobClients) -> None:
    body = form(
        part("file", line("a"), filename="requests.jsonl"),
        part("unknown", b"is skipped"),
        part("expires_after[seconds]", b"3600"),
        part("expires_after[anchor]", b"created_at"),
        part("purpose", b"batch"),
    )
    file = await (await sent(clients, body)).json()
    assert (file["purpose"], file["expires_at"] - file["created_at"]) == ("batch", 3600)


@pytest.mark.parametrize("is_first", [True, False])
async def test_wrong_line_refuses_a_file_of_requests(clients: JobClients, is_first: bool) -> None:
    fields = [part("purpose", b"batch"), part("file", line("a") + line("a"), filename="r.jsonl")]
    response = await sent(clients, form(*(fields if is_first else fields[::-1])))
    error = await refused(response, 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", "file")
    assert error["message"].startswith("line 2: custom_id 'a' is that of an earlier line")
    assert on_disk(clients) == []
    assert (await clients.told("", "GET", "/v1/files"))["data"] == []


NAMES = {
    "../../../etc/passwd": "passwd",
    r"..\\..\\boot.ini": "boot.ini",
    "x" * 300: "x" * 255,
    "caf\u00e9.jsonl": "caf\u00e9.jsonl",
    "a\tb": "ab",
    **dict.fromkeys(("..", ""), "file"),
}


@pytest.mark.parametrize(("given", "name"), NAMES.items())
async def test_name_leads_nowhere(clients: JobClients, given: str, name: str) -> None:
    file = await made(clients, filename=given)
    assert file["filename"] == name
    assert names(clients) == [file["id"]]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (form(part("purpose", b"user_data")), "the form has no file"),
        (form(part("file", b"x", filename="x")), "the form does not say its purpose"),
        (usual(b"x", purpose="fine-tune"), "purpose is 'fine-tune'; it may be batch, user_data"),
        (usual(b"x", purpose="batch_output"), "purpose is 'batch_output'"),
        (form(part("purpose", b"\xff")), "is not UTF-8"),
        (form(part("purpose", b"x" * 5000)), "has more than 4096 bytes"),
        (form(*(part("a", b"") for _ in range(17))), "more than 16 parts"),
        (form(part("file", b"x", filename="x"), part("file", b"y", filename="y")), "several files"),
        (form(part("expires_after[seconds]", b"5")), "expires_after are '5'"),
        (form(part("expires_after[anchor]", b"never")), "anchor of expires_after is 'never'"),
        (form(part("file", b"x", ["Content-Transfer-Encoding: base64"])), "sent as 'base64'"),
        (form(part("file", b"", ["Content-Type: multipart/mixed; boundary=i"])), "a form itself"),
        *(
            (each, "the form cannot be read")
            for each in (
                *(usual(b"x")[:-10], part("file", b"x" * 100_000)[:-2], b""),
                b"--other\r\n\r\n--other--",
                form(part("file", b"x", [f"X-{n}: y" for n in range(200)])),
                form(part("file", b"x", ["X: " + "y" * 20_000])),
            )
        ),
    ],
)
async def test_form_that_is_wrong_is_refused(clients: JobClients, body: bytes, words: str) -> None:
    error = await refused(await sent(clients, body), 400)
    assert words in error["message"]
    assert on_disk(clients) == []


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Content-Type": "application/json"}, ""),
        ({"Content-Type": "multipart/form-data"}, ""),
        ({"Content-Type": f"multipart/form-data; boundary={'b' * 71}"}, ""),
        ({"Content-Encoding": "gzip"}, "sent as it is"),
        *(({"Upload-Length": each}, f"is '{each[:5]}") for each in ("x", "-1", "9" * 20)),
        ({"Upload-Length": "5", "Upload-Purpose": "other"}, "purpose is 'other'"),
        ({"Upload-Length": "5", "Upload-Expires-After": "5"}, "expires_after are '5'"),
    ],
)
async def test_body_that_is_no_form_and_upload_announced_wrongly_are_refused(
    clients: JobClients, headers: dict[str, str], words: str
) -> None:
    data = None if "Upload-Length" in headers else b"{}"
    response = await clients.http.client.post("/v1/files", data=data, headers=headers)
    assert words in (await refused(response, 400))["message"]


async def test_file_may_be_larger_than_a_message_but_has_no_more_bytes_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(1_000_000)
    async with served(tmp_path, limits=Limits(max_message_bytes=100_000)) as clients:
        file = await made(clients, data)
        assert await content_of(clients, file["id"]) == data
        too_large = await clients.ask("", "POST", "/v1/jobs", "x" * 200_000)
        assert too_large.status == 413  # the limit of what is held in memory stays
        await clients.told("", "DELETE", f"/v1/files/{file['id']}")
        monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 200_000)
        await refused(await sent(clients, usual(b"x" * 300_000)), 413)
        response = await clients.ask("", "POST", "/v1/files", **{"Upload-Length": "200001"})
        await refused(response, 413)
        assert on_disk(clients) == []


# that go on


async def test_upload_goes_on_where_it_ended(clients: JobClients) -> None:
    begin = await begun(clients, len(DATA))
    assert (begin["status"], begin["offset"], begin["bytes"]) == ("pending", 0, len(DATA))
    file = begin["id"]
    response = await patched(clients, file, 0, DATA[:4000])
    assert (response.headers["Upload-Offset"], (await response.json())["offset"]) == ("4000", 4000)
    assert await offset_of(clients, file) == 4000
    assert (await clients.told("", "GET", "/v1/files"))["data"] == []
    early = await clients.ask("", "GET", f"/v1/files/{file}/content")
    assert (await refused(early, 409))["code"] == "file_conflict"
    for offset in (0, 3999, 4001, 10**12):  # whoever errs is told the right one
        response = await patched(clients, file, offset, b"x" * 10)
        assert (await refused(response, 409))["code"] == "file_conflict"
        assert response.headers["Upload-Offset"] == "4000"
        assert await offset_of(clients, file) == 4000
    response = await clients.ask("", "PATCH", f"/v1/files/{file}")
    assert "Upload-Offset is ''" in (await refused(response, 400))["message"]
    done = await json_of(await patched(clients, file, 4000, DATA[4000:]))
    assert (done["status"], done.get("offset")) == ("processed", None)
    assert await content_of(clients, file) == DATA
    for offset in (0, len(DATA)):
        response = await patched(clients, file, offset, b"")
        assert "all of it is here" in (await refused(response, 409))["message"]
        assert response.headers["Upload-Offset"] == f"{len(DATA)}"
    empty = await begun(clients, 0)
    assert (empty["status"], await content_of(clients, empty["id"])) == ("processed", b"")


async def test_requests_that_came_in_pieces_are_checked_at_the_end(clients: JobClients) -> None:
    good, bad = line("a") + line("b"), line("a") + line("a")
    for data, status in ((good, 200), (bad, 400)):
        file = (await begun(clients, len(data), **{"Upload-Purpose": "batch"}))["id"]
        await patched(clients, file, 0, data[:50])
        response = await patched(clients, file, 50, data[50:])
        assert response.status == status
    assert (await refused(response, 400))["message"].startswith("line 2: custom_id 'a'")
    assert (await clients.ask("", "GET", f"/v1/files/{file}")).status == 404
    assert len(on_disk(clients)) == 1


async def test_more_bytes_than_announced_are_refused(clients: JobClients) -> None:
    file = (await begun(clients, 1000))["id"]
    told = await patched(clients, file, 0, b"x" * 1001)
    assert "more than the 1000 bytes that are missing" in (await refused(told, 400))["message"]
    assert await offset_of(clients, file) == 0

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 400

    response = await clients.http.client.request(
        "PATCH", f"/v1/files/{file}", data=chunks(), headers={"Upload-Offset": "0"}
    )
    await refused(response, 400)
    assert await offset_of(clients, file) == 1000
    assert (await patched(clients, file, 1000, b"")).status == 200


async def begin(
    clients: JobClients, first: str, body: bytes, size: int, *lines: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin a request whose body has `size` bytes on a connection of its own."""
    client = clients.http.client
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = (f"{first} HTTP/1.1", "Host: x", f"Content-Length: {size}", *lines, "", "")
    writer.write("\r\n".join(head).encode() + body)
    return reader, writer


async def begin_form(clients: JobClients, body: bytes, size: int) -> Any:
    return await begin(clients, "POST /v1/files", body, size, *map(": ".join, FORM.items()))


async def begin_file(clients: JobClients, file: str, count: int, *lines: str) -> Any:
    """Begin to write a file of 1,000 bytes."""
    first = f"PATCH /v1/files/{file}"
    return await begin(clients, first, b"x" * count, 1000, "Upload-Offset: 0", *lines)


async def writing(clients: JobClients, file: str) -> tuple[Any, asyncio.StreamWriter]:
    """Return a connection on which 600 of 1,000 bytes of a file have come."""
    reader, writer = await begin_file(clients, file, 600)

    async def is_there() -> bool:
        return await offset_of(clients, file) == 600

    await until(is_there)
    return reader, writer


@pytest.mark.parametrize("is_reset", [False, True])
async def test_bytes_before_a_connection_broke_are_kept(
    clients: JobClients, is_reset: bool
) -> None:
    file = (await begun(clients, 1000))["id"]
    _, writer = await writing(clients, file)
    if is_reset:
        writer.transport.abort()
    else:
        writer.close()
    response = await patched(clients, file, 600, b"x" * 400)
    while response.status == 409:  # until the router knows that the other client is gone
        assert response.headers.get("Upload-Offset") in {None, "600"}
        response = await patched(clients, file, 600, b"x" * 400)
    assert (response.status, (await response.json())["status"]) == (200, "processed")


async def test_one_of_two_requests_that_write_a_file_is_refused(clients: JobClients) -> None:
    file = (await begun(clients, 1000))["id"]
    reader, writer = await writing(clients, file)
    response = await patched(clients, file, 600, b"y" * 400)
    assert "another request writes the file" in (await refused(response, 409))["message"]
    writer.write(b"x" * 400)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert await content_of(clients, file) == b"x" * 1000


async def test_client_that_sends_nothing_is_given_up(tmp_path: Path) -> None:
    async with served(tmp_path, arrival_s=0.2) as clients:
        file = (await begun(clients, 1000))["id"]
        form_of_it = begin_form(clients, usual(b"x" * 1000)[:800], 9000)
        for begun_with in (begin_file(clients, file, 600), form_of_it):
            reader, writer = await begun_with
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
            writer.close()
            assert await offset_of(clients, file) == 600
        assert names(clients) == [f"{file}.part"]


async def test_form_that_breaks_off_leaves_nothing(clients: JobClients) -> None:
    _, writer = await begin_form(clients, usual(b"x" * 80_000)[:70_000], 90_000)
    await until(lambda: on_disk(clients))
    writer.transport.abort()
    await until(lambda: not on_disk(clients))
    store = await clients.http.job_service.store()

    def count(turn: Any) -> int:
        return int(turn.connection.exec_driver_sql("SELECT count(*) FROM file").scalar())

    async def is_empty() -> bool:
        return not await store.files._ask(count)

    await until(is_empty)


# how many, how much


async def test_uploads_at_once_are_bounded(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(uploads, "MOST_OF_TENANT", 2)
    mine, theirs = clients.key("lab"), clients.key("other")
    files = [(await begun(clients, 1000, mine))["id"] for _ in range(3)]
    file = (await begun(clients, 1000, theirs))["id"]
    writers = []
    for one, key in ((files[0], mine), (files[1], mine), (file, theirs)):
        writers.append((await begin_file(clients, one, 10, f"X-API-Key: {key}"))[1])
        if one == files[1]:
            await until(lambda: len(on_disk(clients)) == 2)
            response = await patched(clients, files[2], 0, b"x", mine)
            assert "2 uploads of this tenant" in (await refused(response, 429))["message"]
    await until(lambda: len(on_disk(clients)) == 3)
    response = await sent(clients, usual(b"x"), theirs)
    assert "3 uploads are under way" in (await refused(response, 503))["message"]
    assert response.headers["Retry-After"] == "1"
    for writer in writers:
        writer.transport.abort()
    while (response := await patched(clients, files[2], 0, b"x", mine)).status in {429, 503}:
        pass
    assert response.status == 200


async def test_full_disk_is_told(clients: JobClients, monkeypatch: pytest.MonkeyPatch) -> None:
    file = (await begun(clients, 1000))["id"]
    real = os.pwrite
    room = [600]

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = data[: room[0]]
        room[0] -= len(part)
        return real(descriptor, part, offset)

    monkeypatch.setattr(folders.os, "pwrite", pwrite)
    error = await refused(await patched(clients, file, 0, b"x" * 1000), 507)
    assert (error["code"], error["type"]) == ("storage_full", "server_error")
    assert await offset_of(clients, file) == 600  # what fits is there
    error = await refused(await sent(clients, usual(b"x" * 1000)), 507)
    assert names(clients) == [f"{file}.part"]
    room[0] = 10**6
    assert (await patched(clients, file, 600, b"x" * 400)).status == 200


async def test_disk_is_not_filled_up(clients: JobClients, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def statvfs(path: Any) -> Any:
        assert asyncio._get_running_loop() is None, "it may hang, and the loop with it"
        found = list(real(path))
        found[1], found[4] = 4096, (folders.LEAST_FREE_BYTES + 8192) // 4096
        return os.statvfs_result(found)

    monkeypatch.setattr(folders.os, "statvfs", statvfs)
    response = await clients.ask("", "POST", "/v1/files", **{"Upload-Length": "8193"})
    assert "has room for 8192 bytes" in (await refused(response, 507))["message"]
    await begun(clients, 8192)
    monkeypatch.setattr(folders, "LOOK_EVERY_BYTES", 1)
    monkeypatch.setattr(uploads, "ROOM_STEP_BYTES", 0)
    await refused(await sent(clients, usual(b"x" * 9000)), 507)


# whose


async def test_tenant_sees_its_own_files_alone(clients: JobClients) -> None:
    mine, theirs, admin = clients.key("lab"), clients.key("other"), "secret"
    data = (await made(clients, key=mine))["id"]
    open_file = (await begun(clients, 100, mine))["id"]
    other = (await made(clients, key=theirs))["id"]
    unknown = f"file-{'0' * 22}"
    asked = (*((word, "") for word in ("GET", "HEAD", "PATCH", "DELETE")), ("GET", "/content"))
    at = {"Upload-Offset": "0"}
    for file in (data, open_file):
        for method, path in asked:
            told, none = [
                await clients.ask(theirs, method, f"/v1/files/{each}{path}", **at)
                for each in (file, unknown)
            ]
            assert told.status == none.status == 404
            assert (await told.text()).replace(file, unknown) == await none.text()

    async def listed(key: str) -> list[str]:
        return [each["id"] for each in (await clients.told(key, "GET", "/v1/files"))["data"]]

    assert (await listed(mine), await listed(theirs)) == ([data], [other])
    assert await listed(admin) == sorted([other, data], reverse=True)
    assert (await clients.ask(admin, "GET", f"/v1/files/{data}/content")).status == 200
    assert (await clients.ask("", "GET", "/v1/files")).status == 401


@pytest.mark.parametrize(
    "name", ["x", "file-", "file-..%2f..%2fetc", "file-" + "a" * 65, "file-%00", "file-é"]
)
async def test_odd_ids_are_not_found(clients: JobClients, name: str) -> None:
    await refused(await clients.ask("", "GET", f"/v1/files/{name}"), 404)


async def test_file_that_a_job_reads_is_not_deleted(clients: JobClients) -> None:
    file = (await made(clients))["id"]
    store = await clients.http.job_service.store()
    spec = JobSpec("m", InputSpec(f"upload:{file}", InputFormat.JSONL, {"x": ("x",)}), OutputSpec())
    job, _ = await store.submit("", spec, Pinned(offer().version, "sha256:0"))
    error = await refused(await clients.ask("", "DELETE", f"/v1/files/{file}"), 409)
    assert job.id in error["message"]
    await clients.told("", "POST", f"/v1/jobs/{job.id}/cancel")
    await clients.told("", "DELETE", f"/v1/files/{file}")


# the list


async def test_list_goes_page_by_page(clients: JobClients) -> None:
    made_files = [(await made(clients, line(name), purpose="batch"))["id"] for name in "abc"]
    data = (await made(clients))["id"]

    async def page(query: str) -> tuple[list[str], bool]:
        found = await clients.told("", "GET", f"/v1/files?{query}")
        ids = [each["id"] for each in found["data"]]
        assert (found["first_id"], found["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        return ids, found["has_more"]

    ids = sorted([*made_files, data])  # the time of day stands still: chance orders them
    assert await page("limit=2") == ([ids[3], ids[2]], True)
    assert await page(f"limit=2&after={ids[2]}") == ([ids[1], ids[0]], False)
    assert await page("order=asc&limit=1") == ([ids[0]], True)
    assert await page("purpose=user_data") == ([data], False)
    assert await page("purpose=batch_output") == ([], False)
    for query in ("limit=0", "limit=x", "limit=10001", "order=up", "purpose=x", "after=x"):
        await refused(await clients.ask("", "GET", f"/v1/files?{query}"), 400)


# ranges


async def test_range_of_a_file_is_answered_or_refused(clients: JobClients) -> None:
    path, size = f"/v1/files/{(await made(clients))['id']}/content", len(DATA)
    for asked, first, end in (
        *(("bytes=2-4", 2, 5), ("bytes=0-0", 0, 1), ("bytes=10-", 10, size)),
        *(("bytes=-3", size - 3, size), ("bytes=10000-99999", 10000, size)),
        *(
            (each, 0, 0)
            for each in ("bytes=99999-", "bytes=5-2", "bytes=0-1,4-5", "lines=1-2", "x")
        ),
    ):
        response = await clients.ask("", "GET", path, Range=asked)
        place = f"{first}-{end - 1}" if end else "*"
        assert response.headers["Content-Range"] == f"bytes {place}/{size}"
        if not end:
            assert (await refused(response, 416))["type"] == "invalid_request_error"
            continue
        assert (response.status, await response.read()) == (206, DATA[first:end])
        head = await clients.ask("", "HEAD", path, Range=asked)
        assert int(head.headers["Content-Length"]) == end - first
    for whole in ({"Range": "bytes=-99999"}, {"Range": "bytes=2-4", "If-Range": '"other"'}):
        assert await (await clients.ask("", "GET", path, **whole)).read() == DATA


# what is left over


async def test_bytes_that_no_file_has_are_collected(clients: JobClients) -> None:
    file = (await made(clients))["id"]
    store = await clients.http.job_service.store()
    kept = on_disk(clients)[0]
    for name in ("file-00ff", "file-00fe.part", "notes.txt"):
        (kept.parent / name).write_bytes(b"x")
    api_folder = folders.FileFolder(clients.http.job_service.places.jobs_folder)
    assert await keeper.collect(store.files, api_folder, time.time() - 3600) == 0
    assert await keeper.collect(store.files, api_folder, time.time() + 60) == 2
    assert names(clients) == [file, "notes.txt"]


async def test_file_that_is_whole_on_the_disk_alone_is_finished(clients: JobClients) -> None:
    """A router died after the last bytes were here, and before it said so."""
    file = (await begun(clients, 4))["id"]
    await patched(clients, file, 0, b"abc")
    part_of_it = on_disk(clients)[0]
    part_of_it.write_bytes(b"abcd")
    part_of_it.rename(part_of_it.with_suffix(""))
    assert await offset_of(clients, file) == 4
    assert (await patched(clients, file, 4, b"")).status == 200
    assert await content_of(clients, file) == b"abcd"


# in parts


async def upload_of(clients: JobClients, size: int, key: str = "", **changed: Any) -> str:
    body = {"bytes": size, "filename": "in.bin", "purpose": "user_data", "mime_type": "x/y"}
    found = await json_of(await post(clients, "/v1/uploads", {**body, **changed}, key))
    assert (found["object"], found["status"], found["file"]) == ("upload", "pending", None)
    return f"/v1/uploads/{found['id']}"


async def added(clients: JobClients, upload: str, data: bytes) -> str:
    body = form(part("data", data, filename="part"))
    found = await json_of(await post(clients, f"{upload}/parts", body))
    assert (found["object"], found["upload_id"]) == ("upload.part", upload.rpartition("/")[2])
    return str(found["id"])


async def completed(
    clients: JobClients, upload: str, *part_ids: str, **more: Any
) -> aiohttp.ClientResponse:
    return await post(clients, f"{upload}/complete", {"part_ids": part_ids, **more})


async def joined_of(clients: JobClients, upload: str, *part_ids: str) -> bytes:
    """Return the file that some parts become."""
    found = await json_of(await completed(clients, upload, *part_ids))
    return await content_of(clients, found["file"]["id"])


async def test_parts_become_a_file_in_the_order_that_is_asked_for(clients: JobClients) -> None:
    upload = await upload_of(clients, len(DATA))
    ends = (0, 5000, 5001, len(DATA))
    pieces = [DATA[first:end] for first, end in itertools.pairwise(ends)]
    parts = await asyncio.gather(*(added(clients, upload, piece) for piece in pieces))
    assert (await clients.told("", "GET", "/v1/files"))["data"] == []
    digest = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    found = await json_of(await completed(clients, upload, *parts, md5=digest))
    assert (found["status"], found["bytes"]) == ("completed", len(DATA))
    assert upload.endswith(found["id"])
    file = found["file"]
    assert (file["filename"], file["bytes"], file["status"]) == ("in.bin", len(DATA), "processed")
    assert names(clients) == [file["id"]]
    assert await joined_of(clients, upload, *parts) == DATA  # the same file again
    assert names(clients) == [file["id"]]
    await refused(await post(clients, f"{upload}/cancel"), 409)
    await refused(await post(clients, f"{upload}/parts", form(part("data", b"x"))), 409)


async def test_wrong_parts_are_refused_and_the_upload_stays(clients: JobClients) -> None:
    upload, other = await upload_of(clients, 6), await upload_of(clients, 3)
    one, two = [await added(clients, upload, data) for data in (b"one", b"two")]
    foreign = await added(clients, other, b"two")
    whole = f"part_{(await made(clients))['id'].removeprefix('file-')}"  # a file in one piece
    for part_ids in ((one, "part_nobody"), (one, foreign), (one, one), (one,), (whole,)):
        error = await refused(await completed(clients, upload, *part_ids), 400)
        assert error["param"] == "part_ids"
    error = await refused(await completed(clients, upload, one, two, md5="0" * 32), 400)
    assert error["param"] == "md5"
    for body in ({}, {"part_ids": "x"}, {"part_ids": [1]}, {"part_ids": ["x"] * 1025}):
        await refused(await post(clients, f"{upload}/complete", body), 400)
    assert await joined_of(clients, upload, two, one) == b"twoone"


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        *(({"bytes": each}, "bytes") for each in (-1, "3", True)),
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
    assert (await refused(await post(clients, "/v1/uploads", body), 400))["param"] == param


async def test_parts_are_so_large_and_so_many_and_files_no_larger_than_they_may(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"bytes": 2**50, "filename": "in.bin", "purpose": "user_data"}
    await refused(await post(clients, "/v1/uploads", body), 413)
    monkeypatch.setattr(joined, "MAX_PART_BYTES", 1000)
    monkeypatch.setattr(joined, "MAX_PARTS", 2)
    upload = await upload_of(clients, 3)
    await refused(await post(clients, f"{upload}/parts", form(part("data", DATA))), 413)
    for wrong in (form(part("file", b"x")), form(part("data", b"x"), part("data", b"y"))):
        error = await refused(await post(clients, f"{upload}/parts", wrong), 400)
        assert error["param"] == "data"
    assert on_disk(clients) == []
    _, new = [await added(clients, upload, data) for data in (b"old", b"new")]
    await refused(await post(clients, f"{upload}/parts", form(part("data", b"x"))), 429)
    assert await joined_of(clients, upload, new) == b"new"  # what is not used is forgotten
    assert len(on_disk(clients)) == 1


async def test_cancelled_upload_and_its_parts_are_gone(clients: JobClients) -> None:
    upload = await upload_of(clients, 6)
    one = await added(clients, upload, b"one")
    assert len(on_disk(clients)) == 1
    found = await json_of(await post(clients, f"{upload}/cancel"))
    assert (found["status"], found["file"]) == ("cancelled", None)
    assert on_disk(clients) == []
    await refused(await completed(clients, upload, one), 404)
    for gone in (upload, *(f"/v1/uploads/{each}" for each in ("upload_", "file-0", "x" * 300))):
        await refused(await post(clients, f"{gone}/cancel"), 404)


async def test_upload_of_another_tenant_is_not_there(clients: JobClients) -> None:
    mine, theirs = clients.key("lab"), clients.key("other")
    upload = await upload_of(clients, 3, mine)
    for tail, body in (
        ("parts", form(part("data", b"abc"))),
        ("complete", {"part_ids": ["part_x"]}),
        ("cancel", None),
    ):
        await refused(await post(clients, f"{upload}/{tail}", body, theirs), 404)
    await json_of(await post(clients, f"{upload}/cancel", key=mine))


async def test_client_that_leaves_in_the_middle_of_a_part_leaves_nothing(
    clients: JobClients,
) -> None:
    upload = await upload_of(clients, len(DATA))
    has_come = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield form(part("data", DATA))[:-100]
        has_come.set()
        await asyncio.Event().wait()

    sending = asyncio.ensure_future(
        clients.http.client.post(f"{upload}/parts", data=body(), headers=FORM)
    )
    await has_come.wait()
    await until(lambda: bool(on_disk(clients)))
    sending.cancel()
    await until(lambda: not on_disk(clients))


async def test_requests_of_a_batch_are_checked_once_all_parts_are_here(
    clients: JobClients,
) -> None:
    lines, twice = line("a") + line("b"), line("a") + line("a")
    upload = await upload_of(clients, len(lines), purpose="batch")
    parts = [await added(clients, upload, each) for each in (lines[:20], lines[20:])]
    found = await json_of(await completed(clients, upload, *parts))
    assert found["file"]["purpose"] == "batch"
    upload = await upload_of(clients, len(twice), purpose="batch")
    await refused(await completed(clients, upload, await added(clients, upload, twice)), 400)
