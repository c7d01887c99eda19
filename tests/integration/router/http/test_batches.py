"""The routes of batches at the front of a real router core, with a real store and files; the test runs the rows itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_requests import URL, request, text_of
from fleet_fakes import NullLog, offer
from job_pages import JobClients, make_place
from openapi_fits import answers_of, misfits
from router_http import serving

from capamesh.protocol.tasks import Task
from capamesh.router.jobs.batch_files import BatchFiles
from capamesh.router.jobs.batches import job_of
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.rows import REQUEST_ROWS
from capamesh.router.jobs.outputs.parts import bad_chunks, part_chunks
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.outputs.sink import part_name
from capamesh.router.jobs.planner import Planner
from capamesh.router.jobs.readers.input_reading import ReadHere
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import BadRow, Manifest

REQUESTS = (
    request("first"),
    request("second", ["x", "yy"]),
    request("bad", "!"),
    request("last", "zzz", body={"encoding_format": "base64"}),
)


class BatchClients(JobClients):
    """Clients of batches, and the hands that run them."""

    async def uploaded(self, data: bytes, key: str = "", purpose: str = "batch") -> str:
        headers = {"Upload-Length": str(len(data)), "Upload-Purpose": purpose}
        response = await self.ask(key, "POST", "/v1/files", **headers)
        file = str((await response.json())["id"])
        sent = {"Upload-Offset": "0", **({"Authorization": f"Bearer {key}"} if key else {})}
        done = await self.http.client.request("PATCH", f"/v1/files/{file}", data=data, headers=sent)
        assert done.status == 200, await done.text()
        return file

    def asked(self, file: str, **changed: Any) -> dict[str, Any]:
        given = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
        return {**given, **changed}

    async def created(self, key: str = "", requests: bytes = text_of(*REQUESTS)) -> dict[str, Any]:
        file = await self.uploaded(requests, key)
        found: dict[str, Any] = await self.told(key, "POST", "/v1/batches", self.asked(file))
        return found

    async def store(self) -> JobStore:
        return await self.http.job_service.store()

    @property
    def reading(self) -> ReadHere:
        return ReadHere(self.http.job_service.places, asyncio.to_thread, time.monotonic)

    async def planned(self, rows: int = 2) -> None:
        """Plan the oldest batch."""
        store = await self.store()
        taken = await store.claim_plan("test")
        assert taken is not None
        await Planner(store, self.reading).plan(*taken, ShardLimits(rows))

    async def run(self, batch: str, shards: int = 100) -> None:
        """Run so many shards of a batch: each text becomes its length and its first byte, and `!` is refused."""
        store = await self.store()
        job = await store.get(job_of(batch), None)
        sink = self.http.job_service.places.sink("", job.id)
        for lease in await store.claim(job, "test", shards):
            results: list[Results] = []
            bad: list[BadRow] = []
            async for window in self.reading.windows(job, lease.range, {}):
                for rows in window.batches:
                    texts = rows.inputs[REQUEST_ROWS].tolist()
                    given = [at for at, text in enumerate(texts) if text != b"!"]
                    words = ("invalid_request", "the text is no text")
                    wrong = [at for at in range(len(texts)) if at not in given]
                    bad += [BadRow(rows.numbers[at], rows.ids[at], *words) for at in wrong]
                    vectors = [[len(texts[at]), texts[at][0]] for at in given]
                    outputs = {
                        "embedding": np.array(vectors, np.float32),
                        "tokens": np.array([len(texts[at]) for at in given], np.int32),
                    }
                    numbers, ids, places = (
                        [each[at] for at in given] for each in (rows.numbers, rows.ids, rows.places)
                    )
                    if given:
                        results.append(Results(numbers, ids, outputs, places, rows.form))
            done = len({number for one in results for number in one.numbers})
            part = bad_part = None
            if results:
                chunks = part_chunks(results, job.spec.output.format)
                part = sink.write(part_name(lease, "jsonl"), chunks)
            if bad:
                bad_part = sink.write(part_name(lease, "jsonl", is_bad=True), bad_chunks(bad))
            manifest = Manifest(done, len(bad), part, bad_part)
            assert await store.commit(lease, job.spec, manifest, bad)
        await store.finish(job.id)

    async def made(self) -> bool:
        """Make the files of one batch, if there is one."""
        store, places, uploads = (
            await self.store(),
            self.http.job_service.places,
            self.http.jobs.uploads,
        )
        assert uploads is not None
        made = (store, places, uploads, self.reading.names, time.monotonic, NullLog())
        return await BatchFiles(*made).turn()  # type: ignore[arg-type]

    async def lines(self, file: str, key: str = "") -> list[Any]:
        response = await self.ask(key, "GET", f"/v1/files/{file}/content")
        assert response.status == 200
        return [json.loads(line) for line in (await response.read()).splitlines()]


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[BatchClients]:
    place = make_place(tmp_path / "place")
    async with serving(jobs_folder=tmp_path / "jobs") as http:
        http.node("A", models=(offer(), replace(offer("words"), task=Task.TEXT_EMBEDDING)))
        yield BatchClients(http, place)


async def refused(clients: BatchClients, body: Any, status: int, key: str = "") -> dict[str, Any]:
    response = await clients.ask(key, "POST", "/v1/batches", body)
    assert response.status == status, await response.text()
    error: dict[str, Any] = (await response.json())["error"]
    return error


async def test_batch_goes_its_whole_way(clients: BatchClients) -> None:
    batch = await clients.created()
    file = batch["input_file_id"]
    assert batch["id"].startswith("batch_")
    assert (batch["status"], batch["model"], batch["endpoint"]) == ("validating", "words", URL)
    assert batch["expires_at"] - batch["created_at"] in {86399, 86400, 86401}
    assert (batch["errors"], batch["metadata"], batch["completion_window"]) == (None, None, "24h")
    path = f"/v1/batches/{batch['id']}"
    await clients.planned()
    running = await clients.told("", "GET", path)
    assert (running["status"], running["in_progress_at"]) == ("in_progress", batch["created_at"])
    assert running["request_counts"] == {"total": 4, "completed": 0, "failed": 0}
    assert (await clients.ask("", "DELETE", f"/v1/files/{file}")).status == 409
    await clients.run(batch["id"])
    clients.http.job_service.views.forget(job_of(batch["id"]))
    finalizing = await clients.told("", "GET", path)
    assert finalizing["status"] == "finalizing"
    assert finalizing["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    assert await clients.made()
    assert not await clients.made()
    done = await clients.told("", "GET", path)
    assert (done["status"], done["completed_at"] is None) == ("completed", False)
    answers = await clients.lines(done["output_file_id"])
    assert [line["custom_id"] for line in answers] == ["first", "second", "last"]
    body = answers[1]["response"]["body"]
    assert [each["embedding"] for each in body["data"]] == [[1.0, 120.0], [2.0, 121.0]]
    (failed,) = await clients.lines(done["error_file_id"])
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("bad", 400)
    assert failed["response"]["body"]["error"]["message"] == "the text is no text"
    output = await clients.told("", "GET", f"/v1/files/{done['output_file_id']}")
    told = (output["purpose"], output["filename"])
    assert told == ("batch_output", f"{batch['id']}_output.jsonl")
    await clients.told("", "DELETE", f"/v1/files/{file}")


async def test_cancelled_batch_keeps_what_was_answered(clients: BatchClients) -> None:
    batch = await clients.created()
    path = f"/v1/batches/{batch['id']}"
    await clients.planned(rows=1)
    await clients.run(batch["id"], shards=2)
    cancelling = await clients.told("", "POST", f"{path}/cancel")
    assert (cancelling["status"], cancelling["cancelling_at"] is None) == ("cancelling", False)
    assert (await clients.told("", "POST", f"{path}/cancel"))["status"] == "cancelling"
    await clients.made()
    done = await clients.told("", "GET", path)
    assert (done["status"], done["cancelled_at"] is None) == ("cancelled", False)
    answers = await clients.lines(done["output_file_id"])
    assert [line["custom_id"] for line in answers] == ["first", "second"]
    undone = await clients.lines(done["error_file_id"])
    told = [(line["custom_id"], line["error"]["code"]) for line in undone]
    assert told == [(name, "batch_cancelled") for name in ("bad", "last")]


@pytest.mark.parametrize(
    ("state", "told"),
    [(JobState.EXPIRED, "its deadline came first"), (JobState.FAILED, "the disk burned")],
)
async def test_batch_that_expired_or_failed_keeps_what_was_answered_and_says_why(
    clients: BatchClients, state: JobState, told: str
) -> None:
    batch = await clients.created()
    await clients.planned(rows=1)
    if state is JobState.EXPIRED:
        await clients.run(batch["id"], shards=1)
    await (await clients.store()).move(job_of(batch["id"]), state, told)
    await clients.made()
    done = await clients.told("", "GET", f"/v1/batches/{batch['id']}")
    assert done["status"] == state.value
    if state is JobState.FAILED:
        assert done["output_file_id"] is None
        assert [each["message"] for each in done["errors"]["data"]] == [told]
        return
    assert done["expired_at"] is not None
    assert [line["custom_id"] for line in await clients.lines(done["output_file_id"])] == ["first"]
    undone = await clients.lines(done["error_file_id"])
    assert [line["error"]["code"] for line in undone] == ["batch_expired"] * 3


async def test_files_that_cannot_be_made_say_why_and_are_made_later(
    clients: BatchClients,
) -> None:
    batch = await clients.created(requests=text_of(request("a")))
    await clients.planned()
    await clients.run(batch["id"])
    job = job_of(batch["id"])
    (part,) = (clients.http.job_service.places.jobs_folder / "results" / job).iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    assert not await clients.made()
    told = await clients.told("", "GET", f"/v1/batches/{batch['id']}")
    assert told["status"] == "finalizing"
    assert "is not what was written" in told["errors"]["data"][0]["message"]
    part.write_bytes(whole)
    store = await clients.store()
    await store._run(lambda turn: turn.connection.exec_driver_sql("UPDATE batch SET until_s = 0"))
    assert await clients.made()
    done = await clients.told("", "GET", f"/v1/batches/{batch['id']}")
    assert (done["status"], done["errors"]) == ("completed", None)
    files = await clients.told("", "GET", "/v1/files?purpose=batch_output")
    assert [each["id"] for each in files["data"]] == [done["output_file_id"]]


async def test_one_of_two_routers_makes_the_files(clients: BatchClients) -> None:
    batch = await clients.created(requests=text_of(request("a")))
    await clients.planned()
    await clients.run(batch["id"])
    assert sorted(await asyncio.gather(clients.made(), clients.made())) == [False, True]
    files = await clients.told("", "GET", "/v1/files?purpose=batch_output")
    assert len(files["data"]) == 1
    done = await clients.told("", "GET", f"/v1/batches/{batch['id']}")
    assert (done["error_file_id"], done["output_file_id"] is None) == (None, False)


@pytest.mark.parametrize(
    ("changed", "param", "words"),
    [
        ({"endpoint": "/v1/images"}, "endpoint", "it may be /v1/embeddings, /v1/chat/completions"),
        (
            {"endpoint": "/v1/completions"},
            "endpoint",
            "requests of the file are for /v1/embeddings",
        ),
        ({"endpoint": None}, "endpoint", "endpoint is None"),
        *(
            ({"completion_window": each}, "completion_window", "hours such as 24h")
            for each in ("1d", 24, "0h", "99999h")
        ),
        ({"metadata": "x"}, "metadata", "an object of at most 16"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "an object of at most 16"),
        *(({"metadata": {"a": each}}, "metadata", "metadata has 'a'") for each in (5, "x" * 513)),
        ({"output_expires_after": {"seconds": 5}}, "output_expires_after", "anchor"),
        ({"input_file_id": 7}, "input_file_id", "input_file_id is missing"),
    ],
)
async def test_batch_that_is_wrong_is_refused(
    clients: BatchClients, changed: dict[str, Any], param: str, words: str
) -> None:
    file = await clients.uploaded(text_of(request("a")))
    error = await refused(clients, clients.asked(file, **changed), 400)
    assert error["param"] == param
    assert words in error["message"]


async def test_file_must_be_one_of_requests_and_whole(clients: BatchClients) -> None:
    data = await clients.uploaded(b"x", purpose="user_data")
    error = await refused(clients, clients.asked(data), 400)
    assert "has the purpose user_data" in error["message"]
    response = await clients.ask(
        "", "POST", "/v1/files", **{"Upload-Length": "9", "Upload-Purpose": "batch"}
    )
    arriving = (await response.json())["id"]
    assert (await refused(clients, clients.asked(arriving), 409))["code"] == "file_conflict"
    for name in ("file-0", "../x"):
        assert (await refused(clients, clients.asked(name), 404))["code"] == "file_not_found"


async def test_model_must_be_hosted_and_for_the_endpoint(clients: BatchClients) -> None:
    for model, status, words in (("m", 400, "takes tensors alone"), ("none", 404, "none")):
        file = await clients.uploaded(text_of(request("a", body={"model": model})))
        assert words in (await refused(clients, clients.asked(file), status))["message"]


async def test_batch_is_created_once_under_a_key(clients: BatchClients) -> None:
    file = await clients.uploaded(text_of(request("a")))
    headers = {"Idempotency-Key": "one"}
    first = await clients.ask("", "POST", "/v1/batches", clients.asked(file), **headers)
    again = await clients.ask("", "POST", "/v1/batches", clients.asked(file), **headers)
    assert (await first.json())["id"] == (await again.json())["id"]
    other = await clients.ask(
        "", "POST", "/v1/batches", clients.asked(file, completion_window="1h"), **headers
    )
    assert other.status == 409


async def test_tenant_sees_its_own_batches_alone(clients: BatchClients) -> None:
    mine, theirs = clients.key("lab"), clients.key("other")
    batch = (await clients.created(mine))["id"]
    other = (await clients.created(theirs))["id"]
    for method, path in (("GET", ""), ("POST", "/cancel")):
        told = await clients.ask(theirs, method, f"/v1/batches/{batch}{path}")
        none = await clients.ask(theirs, method, f"/v1/batches/batch_{'0' * 22}{path}")
        assert told.status == none.status == 404
        assert (await told.text()).replace(batch, f"batch_{'0' * 22}") == await none.text()
    file = await clients.uploaded(text_of(request("a")), mine)
    assert (await refused(clients, clients.asked(file), 404, theirs))["code"] == "file_not_found"

    async def listed(key: str) -> list[str]:
        return [each["id"] for each in (await clients.told(key, "GET", "/v1/batches"))["data"]]

    assert (await listed(mine), await listed(theirs)) == ([batch], [other])
    assert await listed("secret") == sorted([other, batch], reverse=True)
    narrow = clients.key("lab", models=("m",))
    assert (await refused(clients, clients.asked(file), 403, narrow))["type"] == "permission_error"


async def test_list_goes_page_by_page(clients: BatchClients) -> None:
    # of one moment: chance orders them
    one, two, three = sorted([(await clients.created())["id"] for _ in range(3)])
    for after, ids, has_more in (("", [three, two], True), (f"&after={two}", [one], False)):
        page = await clients.told("", "GET", f"/v1/batches?limit=2{after}")
        assert ([each["id"] for each in page["data"]], page["has_more"]) == (ids, has_more)
        assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])


@pytest.mark.parametrize("name", ["x", "batch_", "batch_..%2f", "job-1", "batch_%00", "batch_é"])
async def test_odd_ids_are_not_found(clients: BatchClients, name: str) -> None:
    response = await clients.ask("", "GET", f"/v1/batches/{name}")
    assert response.status == 404
    assert set(await response.json()) == {"error"}


async def test_answers_fit_their_description(clients: BatchClients) -> None:
    batch = await clients.created()
    await clients.planned()
    await clients.run(batch["id"])
    await clients.made()
    for path, place in (
        (f"/v1/batches/{batch['id']}", "/v1/batches/{batch}"),
        ("/v1/batches", "/v1/batches"),
        (f"/v1/files/{batch['input_file_id']}", "/v1/files/{file}"),
        ("/v1/files", "/v1/files"),
    ):
        found = await clients.told("", "GET", path)
        schema = answers_of("GET", place, 200)["application/json"]["schema"]
        assert list(misfits(found, schema)) == []
