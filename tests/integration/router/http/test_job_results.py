"""Results of batch jobs by row, as files, and the rows that have none: through manifests alone, and for their tenant alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np
import pytest
from job_pages import JobClients

from capamesh.router.http import job_results
from capamesh.router.jobs import reading
from capamesh.router.jobs.outputs.parts import bad_chunks, part_chunks
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.outputs.sink import LocalSink, part_name
from capamesh.router.jobs.spec import OutputFormat
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import BadRow, Job, Lease, Manifest, Part

SHARDS, SHARD_ROWS = 4, 5
ROWS = SHARDS * SHARD_ROWS
GUARD_S = 60.0
FORMATS = [OutputFormat.JSONL, OutputFormat.PARQUET, OutputFormat.NPZ]


class RunJob:
    """A job whose shards a test has done, one by one."""

    def __init__(self, clients: JobClients, store: JobStore, job: Job, leases: list[Lease]) -> None:
        self.clients, self.store, self.job, self.leases = clients, store, job, leases
        self.path = f"/v1/jobs/{job.id}"

    @classmethod
    async def submitted(
        cls, clients: JobClients, key: str = "", form: OutputFormat = OutputFormat.JSONL
    ) -> RunJob:
        job_id = await clients.submit(key, output={"format": form.value})
        job = await clients.planned(job_id, SHARDS, SHARD_ROWS)
        store = await clients.http.job_service.store()
        return cls(clients, store, job, await store.claim(job, "test", SHARDS))

    @property
    def sink(self) -> LocalSink:
        sink = self.clients.http.job_service.places.sink("", self.job.id)
        assert isinstance(sink, LocalSink)
        return sink

    async def done(self, seq: int, bad: Sequence[int] = ()) -> Manifest:
        """Commit a shard, but for rows that are bad."""
        lease, form = self.leases[seq], self.job.spec.output.format
        numbers = range(seq * SHARD_ROWS, (seq + 1) * SHARD_ROWS)
        good = [each for each in numbers if each not in bad]
        part = bad_part = None
        if good:
            outputs = {
                "y": np.array([[[at, at + 0.5]] for at in good], np.float32),
                "label": np.array([f"é{at}".encode() for at in good], object),
            }
            results = [Results(good, [f"r{at}" for at in good], outputs)]
            part = self.sink.write(part_name(lease, form.value), part_chunks(results, form))
        wrong = [BadRow(at, f"r{at}", "input_invalid", "no", "A") for at in bad if at in numbers]
        if wrong:
            bad_part = self.sink.write(part_name(lease, "jsonl", is_bad=True), bad_chunks(wrong))
        manifest = Manifest(len(good), len(wrong), part, bad_part)
        assert await self.store.commit(lease, self.job.spec, manifest, wrong)
        return manifest

    async def part(self, seq: int) -> Part:
        """Commit a shard and return where its rows are."""
        part = (await self.done(seq)).part
        assert part is not None
        return part

    async def get(self, tail: str, key: str = "", **headers: str) -> aiohttp.ClientResponse:
        return await self.clients.ask(key, "GET", f"{self.path}/{tail}", **headers)

    async def results(self, query: str = "") -> tuple[list[Any], int]:
        """Return the lines of an answer, and the row to go on from."""
        response = await self.get(f"results?{query}")
        assert response.status == 200, await response.text()
        lines = [json.loads(line) for line in (await response.read()).splitlines()]
        return lines, int(response.headers["Capamesh-Next-Row"])


async def fails(run: RunJob, *tails: str) -> None:
    """See that these cannot be read."""
    for tail in tails:
        response = await run.get(tail)
        assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "output_failed")


def expected(*numbers: int) -> list[dict[str, Any]]:
    outputs = [{"y": [[at, at + 0.5]], "label": f"é{at}"} for at in numbers]
    return [
        {"row": at, "id": f"r{at}", "outputs": of} for at, of in zip(numbers, outputs, strict=True)
    ]


@pytest.mark.parametrize("form", FORMATS)
async def test_rows_are_the_same_whatever_the_form_of_the_parts(
    clients: JobClients, form: OutputFormat
) -> None:
    if form is OutputFormat.PARQUET:
        pytest.importorskip("pyarrow")
    run = await RunJob.submitted(clients, form=form)
    for seq in range(SHARDS):
        await run.done(seq, bad=(7,))
    for query, rows, next_row in (
        ("", range(ROWS), ROWS),
        ("from_row=3&rows=9&format=jsonl", range(3, 12), 12),
        ("from_row=7&rows=1", (), 8),
        ("from_row=8&rows=2", (8, 9), 10),
        ("from_row=11&rows=2", (11, 12), 13),
        ("from_row=19", (19,), ROWS),
        ("from_row=20", (), 20),
        ("from_row=500", (), 500),
        ("rows=0", (), 0),
    ):
        found = await run.results(query)
        assert found == (expected(*(at for at in rows if at != 7)), next_row), query


async def test_rows_of_a_job_under_way_end_before_the_first_that_may_still_come(
    clients: JobClients,
) -> None:
    job = await clients.submit()  # it has no plan yet
    response = await clients.ask("", "GET", f"/v1/jobs/{job}/results?from_row=3")
    told = (response.status, response.headers["Capamesh-Next-Row"], await response.read())
    assert told == (200, "3", b"")
    await clients.told("", "POST", f"/v1/jobs/{job}/cancel")
    run = await RunJob.submitted(clients)
    assert await run.results() == ([], 0)
    await run.done(2)
    assert await run.results() == ([], 0)
    assert await run.results("from_row=10") == (expected(*range(10, 15)), 15)
    assert await run.results("from_row=4") == ([], 4)
    await run.done(0)
    assert await run.results() == (expected(*range(5)), 5)
    assert await run.results("from_row=5") == ([], 5)
    await run.done(1)
    assert await run.results("from_row=5&rows=7") == (expected(*range(5, 12)), 12)
    assert await run.results("from_row=12") == (expected(*range(12, 15)), 15)
    # a job that has ended keeps what was done, and nothing more comes
    await run.store.move(run.job.id, JobState.CANCELLED)
    assert await run.results() == (expected(*range(15)), ROWS)


@pytest.mark.parametrize(
    "query", ["format=csv", "from_row=-1", "rows=x", "rows=1e3", "from_row=" + "9" * 30]
)
async def test_query_that_is_wrong_is_refused(clients: JobClients, query: str) -> None:
    run = await RunJob.submitted(clients)
    assert (await run.get(f"results?{query}")).status == 400


# parts


async def test_parts_are_listed_and_read_as_they_were_written(clients: JobClients) -> None:
    run = await RunJob.submitted(clients)
    made = [await run.done(seq, bad=(0, 1, 2, 3, 4, 8)) for seq in range(3)]
    pages = [
        await clients.told("", "GET", f"{run.path}/parts?limit=2{after}")
        for after in ("", "&after=1")
    ]
    assert [each["has_more"] for each in pages] == [True, False]
    shown = [each for page in pages for each in page["data"]]
    names = ("seq", "first_row", "rows", "bad_rows")
    told = [tuple(each[name] for name in names) for each in shown]
    assert told == [(0, 0, 0, 5), (1, 5, 4, 1), (2, 10, 5, 0)]
    assert (shown[0]["name"], shown[0]["sha256"], shown[2]["bad_name"]) == (None, "", None)
    for manifest in made:
        for part in (manifest.part, manifest.bad_part):
            if part is None:
                continue
            response = await run.get(f"parts/{part.name}")
            assert hashlib.sha256(await response.read()).hexdigest() == part.sha256
            expected_headers = {
                "ETag": f'"{part.sha256}"',
                "Content-Type": "application/x-ndjson",
                "X-Content-Type-Options": "nosniff",
                "Content-Disposition": "attachment",
            }
            assert response.headers.items() >= expected_headers.items()


async def test_some_bytes_of_a_part_are_read(clients: JobClients) -> None:
    run = await RunJob.submitted(clients)
    part = await run.part(0)
    whole = run.sink.read(part)
    size = len(whole)
    for asked, status, first, end in (
        ("bytes=0-9", 206, 0, 10),
        ("bytes=10-", 206, 10, size),
        ("bytes=-7", 206, size - 7, size),
        ("bytes=5-99999999", 206, 5, size),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=999999-", 416, 0, 0),
        *((each, 200, 0, size) for each in ("bytes=9-3", "rows=0-9", "bytes=0-1,4-5", "bytes=x")),
        ("bytes=" + "9" * 5000 + "-", 200, 0, size),
    ):
        response = await run.get(f"parts/{part.name}", Range=asked)
        place = {206: f"bytes {first}-{end - 1}/{size}", 416: f"bytes */{size}"}.get(status)
        assert (response.status, response.headers.get("Content-Range")) == (status, place), asked
        assert status == 416 or await response.read() == whole[first:end]


async def test_file_that_no_manifest_names_is_never_served(clients: JobClients) -> None:
    run = await RunJob.submitted(clients)
    await run.done(0)
    strays = ("part-000001-1.jsonl", "part-000000-2.jsonl", "bad-000000-1.jsonl")
    for stray in strays:
        (run.sink.folder / stray).write_text("{}")
    for name in (
        *strays,
        *("part-000000-1.parquet", "x", "..%2f..%2fx", "part-999999999-1.jsonl"),
        *(".part-000000-1.jsonl.tmp", "part-000000-1.jsonl%00", "part-000000-1.jsonl%0a"),
    ):
        assert (await run.get(f"parts/{name}")).status == 404


async def test_part_that_is_damaged_is_told_and_no_row_of_it_is_sent(clients: JobClients) -> None:
    run = await RunJob.submitted(clients)
    first, second = [await run.part(seq) for seq in range(2)]
    place = run.sink.folder / second.name
    place.write_bytes(place.read_bytes().replace(b"5.5", b"9.9"))
    await fails(run, "results?from_row=5", f"parts/{second.name}")
    # where rows were sent before, the answer is broken off: a client cannot take it for whole
    with pytest.raises(Exception, match=r"(?i)payload|closed|reset|disconnected"):
        await run.get("results")
    (run.sink.folder / first.name).unlink()
    await fails(run, "results")


# rows without a result


async def test_rows_without_a_result_are_listed_with_why(clients: JobClients) -> None:
    run = await RunJob.submitted(clients)
    await run.done(0, bad=(1, 3))
    await run.done(1, bad=(6,))
    page = await clients.told("", "GET", f"{run.path}/errors?limit=2")
    why = {"code": "input_invalid", "message": "no", "node": "A"}
    rows = [{"row": at, "id": f"r{at}", **why} for at in (1, 3)]
    assert page == {"object": "list", "data": rows, "has_more": True}
    rest = await clients.told("", "GET", f"{run.path}/errors?limit=2&after=3")
    assert ([each["row"] for each in rest["data"]], rest["has_more"]) == ([6], False)


# whose, how many, and those who do not read


async def test_results_of_another_tenant_are_as_those_of_no_job(clients: JobClients) -> None:
    lab, rich = clients.key("lab"), clients.key("rich")
    run = await RunJob.submitted(clients, lab)
    tails = ("results", "parts", f"parts/{(await run.part(0)).name}", "errors")
    assert [(await run.get(tail, lab)).status for tail in tails] == [200] * 4
    await clients.assert_unknown(rich, run.job.id, *(f"/{tail}" for tail in tails))


async def test_readers_have_so_many_places_and_a_tenant_a_part_of_them(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_STREAMS", 3)
    monkeypatch.setattr(reading, "MOST_OF_TENANT", 2)
    lab, rich = clients.key("lab"), clients.key("rich")
    runs = {key: await RunJob.submitted(clients, key) for key in (lab, rich)}
    go_on = asyncio.Event()

    async def wait(*_: Any) -> None:
        await go_on.wait()

    monkeypatch.setattr(job_results, "_write", wait)
    for run in runs.values():
        await run.done(0)
    service = clients.http.job_service

    async def read(key: str) -> int:
        return (await runs[key].get("results", key)).status

    taken = [asyncio.create_task(read(lab)) for _ in range(2)]
    while service.reading._tenants.total() < 2:
        await asyncio.sleep(0)
    assert await read(lab) == 429
    taken.append(asyncio.create_task(read(rich)))
    while service.reading._tenants.total() < 3:
        await asyncio.sleep(0)
    assert await read(rich) == 503
    go_on.set()
    assert await asyncio.gather(*taken) == [200] * 3
    assert service.reading._tenants == {}


async def test_client_that_reads_nothing_is_hung_up_on(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_results, "WRITE_S", 0.1)
    run = await RunJob.submitted(clients)
    lease = run.leases[0]
    numbers = range(SHARD_ROWS)
    outputs = {"y": np.zeros((SHARD_ROWS, 400_000), np.float32)}  # 8 MB of text
    results = [Results(numbers, [str(at) for at in numbers], outputs)]
    part = run.sink.write(part_name(lease, "jsonl"), part_chunks(results, OutputFormat.JSONL))
    await run.store.commit(lease, run.job.spec, Manifest(SHARD_ROWS, 0, part))
    service = clients.http.job_service
    for tail in ("results", f"parts/{part.name}"):
        response = await clients.http.client.get(f"{run.path}/{tail}")
        while service.reading._tenants:
            await asyncio.sleep(0)
        with pytest.raises(Exception, match=r"(?i)payload|closed|reset|disconnected"):
            await response.read()


@pytest.mark.real_loop("a thread hangs")
async def test_disk_that_hangs_is_given_up(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READ_S", 0.05)
    run = await RunJob.submitted(clients)
    part = await run.part(0)
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(*_: Any) -> None:
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(GUARD_S)

    monkeypatch.setattr(LocalSink, "open", hang)
    await fails(run, "results", f"parts/{part.name}")
    go_on.set()
