"""Both clients and their jobs at a router that is made up, and that breaks off, refuses and answers garbage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from job_server import Fault, JobServer, result, running_job_server

from capamesh.client import (
    DeadlineExceeded,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    ModelNotFound,
    Overloaded,
    PeerError,
    ProtocolViolation,
    Unreachable,
    async_client,
    sync_client,
)
from capamesh.client.jobs import async_jobs, sync_jobs, uploads

if TYPE_CHECKING:
    from job_server import KeptJob


Connect = Callable[..., Any]


@pytest.fixture
def router() -> Iterator[JobServer]:
    with running_job_server() as served:
        yield served


@pytest.fixture
def client(router: JobServer, connect: Connect) -> Any:
    return connect(router.url)


class Waits(list[float]):
    """The seconds that clients waited for, which pass at once."""

    on_wait: Callable[[], None] = staticmethod(lambda: None)

    def wait(self, seconds: float) -> None:
        self.append(seconds)
        assert len(self) < 200
        self.on_wait()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    found = Waits()

    async def wait(seconds: float) -> None:
        found.wait(seconds)

    async def pass_by(_: float) -> None:
        pass

    monkeypatch.setattr(sync_jobs, "sleep", found.wait)
    monkeypatch.setattr(async_jobs, "sleep", wait)
    monkeypatch.setattr(sync_client, "sleep", lambda _: None)
    monkeypatch.setattr(async_client, "sleep", pass_by)
    return found


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "FIRST_PIECE_BYTES", 10)
    monkeypatch.setattr(uploads, "LEAST_PIECE_BYTES", 10)
    monkeypatch.setattr(uploads, "MOST_PIECE_BYTES", 10)


def done_job(router: JobServer, rows: int = 10, **given: Any) -> KeptJob:
    job = router.add(rows, **given)
    router.complete(job)
    return job


def checked(rows: Any, numbers: list[int]) -> None:
    """Check that rows are the results of these numbers, of the model's dtypes."""
    found = list(rows)
    assert [row.row for row in found] == numbers
    for row in found:
        assert row.id == f"r{row.row}"
        assert row.outputs["label"].dtype == np.int64
        assert row.outputs["label"].tolist() == row.row
        probabilities = row.outputs["probabilities"]
        assert (probabilities.dtype, probabilities.shape) == (np.float32, (2,))
        np.testing.assert_array_equal(probabilities, np.array([row.row / 10, np.nan], np.float32))
        assert row.outputs["name"].tolist() == [b"\xff"]


def test_file_is_uploaded_and_submitted_as_what_its_name_says(
    router: JobServer, client: Any, tmp_path: Path
) -> None:
    file = tmp_path / "data set.csv"
    file.write_bytes(b"X,name\n" + b"1,a\n" * 100)
    seen: list[tuple[int, int]] = []
    job = client.jobs.submit(
        file,
        model="digits",
        columns={"X": ["a", "b"], "Y": "c"},
        id_column="name",
        priority=200,
        deadline=datetime(2026, 12, 1, tzinfo=UTC),
        max_price=0.0,
        regions=["eu"],
        most_bad_rows=0,
        progress=lambda sent, total: seen.append((sent, total)),
    )
    assert (job.id, job.state, job.info.rows) == ("job-1", "running", 10)
    assert bytes(router.files["file-1"]) == file.read_bytes()
    assert router.names["file-1"] == ("data set.csv", 407, "user_data")
    (body,) = router.bodies
    assert len(body.pop("client_key")) == 36
    assert body == {
        "model": "digits",
        "input": {
            "url": "upload:file-1",
            "format": "csv",
            "columns": {"X": ["a", "b"], "Y": ["c"]},
            "id_column": "name",
        },
        "priority": 200,
        "deadline_s": 1796083200.0,
        "max_price": 0.0,
        "regions": ["eu"],
        "failure": {"most_bad_rows": 0},
    }
    assert (seen[0], seen[-1]) == ((0, 407), (407, 407))


def test_url_is_handed_on(router: JobServer, client: Any) -> None:
    urls = ("s3://bucket/rows.parquet", "file:///data/rows.jsonl", "upload:file-9")
    for url in urls:
        client.jobs.submit(url, model="digits", output="s3://bucket/out/", output_format="npz")
    assert [body["input"] for body in router.bodies] == [{"url": url} for url in urls]
    assert router.bodies[0]["output"] == {"url": "s3://bucket/out/", "format": "npz"}
    assert router.files == {}


@pytest.mark.parametrize("taken_bytes", [0, 4, None])
@pytest.mark.usefixtures("small_pieces")
def test_upload_that_is_cut_off_goes_on_where_the_router_has_it(
    router: JobServer, client: Any, waits: Waits, tmp_path: Path, taken_bytes: int | None
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(bytes(range(95)))
    router.faults = [Fault("PATCH", "/v1/files", "lost", taken_bytes=taken_bytes, times=3)]
    client.jobs.submit(file, model="digits")
    assert bytes(router.files["file-1"]) == file.read_bytes()
    assert (router.faults, len(router.jobs)) == ([], 1)
    assert any(line.startswith("HEAD") for line in router.asked)


@pytest.mark.usefixtures("small_pieces")
def test_upload_waits_as_long_as_the_router_says(
    router: JobServer, client: Any, waits: Waits, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"x" * 30)
    router.faults = [
        Fault("PATCH", "/v1/files", "status", 503, {"Retry-After": "7"}),
        Fault("PATCH", "/v1/files", "status", 429, {"Retry-After": "9"}),
    ]
    client.jobs.submit(file, model="digits")
    assert [7 <= waits[0] <= 8.75, 9 <= waits[1] <= 11.25] == [True, True]


@pytest.mark.usefixtures("small_pieces")
def test_upload_is_given_up_when_the_router_stays_away(
    router: JobServer, client: Any, waits: Waits, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"x" * 30)
    router.faults = [Fault("PATCH", "/v1/files", "status", 503, {"Retry-After": "120"}, times=99)]
    clock = iter(range(0, 10_000, 60))
    files = client.files
    taker = files._taker
    taker.around = type(taker.around)(lambda: next(clock), taker.around.wall_s, taker.around.draw)
    with pytest.raises(Overloaded):
        files.create(file)
    assert len(waits) == 2


def test_file_that_changes_meanwhile_is_no_job(
    router: JobServer, client: Any, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"x" * 3000)
    router.on_ask = lambda line: file.write_bytes(b"y") if line.startswith("PATCH") else None
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl was changed while it was uploaded"):
        client.jobs.submit(file, model="digits")
    assert (router.files, router.jobs) == ({}, {})


def test_model_that_nobody_has_is_told_before_anything_is_uploaded(
    router: JobServer, client: Any
) -> None:
    with pytest.raises(ModelNotFound):
        client.jobs.submit([{"X": 1}], model="absent")
    assert router.files == {}


def test_upload_of_a_job_that_is_refused_is_removed(router: JobServer, client: Any) -> None:
    router.faults = [Fault("POST", "/v1/jobs", "status", 400)]
    with pytest.raises(InvalidRequest):
        client.jobs.submit([{"X": 1}], model="digits")
    assert router.files == {}
    promise = client.jobs.promise([{"X": 1}], model="digits")
    assert (promise.rows, promise.left_s, promise.ends_at) == (10, 60.0, 1060.0)
    assert (router.files, router.jobs) == ({}, {})


def test_submission_whose_answer_is_lost_is_one_job(
    router: JobServer, client: Any, waits: Waits
) -> None:
    router.faults = [Fault("POST", "/v1/jobs", "lost")]
    assert client.jobs.submit([{"X": 1}], model="digits").id == "job-1"
    assert len(router.bodies) == 2
    router.faults = [Fault("POST", "/v1/jobs", "half")]
    client.jobs.submit("s3://b/x.csv", model="digits", client_key="nightly")
    assert len(router.jobs) == 2
    assert client.jobs.submit("s3://b/x.csv", model="digits", client_key="nightly").id == "job-2"


def test_job_is_submitted_once_under_its_client_key(router: JobServer, client: Any) -> None:
    for _ in range(3):
        client.jobs.submit([{"X": 1}], model="digits", client_key="another")
        assert client.jobs.submit([{"X": 1}], model="digits", client_key="nightly").id == "job-2"
    client.jobs.submit([{"X": 1}], model="digits")
    assert client.jobs.submit([{"X": 1}], model="digits", client_key="another").id == "job-1"
    assert (len(router.jobs), len(router.files)) == (3, 3)


def test_router_that_is_not_there_is_told_at_once(connect: Connect, waits: Waits) -> None:
    with pytest.raises(Unreachable, match="cannot reach a router"):
        connect("http://127.0.0.1:9", retries=0).jobs.submit("s3://b/x.csv", model="digits")
    with pytest.raises(Unreachable):
        list(connect("http://127.0.0.1:9", retries=0).jobs.list())
    assert waits == []


def test_other_router_is_asked_where_one_is_away(router: JobServer, connect: Connect) -> None:
    client = connect(["http://127.0.0.1:9", router.url])
    job = client.jobs.submit([{"X": 1}], model="digits")
    router.complete(router.jobs[job.id])
    checked(job.results(), list(range(10)))


@pytest.mark.parametrize(
    ("in_order", "bad", "numbers"),
    [
        (True, {5: "no number"}, [0, 1, 2, 3, 4, 6, 7, 8, 9]),
        (False, {}, [8, 9, 0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_results_come_while_the_job_runs_in_order_or_as_they_are_ready(
    router: JobServer,
    client: Any,
    waits: Waits,
    in_order: bool,
    bad: dict[int, str],
    numbers: list[int],
) -> None:
    kept = router.add(10, bad=bad)
    order = iter([2, 0, 1])

    def commit() -> None:
        kept.done.add(next(order))
        kept.state = "completed" if len(kept.done) == 3 else "running"

    waits.on_wait = commit
    job = client.jobs.get(kept.id)
    checked(job.results(in_order=in_order), numbers)
    assert len(waits) == 3


def test_results_begin_with_a_row_and_end_with_what_there_is(
    router: JobServer, client: Any
) -> None:
    kept = router.add(10, done={0, 2})
    job = client.jobs.get(kept.id)
    checked(job.results(from_row=2, follow=False), [2, 3, 8, 9])
    kept.state = "cancelled"
    checked(job.results(), [0, 1, 2, 3, 8, 9])


@pytest.mark.parametrize("kind", ["cut", "half", "lost"])
@pytest.mark.parametrize("part", ["results", "parts", "/v1/jobs/job-1"])
def test_results_go_on_over_lost_connections(
    router: JobServer, client: Any, waits: Waits, kind: str, part: str
) -> None:
    kept = done_job(router, rows=30)
    job = client.jobs.get(kept.id)
    router.faults = [Fault("GET", part, kind, times=5)]
    checked(job.results(), list(range(30)))
    assert router.faults == []


def test_garbage_and_errors_are_told(router: JobServer, client: Any) -> None:
    kept = done_job(router)
    job = client.jobs.get(kept.id)
    for part in ("results", "parts", "job-1"):
        router.faults = [Fault("GET", part, "garbage")]
        with pytest.raises(ProtocolViolation, match="is this a router's URL"):
            list(job.results())
    with pytest.raises(JobNotFound):
        client.jobs.get("job-9")
    with pytest.raises(InvalidRequest, match="id is empty"):
        client.jobs.get("")
    router.faults = [Fault("GET", "/v1/jobs", "status", 500)]
    with pytest.raises(PeerError, match="HTTP status 500"):
        client.jobs.get("job-1")


def test_results_that_are_missing_are_told(router: JobServer, client: Any) -> None:
    kept = done_job(router)
    job = client.jobs.get(kept.id)
    router.lost_rows = {6}
    with pytest.raises(
        ProtocolViolation, match="3 results came of shard 1 of job job-1, which has 4"
    ):
        list(job.results())


def test_wait_ends_with_the_job_over_a_router_that_restarts(
    router: JobServer, client: Any, waits: Waits
) -> None:
    kept = router.add(10)
    job = client.jobs.get(kept.id)
    router.faults = [Fault("GET", "/v1/jobs/", "cut", times=4)]
    waits.on_wait = lambda: router.complete(kept) if len(waits) == 8 else None
    assert job.wait().state == "completed"
    assert (job.state, len(waits)) == ("completed", 8)
    assert [info.state for info in job.follow()] == ["completed"]


def test_wait_ends_at_its_time_and_the_job_goes_on(
    router: JobServer, client: Any, waits: Waits
) -> None:
    job = client.jobs.get(router.add(10).id)
    with pytest.raises(DeadlineExceeded, match=r"job-1 is running after 1e-09 s, and goes on"):
        job.wait(timeout_s=1e-9)


def test_job_is_paused_resumed_and_cancelled(router: JobServer, client: Any) -> None:
    job = client.jobs.get(router.add(10).id)
    states = [change().state for change in (job.pause, job.resume, job.cancel, job.cancel)]
    assert states == ["paused", "running", "cancelled", "cancelled"]
    with pytest.raises(JobConflict):
        job.pause()
    router.faults = [Fault("POST", "resume", "lost")]
    other = client.jobs.get(router.add(10, state="paused").id)
    assert other.resume().state == "running"


def test_jobs_are_listed_page_by_page(router: JobServer, client: Any) -> None:
    for number in range(5):
        router.add(10, state="paused" if number % 2 else "running")
    assert [job.id for job in client.jobs.list()] == ["job-5", "job-4", "job-3", "job-2", "job-1"]
    assert [job.id for job in client.jobs.list(state="paused")] == ["job-4", "job-2"]


def test_bad_rows_and_events_are_read_to_their_end(
    router: JobServer, client: Any, waits: Waits
) -> None:
    kept = done_job(router, bad=dict.fromkeys((1, 3, 7, 9), "no number"))
    kept.events = [("submitted", "by lab"), ("running", "3 shards"), ("completed", "all of it")]
    job = client.jobs.get(kept.id)
    router.faults = [Fault("GET", "errors", "half"), Fault("GET", "events", "half")]
    bad = [(row.row, row.id, row.code) for row in job.errors()]
    assert bad == [(number, f"r{number}", "input_invalid") for number in (1, 3, 7, 9)]
    told = [(event.seq, event.kind) for event in job.events()]
    assert told == [(1, "submitted"), (2, "running"), (3, "completed")]
    assert [event.text for event in job.events(after=2)] == ["all of it"]


def test_events_are_followed_to_the_end_of_the_job(
    router: JobServer, client: Any, waits: Waits
) -> None:
    kept = router.add(10, events=[("running", "3 shards")])
    job = client.jobs.get(kept.id)
    router.faults = [Fault("GET", "events", "cut", times=2)]

    def goes_on() -> None:
        if len(waits) == 4:
            kept.events.append(("completed", "all of it"))
            router.complete(kept)

    waits.on_wait = goes_on
    assert [event.kind for event in job.events(follow=True)] == ["running", "completed"]


def test_files_are_kept_listed_read_and_removed(
    router: JobServer, client: Any, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capamesh.client.jobs import files as file_courses  # noqa: PLC0415 - patched below

    monkeypatch.setattr(file_courses, "PIECE_BYTES", 1000)
    made = client.files.create(b"0123456789" * 250, filename="a.jsonl", purpose="batch")
    told = (made.id, made.filename, made.bytes, made.purpose)
    assert told == ("file-1", "a.jsonl", 2500, "batch")
    assert client.files.get("file-1") == made
    assert list(client.files.list()) == [made]
    assert list(client.files.list(purpose="user_data")) == []
    router.faults = [Fault("GET", "content", "half")]
    assert [len(piece) for piece in client.files.content("file-1")] == [1000, 1000, 500]
    router.has_ranges = False
    with pytest.raises(ProtocolViolation, match="does a proxy remove the header Range"):
        list(client.files.content("file-1"))
    client.files.delete("file-1")
    assert router.files == {}


def test_table_of_results_has_a_row_for_each(router: JobServer, client: Any) -> None:
    pytest.importorskip("pyarrow")
    table = client.jobs.get(done_job(router).id).results_table()
    assert table.column_names == ["row", "id", "label", "probabilities", "name"]
    assert table["label"].to_pylist() == list(range(10))
    assert str(table["probabilities"].type) == "list<item: float>"


def test_results_of_a_model_that_is_gone_are_what_they_look_like(
    router: JobServer, client: Any
) -> None:
    kept = done_job(router, spec={"model": "absent", "input": {}})
    (row, *_) = client.jobs.get(kept.id).results()
    assert row.outputs["label"].tolist() == 0
    assert json.dumps(result(0)["outputs"]["label"]) == "0"
