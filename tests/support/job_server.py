"""A router's routes of jobs and files in one thread, made up: it keeps what it is told, and fails where a test says so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from threaded_server import application_of, refusal, served

from capamesh.protocol.oip import model_metadata_body
from capamesh.protocol.tensors import Datatype, TensorSpec

ENDED = frozenset({"completed", "cancelled", "failed"})
INPUTS = [TensorSpec("X", Datatype.FP32, (-1, 64))]
OUTPUTS = [
    TensorSpec("label", Datatype.INT64, (-1,)),
    TensorSpec("probabilities", Datatype.FP32, (-1, 2)),
    TensorSpec("name", Datatype.BYTES, (-1, 1)),
]
SHARD_ROWS = 4
MOST_ROWS = 3
"""The most rows of one answer, so that a shard takes several."""


@dataclass
class Fault:
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
            "ended_at": 1060.0 if self.state in ENDED else None,
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
        return application_of(
            ("GET /v2/models/{model}", self.metadata),
            ("GET /v2/models/{model}/versions/{version}", self.metadata),
            ("POST /v1/jobs", self.submit),
            ("GET /v1/jobs", self.list),
            ("GET /v1/jobs/{job}", self.show),
            ("GET /v1/jobs/{job}/parts", self.parts),
            ("GET /v1/jobs/{job}/results", self.results),
            ("GET /v1/jobs/{job}/errors", self.errors),
            ("GET /v1/jobs/{job}/events", self.events),
            ("POST /v1/jobs/{job}/{verb}", self.move),
            ("POST /v1/files", self.begin),
            ("GET /v1/files", self.list_files),
            ("HEAD /v1/files/{file}", self.offset),
            ("GET /v1/files/{file}", self.file),
            ("PATCH /v1/files/{file}", self.append),
            ("DELETE /v1/files/{file}", self.delete),
            ("GET /v1/files/{file}/content", self.content),
            middlewares=[self._with_faults],
        )

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
            case "status":
                return web.json_response(
                    {"error": "not now"}, status=fault.status, headers=fault.headers
                )
            case "garbage":
                return web.Response(body=b"<html>hello</html>")
            case "cut":
                pass
            case "lost" if fault.taken_bytes is None:
                await handler(request)
            case "lost":
                piece = await request.read()
                kept = self.files[request.match_info["file"]]
                if int(request.headers["Upload-Offset"]) == len(kept):
                    kept += piece[: fault.taken_bytes]
            case _:
                whole = await handler(request)
                assert isinstance(whole, web.Response)
                body = bytes(whole.body or b"")
                half = web.StreamResponse(headers={"Content-Length": str(len(body))})
                await half.prepare(request)
                await half.write(body[: len(body) // 2])
        request.transport.abort()
        return web.Response()

    async def metadata(self, request: web.Request) -> Any:
        if request.match_info["model"] != "digits":
            return refusal(404, "model_not_found", "no node hosts it")
        return model_metadata_body("digits", ["1"], INPUTS, OUTPUTS)

    async def submit(self, request: web.Request) -> Any:
        body = json.loads(await request.read())
        self.bodies.append(body)
        if body.pop("dry_run", False):
            promise = {"object": "job.promise", "rows": 10, "left_s": 60.0, "ends_at": 1060.0}
            return {**promise, "spec": body}
        for job in self.jobs.values():
            if job.spec.get("client_key") == body.get("client_key"):
                return job.body()
        if body["model"] == "refused":
            return refusal(400, "input_invalid", "it has no column 'X'")
        return 201, self.add(10, spec=body).body(), {}

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

    async def list(self, request: web.Request) -> Any:
        state, after = request.query.get("state"), request.query.get("after")
        jobs = [job for job in reversed(self.jobs.values()) if state in {None, job.state}]
        first = [job.id for job in jobs].index(after) + 1 if after else 0
        return page([job.body() for job in jobs[first:]])

    async def show(self, request: web.Request) -> Any:
        return self._job(request).body()

    async def move(self, request: web.Request) -> Any:
        job, verb = self._job(request), request.match_info["verb"]
        if job.state in ENDED:
            return refusal(409, "job_conflict", f"job {job.id} is {job.state}")
        job.state = {"pause": "paused", "resume": "running", "cancel": "cancelled"}[verb]
        return job.body()

    async def parts(self, request: web.Request) -> Any:
        job, after = self._job(request), int(request.query.get("after", -1))
        entries: list[dict[str, Any]] = []
        for seq in sorted(seq for seq in job.done if seq > after):
            rows = job.range(seq)
            bad = sum(row in job.bad for row in rows)
            counts = {"first_row": rows.start, "rows": len(rows) - bad, "bad_rows": bad}
            entries.append({"seq": seq, "name": f"part-{seq}", **counts})
        return page(entries)

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

    async def errors(self, request: web.Request) -> Any:
        job, after = self._job(request), int(request.query.get("after", -1))
        about = {"code": "input_invalid", "node": "n"}
        return page(
            [
                {"row": row, "id": f"r{row}", "message": job.bad[row], **about}
                for row in sorted(job.bad)
                if row > after
            ]
        )

    async def events(self, request: web.Request) -> web.Response:
        job, after = self._job(request), int(request.query.get("after", 0))
        messages = [": hello\n"]
        for seq, (kind, words) in list(enumerate(job.events, 1))[after : after + 2]:
            data = json.dumps({"seq": seq, "at": 1000.0 + seq, "kind": kind, "text": words})
            messages.append(f"id: {seq}\nevent: {kind}\ndata: {data}\n")
        messages.append(f"event: progress\ndata: {json.dumps(job.body())}\n")
        return web.Response(text="\n".join(messages), content_type="text/event-stream")

    async def begin(self, request: web.Request) -> Any:
        name = f"file-{len(self.names) + 1}"
        self.files[name] = bytearray()
        told = request.headers
        self.names[name] = told["Upload-Name"], int(told["Upload-Length"]), told["Upload-Purpose"]
        return 201, {"id": name, "offset": 0}, {}

    async def append(self, request: web.Request) -> Any:
        kept = self.files[request.match_info["file"]]
        if int(request.headers["Upload-Offset"]) != len(kept):
            return refusal(409, "file_conflict", f"the upload has {len(kept)} bytes")
        kept += await request.read()
        return web.Response(status=204, headers={"Upload-Offset": str(len(kept))})

    async def offset(self, request: web.Request) -> Any:
        kept = self.files[request.match_info["file"]]
        return web.Response(headers={"Upload-Offset": str(len(kept))})

    def _file(self, name: str) -> dict[str, Any]:
        filename, _, purpose = self.names[name]
        about = {"filename": filename, "bytes": len(self.files[name]), "purpose": purpose}
        return {"id": name, "created_at": 1, **about}

    async def file(self, request: web.Request) -> Any:
        return self._file(request.match_info["file"])

    async def list_files(self, request: web.Request) -> Any:
        purpose = request.query.get("purpose")
        found = [self._file(name) for name in self.files]
        return {"data": [each for each in found if purpose in {None, each["purpose"]}]}

    async def delete(self, request: web.Request) -> Any:
        del self.files[request.match_info["file"]]
        return {"deleted": True}

    async def content(self, request: web.Request) -> web.Response:
        kept = bytes(self.files[request.match_info["file"]])
        asked = request.http_range
        if not self.has_ranges:
            return web.Response(body=kept)
        return web.Response(body=kept[asked], status=206)


def result(row: int) -> dict[str, Any]:
    outputs = {"label": row, "probabilities": [row / 10, "NaN"], "name": [{"base64": "/w=="}]}
    return {"row": row, "id": f"r{row}", "outputs": outputs}


def page(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"data": entries[:2], "has_more": len(entries) > 2}


@contextlib.contextmanager
def running_job_server() -> Iterator[JobServer]:
    server = JobServer()
    with served(server.application()) as server.url:
        yield server
