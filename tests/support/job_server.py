"""A router's routes of jobs and files in one thread, made up: it keeps what it is told, and fails where a test says so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from threaded_server import served

from capamesh.protocol.oip import model_metadata_body
from capamesh.protocol.tensors import Datatype, TensorSpec

SHARD_ROWS = 4
MOST_ROWS = 3
"""The most rows of one answer, so that a shard takes several."""


@dataclass
class Fault:
    """What goes wrong with one request."""

    method: str
    part: str
    """What its path has in it."""
    kind: str
    """`cut` before the request is taken, `lost` after, `half` in the middle of the answer, `garbage`, or `status`."""
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    taken_bytes: int | None = None
    """Of a piece of an upload, how much is kept of one that is lost."""


@dataclass
class KeptJob:
    """A job as the server keeps it."""

    id: str
    spec: dict[str, Any]
    rows: int
    state: str = "running"
    done: set[int] = field(default_factory=set)
    bad: dict[int, str] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)

    @property
    def shards(self) -> int:
        return -(-self.rows // SHARD_ROWS)

    def range(self, seq: int) -> range:
        return range(seq * SHARD_ROWS, min((seq + 1) * SHARD_ROWS, self.rows))

    def body(self) -> dict[str, Any]:
        done = [row for seq in self.done for row in self.range(seq)]
        bad = sum(row in self.bad for row in done)
        return {
            "id": self.id,
            "object": "job",
            "model": self.spec["model"],
            "version": "1",
            "digest": "sha256:abc",
            "tenant": "",
            "state": self.state,
            "reason": "",
            "created_at": 1000.0,
            "ended_at": 1060.0 if self.state in {"completed", "cancelled", "failed"} else None,
            "rows": self.rows,
            "shards": self.shards,
            "done": {"shards": len(self.done), "rows": len(done) - bad, "bad_rows": bad, "leased_shards": 0},
            "rows_per_s": 40.0,
            "nodes": 2,
            "ends_at": 1060.0,
            "spec": self.spec,
        }  # fmt: skip


class JobServer:
    """Jobs of a model `digits`, whose row `n` has the label `n` and the probabilities `[n / 10, NaN]`."""

    def __init__(self) -> None:
        self.url = ""
        self.jobs: dict[str, KeptJob] = {}
        self.files: dict[str, bytearray] = {}
        self.names: dict[str, tuple[str, int, str]] = {}
        self.asked: list[str] = []
        """The requests that came, as `METHOD path?query`."""
        self.bodies: list[dict[str, Any]] = []
        """The jobs that were submitted, or asked about."""
        self.faults: list[Fault] = []
        self.on_ask: Callable[[str], None] = lambda _: None
        """Is told of each request, before it is answered."""
        self.has_ranges = True
        self.lost_rows: set[int] = set()
        """The rows whose results are left out though they are there."""

    def application(self) -> web.Application:
        application = web.Application(client_max_size=2**26, middlewares=[self._with_faults])
        add = application.router.add_route
        add("GET", "/v2/models/{model}", self.metadata)
        add("GET", "/v2/models/{model}/versions/{version}", self.metadata)
        add("POST", "/v1/jobs", self.submit)
        add("GET", "/v1/jobs", self.list)
        add("GET", "/v1/jobs/{job}", self.show)
        add("GET", "/v1/jobs/{job}/parts", self.parts)
        add("GET", "/v1/jobs/{job}/results", self.results)
        add("GET", "/v1/jobs/{job}/errors", self.errors)
        add("GET", "/v1/jobs/{job}/events", self.events)
        add("POST", "/v1/jobs/{job}/{verb}", self.move)
        add("POST", "/v1/files", self.begin)
        add("GET", "/v1/files", self.list_files)
        add("HEAD", "/v1/files/{file}", self.offset)
        application.router.add_get("/v1/files/{file}", self.file, allow_head=False)
        add("PATCH", "/v1/files/{file}", self.append)
        add("DELETE", "/v1/files/{file}", self.delete)
        add("GET", "/v1/files/{file}/content", self.content)
        return application

    @web.middleware
    async def _with_faults(self, request: web.Request, handler: Any) -> web.StreamResponse:
        line = f"{request.method} {request.path_qs}"
        self.asked.append(line)
        self.on_ask(line)
        fault = next(
            (each for each in self.faults if each.method == request.method and each.part in line),
            None,
        )
        if fault is None:
            return await handler(request)
        fault.times -= 1
        if not fault.times:
            self.faults.remove(fault)
        match fault.kind:
            case "cut":
                request.transport.abort()
                return web.Response()
            case "status":
                return web.json_response(
                    {"error": "not now"}, status=fault.status, headers=fault.headers
                )
            case "garbage":
                return web.Response(body=b"<html>hello</html>")
            case "lost":
                if fault.taken_bytes is None:
                    await handler(request)
                else:
                    piece = await request.read()
                    kept = self.files[request.match_info["file"]]
                    if int(request.headers["Upload-Offset"]) == len(kept):
                        kept += piece[: fault.taken_bytes]
                request.transport.abort()
                return web.Response()
            case _:
                whole = await handler(request)
                assert isinstance(whole, web.Response)
                body = bytes(whole.body or b"")
                half = web.StreamResponse(headers={"Content-Length": str(len(body))})
                await half.prepare(request)
                await half.write(body[: len(body) // 2])
                request.transport.abort()
                return half

    async def metadata(self, request: web.Request) -> web.Response:
        if request.match_info["model"] != "digits":
            return refusal(404, "model_not_found", "no node hosts it")
        return web.json_response(
            model_metadata_body(
                "digits",
                ["1"],
                [TensorSpec("X", Datatype.FP32, (-1, 64))],
                [
                    TensorSpec("label", Datatype.INT64, (-1,)),
                    TensorSpec("probabilities", Datatype.FP32, (-1, 2)),
                    TensorSpec("name", Datatype.BYTES, (-1, 1)),
                ],
            )
        )

    async def submit(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.bodies.append(body)
        if body.pop("dry_run", False):
            return web.json_response(
                {"object": "job.promise", "rows": 10, "left_s": 60.0, "ends_at": 1060.0, "spec": body}
            )  # fmt: skip
        for job in self.jobs.values():
            if job.spec.get("client_key") == body.get("client_key"):
                return web.json_response(job.body())
        if body["model"] == "refused":
            return refusal(400, "input_invalid", "it has no column 'X'")
        job = self.add(10, spec=body)
        return web.json_response(job.body(), status=201)

    def add(self, rows: int, *, spec: dict[str, Any] | None = None, **given: Any) -> KeptJob:
        name = f"job-{len(self.jobs) + 1}"
        job = KeptJob(name, spec or {"model": "digits", "input": {}}, rows, **given)
        self.jobs[name] = job
        return job

    def complete(self, job: KeptJob) -> None:
        job.done = set(range(job.shards))
        job.state = "completed"

    def _job(self, request: web.Request) -> KeptJob:
        job = self.jobs.get(request.match_info["job"])
        if job is None:
            raise web.HTTPNotFound(
                text='{"error": "there is no such job"}',
                headers={"X-Capamesh-Error": "job_not_found"},
            )
        return job

    async def list(self, request: web.Request) -> web.Response:
        state, after = request.query.get("state"), request.query.get("after")
        jobs = [job for job in reversed(self.jobs.values()) if state in {None, job.state}]
        names = [job.id for job in jobs]
        first = names.index(after) + 1 if after else 0
        page = jobs[first : first + 2]
        return web.json_response(
            {"data": [job.body() for job in page], "has_more": first + 2 < len(jobs)}
        )

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request).body())

    async def move(self, request: web.Request) -> web.Response:
        job, verb = self._job(request), request.match_info["verb"]
        if job.state in {"completed", "cancelled", "failed"}:
            return refusal(409, "job_conflict", f"job {job.id} is {job.state}")
        job.state = {"pause": "paused", "resume": "running", "cancel": "cancelled"}[verb]
        return web.json_response(job.body())

    async def parts(self, request: web.Request) -> web.Response:
        job, after = self._job(request), int(request.query.get("after", -1))
        found = sorted(seq for seq in job.done if seq > after)
        entries: list[dict[str, Any]] = []
        for seq in found[:2]:
            rows = job.range(seq)
            bad = sum(row in job.bad for row in rows)
            entries.append(
                {"seq": seq, "first_row": rows.start, "rows": len(rows) - bad, "bad_rows": bad, "name": f"part-{seq}"}
            )  # fmt: skip
        return web.json_response({"data": entries, "has_more": len(found) > 2})

    async def results(self, request: web.Request) -> web.Response:
        job = self._job(request)
        first = int(request.query["from_row"])
        end = min(first + int(request.query["rows"]), first + MOST_ROWS, job.rows)
        rows = [
            row
            for row in range(first, end)
            if row // SHARD_ROWS in job.done and row not in {*job.bad, *self.lost_rows}
        ]
        lines = [json.dumps(result(row)) + "\n" for row in rows]
        return web.Response(
            text="".join(lines),
            content_type="application/jsonl",
            headers={"Capamesh-Next-Row": str(end)},
        )

    async def errors(self, request: web.Request) -> web.Response:
        job, after = self._job(request), int(request.query.get("after", -1))
        rows = [row for row in sorted(job.bad) if row > after]
        data = [
            {"row": row, "id": f"r{row}", "code": "input_invalid", "message": job.bad[row], "node": "n"}
            for row in rows[:2]
        ]  # fmt: skip
        return web.json_response({"data": data, "has_more": len(rows) > 2})

    async def events(self, request: web.Request) -> web.Response:
        job, after = self._job(request), int(request.query.get("after", 0))
        messages = [": hello\n"]
        for seq, (kind, words) in list(enumerate(job.events, 1))[after : after + 2]:
            data = json.dumps({"seq": seq, "at": 1000.0 + seq, "kind": kind, "text": words})
            messages.append(f"id: {seq}\nevent: {kind}\ndata: {data}\n")
        messages.append(f"event: progress\ndata: {json.dumps(job.body())}\n")
        return web.Response(text="\n".join(messages), content_type="text/event-stream")

    async def begin(self, request: web.Request) -> web.Response:
        name = f"file-{len(self.names) + 1}"
        self.files[name] = bytearray()
        headers = request.headers
        self.names[name] = (
            headers["Upload-Name"],
            int(headers["Upload-Length"]),
            headers["Upload-Purpose"],
        )
        return web.json_response({"id": name, "offset": 0}, status=201)

    async def append(self, request: web.Request) -> web.Response:
        kept = self.files[request.match_info["file"]]
        if int(request.headers["Upload-Offset"]) != len(kept):
            return refusal(409, "file_conflict", f"the upload has {len(kept)} bytes")
        kept += await request.read()
        return web.Response(status=204, headers={"Upload-Offset": str(len(kept))})

    async def offset(self, request: web.Request) -> web.Response:
        kept = self.files[request.match_info["file"]]
        return web.Response(headers={"Upload-Offset": str(len(kept))})

    def _file(self, name: str) -> dict[str, Any]:
        filename, _, purpose = self.names[name]
        size = len(self.files[name])
        return {
            "id": name,
            "filename": filename,
            "bytes": size,
            "purpose": purpose,
            "created_at": 1,
        }

    async def file(self, request: web.Request) -> web.Response:
        return web.json_response(self._file(request.match_info["file"]))

    async def list_files(self, request: web.Request) -> web.Response:
        purpose = request.query.get("purpose")
        found = [self._file(name) for name in self.files]
        return web.json_response(
            {"data": [each for each in found if purpose in {None, each["purpose"]}]}
        )

    async def delete(self, request: web.Request) -> web.Response:
        del self.files[request.match_info["file"]]
        return web.json_response({"deleted": True})

    async def content(self, request: web.Request) -> web.Response:
        kept = bytes(self.files[request.match_info["file"]])
        asked = request.http_range
        if not self.has_ranges:
            return web.Response(body=kept)
        return web.Response(body=kept[asked], status=206)


def result(row: int) -> dict[str, Any]:
    """Return the line of a row's results."""
    outputs = {"label": row, "probabilities": [row / 10, "NaN"], "name": [{"base64": "/w=="}]}
    return {"row": row, "id": f"r{row}", "outputs": outputs}


def refusal(status: int, code: str, words: str) -> web.Response:
    """Return an error as routers word it."""
    return web.json_response(
        {"error": words, "code": code}, status=status, headers={"X-Capamesh-Error": code}
    )


@contextlib.contextmanager
def running_job_server() -> Iterator[JobServer]:
    """Run a server in a thread of its own."""
    server = JobServer()
    with served(server.application()) as server.url:
        yield server
