"""`capamesh jobs`: what its commands print, their exit statuses, and files that a command that was broken off left."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from job_server import Fault, JobServer, running_job_server

from capamesh.cli import jobs_watch
from capamesh.cli.__main__ import run
from capamesh.client import Job, sync_client
from capamesh.client.jobs import sync_jobs

if TYPE_CHECKING:
    from job_server import KeptJob

Captured = pytest.CaptureFixture[str]
Jobs = Callable[..., Any]


class Waits:
    """The waits of the commands, which pass at once."""

    count = 0
    on_wait: Callable[[], None] = staticmethod(lambda: None)

    def wait(self, _: float) -> None:
        self.count += 1
        assert self.count < 100
        self.on_wait()


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServer]:
    monkeypatch.delenv("CAPAMESH_KEY", raising=False)
    monkeypatch.delenv("CAPAMESH_HEADERS", raising=False)
    with running_job_server() as served:
        monkeypatch.setenv("CAPAMESH_ROUTER", served.url)
        yield served


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    found = Waits()
    for module in (sync_jobs, sync_client, jobs_watch):
        monkeypatch.setattr(module, "sleep", found.wait)
    monkeypatch.setattr(jobs_watch, "now_s", lambda: 1030.0)
    return found


@pytest.fixture
def jobs(capsys: Captured) -> Jobs:
    """Return what runs `capamesh jobs`, and returns what it prints once it has ended with a status."""

    def call(*words: object, status: int = 0) -> Any:
        assert run(["jobs", *map(str, words)]) == status
        return capsys.readouterr()

    return call


def done_job(router: JobServer, **given: Any) -> KeptJob:
    job = router.add(10, **given)
    router.complete(job)
    return job


def test_job_is_submitted_with_its_id_alone_on_standard_output(
    router: JobServer, tmp_path: Path, jobs: Jobs
) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"age,height\n1,2\n")
    words = ["--model", "digits", "--column", "X=age,height", "--id-column", "name"]
    bounds = ["--priority", "200", "--deadline", "2026-12-01T10:00", "--max-price", "2"]
    more = ["--max-bad-rows", "0", "--max-failures", "3", "--concurrency", "4", "--region", "eu"]
    where = ["--output", "s3://b/out/", "--output-format", "parquet", "--client-key", "nightly"]
    said = jobs("submit", file, *words, *bounds, *more, *where)
    assert said.out == "job-1\n"
    assert said.err == (
        "it will end in 30 s, at 1970-01-01 00:17 UTC\n"
        "Next: capamesh jobs watch job-1   until it has ended\n"
        "Then: capamesh jobs results job-1 -o results.jsonl   also while it runs\n"
    )
    assert bytes(router.files["file-1"]) == file.read_bytes()
    assert router.bodies == [
        {
            "model": "digits",
            "input": {
                "url": "upload:file-1",
                "format": "csv",
                "columns": {"X": ["age", "height"]},
                "id_column": "name",
            },
            "output": {"url": "s3://b/out/", "format": "parquet"},
            "priority": 200,
            "deadline_s": 1796119200.0,
            "max_price": 2.0,
            "regions": ["eu"],
            "concurrency": 4,
            "failure": {"most_bad_rows": 0, "most_failures": 3},
            "client_key": "nightly",
        }
    ]


def test_job_is_submitted_and_watched_to_its_end(
    router: JobServer, waits: Waits, jobs: Jobs
) -> None:
    def goes_on() -> None:
        (job,) = router.jobs.values()
        job.done.add(len(job.done))
        if len(job.done) == 3:
            job.bad = {4: "no number"}
            job.state = "completed"

    waits.on_wait = goes_on
    said = jobs("submit", "s3://b/rows.csv", "--model", "digits", "--watch")
    assert said.out == "job-1\njob job-1 is completed after 60 s, 9 rows, 1 bad\n"
    assert said.err.splitlines() == [
        "running, 0 of 10 rows, 40 rows/s, 2 nodes, 30 s left, price -",
        "running, 4 of 10 rows, 40 rows/s, 2 nodes, 30 s left, price -",
        "running, 8 of 10 rows, 40 rows/s, 2 nodes, 30 s left, price -",
        "completed, 10 of 10 rows, 1 bad",
        "Next: capamesh jobs results job-1 -o results.jsonl",
        "Then: capamesh jobs logs job-1 --bad-rows   why rows have no result",
    ]


def test_dry_run_submits_nothing(router: JobServer, tmp_path: Path, jobs: Jobs) -> None:
    file = tmp_path / "rows.npy"
    np.save(file, np.zeros((3, 64)))
    said = jobs("submit", file, "--model", "digits", "--dry-run")
    assert (
        said.out
        == "some 10 rows; it would end in 60 s, at 1970-01-01 00:17 UTC (none were run: by other jobs of late, or by what nodes say)\n"
    )
    assert (router.jobs, router.files) == ({}, {})
    said = jobs("submit", file, "-m", "digits", "--dry-run", "--json")
    assert json.loads(said.out)["left_s"] == 60.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["submit", "x.csv"], "--model"),
        (["submit", "x.csv", "-m", "digits", "--column", "X"], "is no INPUT=COLUMN"),
        (["submit", "x.csv", "-m", "digits", "--column", "X="], "is no INPUT=COLUMN"),
        (["submit", "x.csv", "-m", "digits", "-c", "X=a", "-c", "X=b"], "given twice"),
        (["submit", "x.csv", "-m", "digits", "--deadline", "soon"], "is no deadline"),
        (["submit", "x.csv", "-m", "digits", "--format", "xls"], "--format"),
        (["ls", "--state", "done"], "--state"),
        (["logs", "job-1", "--follow", "--bad-rows"], "one of --follow and --bad-rows"),
    ],
)
def test_wrong_use_is_told(router: JobServer, jobs: Jobs, words: list[str], said: str) -> None:
    assert said in jobs(*words, status=2).err
    assert router.asked == []


def test_failures_are_one_line(router: JobServer, tmp_path: Path, jobs: Jobs) -> None:
    said = jobs("submit", tmp_path / "absent.csv", "-m", "digits", status=1)
    assert "absent.csv: No such file or directory" in said.err
    assert jobs("show", "job-7", status=1).err == "capamesh: error: there is no such job\n"
    assert "there is no job yet; submit one" in jobs("show", "last", status=1).err


def test_jobs_are_listed_in_a_table(router: JobServer, jobs: Jobs) -> None:
    router.add(10, done={0})
    done_job(router, bad={1: "no number"})
    lines = [" ".join(line.split()) for line in jobs("ls").out.splitlines()]
    assert lines == [
        "JOB MODEL STATE DONE BAD ROWS/S SUBMITTED ENDS",
        "job-2 digits completed 100% of 10 1 - 1970-01-01 00:16 UTC 1970-01-01 00:17 UTC",
        "job-1 digits running 40% of 10 0 40 1970-01-01 00:16 UTC 1970-01-01 00:17 UTC",
    ]
    said = jobs("ls", "--state", "running", "--json")
    assert [row["id"] for row in json.loads(said.out)] == ["job-1"]
    assert "more than 1: give --limit" in jobs("ls", "--limit", "1").err
    router.jobs.clear()
    assert "Next: capamesh jobs submit" in jobs("ls").err


def test_all_that_is_known_of_a_job_is_shown(router: JobServer, jobs: Jobs) -> None:
    spec = {
        "model": "digits",
        "input": {"url": "upload:file-1", "format": "csv", "columns": {"X": ["a", "b"]}},
        "output": {"url": "", "format": "jsonl"},
        "deadline_s": 2000.0,
    }
    done_job(router, spec=spec, bad={1: "no number"})
    lines = [" ".join(line.split()) for line in jobs("show", "job-1").out.splitlines()]
    for words in (
        "state completed",
        "rows 9 of 10 (100%)",
        "shards 3 of 3, 0 at work",
        "input upload:file-1 (csv)",
        "columns X = a, b",
        "results at the router (jsonl)",
        "deadline 1970-01-01 00:33 UTC",
        "1 r1 input_invalid no number",
    ):
        assert words in lines
    shown = json.loads(jobs("show", "last", "--json").out)
    assert (shown["done"]["bad_rows"], shown["bad"][0]["row"]) == (1, 1)


def test_watch_tells_by_its_exit_status_how_the_job_ended(router: JobServer, jobs: Jobs) -> None:
    router.add(10, state="failed", done={0})
    said = jobs("watch", "job-1", status=1)
    assert said.out == "job job-1 is failed after 60 s, 4 rows\n"
    assert "capamesh jobs logs job-1" in said.err
    done_job(router)
    (line,) = jobs("watch", "job-2", "--json").out.splitlines()
    assert json.loads(line)["state"] == "completed"


def test_ctrl_c_leaves_the_job_running(
    router: JobServer, waits: Waits, monkeypatch: pytest.MonkeyPatch, jobs: Jobs
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    router.add(10)
    waits.on_wait = interrupt
    said = jobs("watch", "job-1", status=130).err
    assert "job job-1 goes on without you: capamesh jobs watch job-1" in said
    assert "or end it: capamesh jobs cancel job-1" in said
    assert router.jobs["job-1"].state == "running"


def test_watch_outlives_a_router_that_restarts(router: JobServer, waits: Waits, jobs: Jobs) -> None:
    job = router.add(10)
    waits.on_wait = lambda: router.complete(job) if waits.count == 6 else None
    router.on_ask = lambda line: (
        router.faults.append(Fault("GET", "/v1/jobs/", "cut", times=3))
        if len(router.asked) == 2
        else None
    )
    jobs("watch", "job-1")


def test_events_and_bad_rows_are_lines(router: JobServer, jobs: Jobs) -> None:
    done_job(router, events=[("submitted", "by lab"), ("completed", "all")], bad={3: "no number"})
    assert jobs("logs", "job-1", "--follow").out.splitlines() == [
        "1970-01-01 00:16:41  submitted   by lab",
        "1970-01-01 00:16:42  completed   all",
    ]
    assert jobs("logs", "job-1", "--bad-rows").out == "row 3 (r3)  input_invalid  no number\n"
    assert json.loads(jobs("logs", "job-1", "--json").out.splitlines()[0])["kind"] == "submitted"


def test_job_is_paused_resumed_and_cancelled(router: JobServer, jobs: Jobs) -> None:
    router.add(10)
    for verb, state, following in (
        ("pause", "paused", "capamesh jobs resume job-1"),
        ("resume", "running", "capamesh jobs watch job-1"),
        ("cancel", "cancelled", "capamesh jobs logs job-1"),
    ):
        said = jobs(verb, "job-1")
        assert said.out == f"job job-1 is {state}\n"
        assert following in said.err
    assert "is cancelled" in jobs("resume", "job-1", status=1).err
    assert json.loads(jobs("cancel", "job-1", "--json").out)["state"] == "cancelled"


def test_results_go_to_standard_output_as_lines(router: JobServer, jobs: Jobs) -> None:
    router.add(10, done={0, 2}, bad={1: "no number"})
    rows = [json.loads(line) for line in jobs("results", "job-1", "--no-wait").out.splitlines()]
    assert [row["row"] for row in rows] == [0, 2, 3, 8, 9]
    assert rows[1] == {
        "row": 2,
        "id": "r2",
        "outputs": {
            "label": 2,
            "probabilities": [pytest.approx(0.2), "NaN"],
            "name": [{"base64": "/w=="}],
        },
    }
    lines = jobs("results", "job-1", "--no-wait", "--format", "csv").out.splitlines()
    assert lines[0] == "row,id,label,probabilities,name"
    assert lines[1].startswith("0,r0,0,")
    said = jobs("results", "job-1", "--no-wait", "--format", "npz", status=1)
    assert "npz is no text: give a file" in said.err


def read_back(file: Path) -> list[int]:
    """Return the labels of a file of results, of any form."""
    match file.suffix:
        case ".jsonl":
            return [json.loads(line)["outputs"]["label"] for line in file.read_text().splitlines()]
        case ".csv":
            return [int(row["label"]) for row in csv.DictReader(file.read_text().splitlines())]
        case ".npz":
            with np.load(file, allow_pickle=False) as archive:
                assert archive["row"].tolist() == archive["label"].tolist()
                assert archive["id"][3] == b"r3"
                assert archive["probabilities"].dtype == np.float32
                assert archive["name"].tolist() == [[b"\xff"]] * 10
                return [int(each) for each in archive["label"]]
        case _:
            parquet = pytest.importorskip("pyarrow.parquet")
            return [int(each) for each in parquet.read_table(file)["label"].to_pylist()]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "npz", "parquet"])
def test_results_are_a_file_of_the_form_that_its_name_says(
    router: JobServer, tmp_path: Path, jobs: Jobs, suffix: str
) -> None:
    file = tmp_path / f"results.{suffix}"
    done_job(router)
    router.faults = [Fault("GET", "results", "half", times=2)]
    assert jobs("results", "job-1", "-o", file).err == f"10 rows are in {file}\n"
    assert read_back(file) == list(range(10))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_results_go_on_with_the_lines_that_are_there(
    router: JobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: Jobs
) -> None:
    file = tmp_path / "results.jsonl"
    done_job(router)
    whole = Job.results

    def broken(self: Job, **given: Any) -> Iterator[Any]:
        for row in whole(self, **given):
            if row.row == 6:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(Job, "results", broken)
    jobs("results", "job-1", "-o", file, status=130)
    assert not file.exists()
    part = tmp_path / "results.jsonl.part"
    with part.open("a") as lines:
        lines.write('{"row": 6, "id": "r6", "outp')
    monkeypatch.setattr(Job, "results", whole)
    router.asked.clear()
    said = jobs("results", "job-1", "-o", file, "--json")
    assert "going on with row 6" in said.err
    assert json.loads(said.out) == {
        "job": "job-1",
        "rows": 4,
        "file": str(file),
        "state": "completed",
    }
    assert read_back(file) == list(range(10))
    assert not any("from_row=0" in line for line in router.asked)


@pytest.mark.parametrize("left", [b"", b"garbage\n", b"[1]\n", b'{"row": "x"}\n', b'{"row": 1'])
def test_results_begin_anew_where_what_is_there_is_none(
    router: JobServer, tmp_path: Path, jobs: Jobs, left: bytes
) -> None:
    (tmp_path / "results.jsonl.part").write_bytes(left)
    done_job(router)
    file = tmp_path / "results.jsonl"
    jobs("results", "job-1", "-o", file)
    assert read_back(file) == list(range(10))


def test_file_that_cannot_be_written_is_told(router: JobServer, tmp_path: Path, jobs: Jobs) -> None:
    done_job(router)
    said = jobs("results", "job-1", "-o", str(tmp_path / "absent" / "x.jsonl"), status=1)
    assert "No such file or directory" in said.err
    said = jobs("results", "job-1", "-o", str(tmp_path / "x.txt"), status=1)
    assert "tells no form; give --format" in said.err
    if Path("/dev/full").exists():
        (tmp_path / "full.jsonl.part").symlink_to("/dev/full")
        said = jobs("results", "job-1", "-o", str(tmp_path / "full.jsonl"), status=1)
        assert "No space left on device; make room" in said.err
