"""Processes that read inputs of jobs, each a real one: they give what a reader in this process gives, and end alone."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import hostile_inputs
import numpy as np
import pytest
from fleet_fakes import NullLog
from job_desk import PINNED
from job_files import ANYWHERE, write_csv, write_jsonl, write_npz
from raw_http import GUARD_S
from typing_extensions import override

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.sandbox import landlock, seccomp
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.errors import InputChanged, InputInvalid, ReaderEnded
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.rows import RowWindow
from capamesh.router.jobs.inputs.source import Files, Folder, Source, Sources, Stamp
from capamesh.router.jobs.readers import process
from capamesh.router.jobs.readers.input_reading import InputReading, ReadHere
from capamesh.router.jobs.readers.pool import PAUSE_S, Readers
from capamesh.router.jobs.readers.process import ReaderProcess
from capamesh.router.jobs.readers.separate import ReadSeparately
from capamesh.router.jobs.spec import Encoding, InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.values import Job, JobId, RowRange

MIB = 2**20
MEMORY_BYTES = 256 * MIB
ROWS = 9000
INPUTS = {
    "x": TensorSpec("x", Datatype.FP32, (-1, 2)),
    "t": TensorSpec("t", Datatype.BYTES, (-1,)),
}
COLUMNS = {"x": ("a", "b"), "t": ("t",)}


class FarSource(Source):
    """A local file as one that is far away: it has no descriptor."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.name)
        self._source = source

    @override
    def open(self) -> tuple[BinaryIO, Stamp]:
        file, stamp = self._source.open()
        with file:
            return cast("BinaryIO", io.BytesIO(file.read())), stamp

    @override
    def stamp(self) -> Stamp:
        return self._source.stamp()


class FarSources(Sources):
    """All files as if they were far away."""

    @override
    def source(self, url: str, tenant: str) -> Source:
        return FarSource(ANYWHERE.source(url, tenant))

    @override
    def folder(self, url: str, tenant: str) -> Folder:
        return ANYWHERE.folder(url, tenant)

    @override
    def beside(self, url: str, tenant: str) -> Files:
        return ANYWHERE.beside(url, tenant)


class Reading:
    """What reads separately, and its processes."""

    def __init__(self, sources: Sources = ANYWHERE) -> None:
        self.processes: list[ReaderProcess] = []
        self.sandboxes: list[str] = []
        self.now_s = 0.0
        """The time of the pool."""
        self.pool = Readers(self._start, lambda: self.now_s)
        self.here = ReadHere(sources, asyncio.to_thread, time.monotonic)
        self.apart = ReadSeparately(self.pool, sources, asyncio.to_thread, self.here)

    def _start(self) -> ReaderProcess:
        process = ReaderProcess(MEMORY_BYTES, (), self.sandboxes.append, NullLog())  # type: ignore[arg-type] - it has all that is used
        self.processes.append(process)
        return process


@asynccontextmanager
async def reading(sources: Sources = ANYWHERE) -> AsyncIterator[Reading]:
    made = Reading(sources)
    try:
        yield made
    finally:
        await made.pool.close()


def job_of(spec: InputSpec, fingerprint: str) -> Job:
    job_spec = JobSpec("m", spec, OutputSpec())
    job_id = JobId(f"job-{spec.format}")
    return Job(job_id, "t", job_spec, PINNED, JobState.RUNNING, "", 0.0, None, 0, 0, fingerprint)


async def all_of(
    by: InputReading, spec: InputSpec, limits: ShardLimits
) -> tuple[str, list[RowRange], list[tuple[Any, ...]]]:
    """Return all that is read of an input: rows with their names and values, and bad rows."""
    ranges: list[RowRange] = []
    fingerprint = ""
    async for fingerprint, piece in by.plan(spec, "t", limits):  # noqa: B007 - it is the same in all
        ranges += piece
    found: list[tuple[Any, ...]] = []
    for each in ranges:
        async for window in by.windows(job_of(spec, fingerprint), each, INPUTS):
            found += rows_of(window)
    return fingerprint, ranges, sorted(found, key=lambda row: row[0])


def rows_of(window: RowWindow) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [(each.row, each.row_id, each.text) for each in window.bad]
    for batch in window.batches:
        values = [array.tolist() for array in batch.inputs.values()]
        found += zip(batch.numbers, batch.ids, *values, strict=True)
    return found


def written(folder: Path, form: InputFormat) -> InputSpec:
    """Write an input of a form, some of whose rows are bad where it can have such."""
    rows = [{"a": at / 2, "b": at, "t": f"é {at}", "id": f"r{at}"} for at in range(ROWS)]
    path = folder / f"in.{form}"
    match form:
        case InputFormat.JSONL:
            write_jsonl(
                path, [{**row, "a": "no" if row["b"] in {5, 8500} else row["a"]} for row in rows]
            )
        case InputFormat.CSV:
            write_csv(path, rows)
        case InputFormat.NPZ:
            columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
            path = write_npz(path, **columns)
        case InputFormat.BATCH:
            write_jsonl(
                path, [{"prompt": f"p{at}", "custom_id": f"r{at}"} for at in range(ROWS // 9)]
            )
            return InputSpec(str(path), form, {"rows": ("body",)})
        case _:
            pa = pytest.importorskip("pyarrow")
            table = pa.Table.from_pylist(rows)
            if form is InputFormat.PARQUET:
                pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=4000)
            else:
                with pa.ipc.new_file(str(path), table.schema) as file:
                    file.write_table(table, max_chunksize=4000)
    return InputSpec(str(path), form, COLUMNS, "id")


FORMS = [form for form in InputFormat if form not in {InputFormat.NPY, InputFormat.FOLDER}]


@pytest.mark.parametrize("sources", [ANYWHERE, FarSources()], ids=["here", "far"])
async def test_rows_are_those_that_a_reader_in_this_process_gives(
    tmp_path: Path, sources: Sources
) -> None:
    async with reading(sources) as made:
        for form in FORMS:
            spec = written(tmp_path, form)
            limits = ShardLimits(3500)
            here = await all_of(made.here, spec, limits)
            rows = ROWS // 9 if form is InputFormat.BATCH else ROWS
            assert len(here[-1]) == rows
            looked = await made.apart.look(spec, "t")
            assert looked == rows + (form is InputFormat.CSV)  # whose names are a line
            assert await all_of(made.apart, spec, limits) == here
        assert len(made.processes) == 2  # of which one looks
        assert len(made.sandboxes) == 2
        assert "" not in made.sandboxes


async def test_files_that_rows_name_come_over_whole(tmp_path: Path) -> None:
    large = os.urandom(20 * MIB)
    (tmp_path / "large").write_bytes(large)
    (tmp_path / "small").write_bytes(b"")
    path = write_jsonl(
        tmp_path / "in.jsonl", [{"f": name} for name in ("large", "none", "small", "../x")]
    )
    spec = InputSpec(str(path), InputFormat.JSONL, {"t": ("f",)}, encoding={"f": Encoding.PATH})
    async with reading() as made:
        *_, rows = await all_of(made.apart, spec, ShardLimits(100))
        assert [row[2] for row in rows if row[0] in {0, 2}] == [large, b""]
        assert rows == (await all_of(made.here, spec, ShardLimits(100)))[-1]


async def test_names_of_requests_come_over(tmp_path: Path) -> None:
    spec = written(tmp_path, InputFormat.BATCH)
    async with reading() as made:
        _, (whole,), _ = await all_of(made.here, spec, ShardLimits(ROWS))
        found = [each async for some in made.apart.names(spec, "t", whole) for each in some]
        assert found == [(at, f"r{at}") for at in range(ROWS // 9)]


async def test_input_that_takes_all_memory_ends_its_reader_alone(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    bomb = tmp_path / "bomb.parquet"
    hostile_inputs.write_parquet_bomb(bomb)
    spec = InputSpec(str(bomb), InputFormat.PARQUET, {"x": ("x",)})
    async with reading() as made:
        with pytest.raises(ReaderEnded, match=r"bomb.parquet ended over it: .* 256 MiB of memory"):
            await all_of(made.apart, spec, ShardLimits(100))
        good = written(tmp_path, InputFormat.JSONL)
        assert len((await all_of(made.apart, good, ShardLimits(ROWS)))[-1]) == ROWS
        assert len(made.processes) == 2


async def test_line_that_takes_all_memory_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    hostile_inputs.write_long_line(path)
    with path.open("a") as file:
        file.write('{"x":[1,2]}\n')
    spec = InputSpec(str(path), InputFormat.JSONL, {"x": ("x",)})
    async with reading() as made:
        *_, rows = await all_of(made.apart, spec, ShardLimits(100))
        assert rows[0][2].startswith(f"the line has {54 * MIB} bytes, and as values more than")
        assert rows[1] == (1, "1", [1.0, 2.0])


@pytest.mark.parametrize("form", [InputFormat.CSV, InputFormat.ARROW])
async def test_file_of_too_many_columns_is_refused_by_their_number(
    tmp_path: Path, form: InputFormat
) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "in"
    is_csv = form is InputFormat.CSV
    (hostile_inputs.write_wide_csv if is_csv else hostile_inputs.write_wide_arrow)(path, 10_001)
    async with reading() as made:
        with pytest.raises(InputInvalid, match="has 10001 columns, the limit is 10000"):
            await made.apart.look(InputSpec(str(path), form, {"x": ("a",)}), "t")


async def test_reader_that_is_killed_fails_what_it_reads_and_the_next_has_another(
    tmp_path: Path,
) -> None:
    spec = written(tmp_path, InputFormat.JSONL)
    async with reading() as made:
        fingerprint, (whole,), rows = await all_of(made.apart, spec, ShardLimits(ROWS))
        windows = made.apart.windows(job_of(spec, fingerprint), whole, INPUTS)
        await anext(windows)
        pid = made.processes[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ReaderEnded, match="it was killed, as systems do that run out of memor"):
            [window async for window in windows]
        assert (await all_of(made.apart, spec, ShardLimits(ROWS)))[-1] == rows


async def test_shard_whose_process_was_lent_goes_on_where_it_was(tmp_path: Path) -> None:
    spec = written(tmp_path, InputFormat.JSONL)
    async with reading() as made:
        fingerprint, (whole,), rows = await all_of(made.apart, spec, ShardLimits(ROWS))
        job = job_of(spec, fingerprint)
        paused = [made.apart.windows(job, whole, INPUTS) for _ in range(2)]
        begun = [rows_of(await anext(windows)) for windows in paused]
        made.now_s += PAUSE_S
        third = [
            row
            async for window in made.apart.windows(job, whole, INPUTS)
            for row in rows_of(window)
        ]
        assert sorted(third) == sorted(rows)
        for first, windows in zip(begun, paused, strict=True):
            rest = [row async for window in windows for row in rows_of(window)]
            assert sorted(first + rest) == sorted(rows)


async def test_input_that_was_changed_is_told(tmp_path: Path) -> None:
    spec = written(tmp_path, InputFormat.JSONL)
    async with reading() as made:
        fingerprint, (whole,), _ = await all_of(made.apart, spec, ShardLimits(ROWS))
        windows = made.apart.windows(
            replace(job_of(spec, fingerprint), fingerprint="other"), whole, INPUTS
        )
        with pytest.raises(InputChanged, match="was changed since the job was planned"):
            await anext(windows)


TAKEN = """
import sys
from capamesh.protocol.channel.blocking_channel import BlockingChannel
fds = dict(zip(sys.argv[1::2], sys.argv[2::2]))
channel = BlockingChannel.inherit(int(fds["--channel-fd"]))
channel.next()
channel.send({"type": "ready", "sandbox": ""})
channel.next()
def call(what, **more):
    channel.send({"type": "call", "what": what, **more})
def item(**more):
    channel.send({"type": "item", **more})
"""
"""A reader of which a file has taken hold, up to what that has it do."""
ATTACKS = {
    "it called again before it was answered": "while True: call('open')",
    "it sent what no reader sends: 'rows'": "item()\nchannel.next()",
    "it sent what no reader sends: 'error'": "channel.send({'type': 'failed'})\nchannel.next()",
    "it exited with status 9": "call('next file'); channel.next(); call([]); channel.next(); sys.exit(9)",
}


@pytest.mark.parametrize("words", ATTACKS)
async def test_reader_that_was_taken_hold_of_is_ended_with_its_input_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    spec = written(tmp_path, InputFormat.NPZ)
    monkeypatch.setattr(process, "ARGV", (sys.executable, "-c", TAKEN + ATTACKS[words]))
    async with reading() as made:
        with pytest.raises(ReaderEnded, match=f"in.npz ended over it: {words}"):
            await made.apart.look(spec, "t")
        assert made.pool.count == 0


async def test_reader_that_speaks_without_being_asked_is_ended_and_one_that_asks_much_is_borne(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = written(tmp_path, InputFormat.NPZ)
    opens = "for _ in range(1000):\n    call('open'); channel.next()\nitem(rows=7)\nchannel.next()"
    monkeypatch.setattr(process, "ARGV", (sys.executable, "-c", TAKEN + opens))
    async with reading() as made:  # it takes no descriptors, of which it holds few
        assert await made.apart.look(spec, "t") == 7
    monkeypatch.setattr(process, "ARGV", (sys.executable, "-c", TAKEN + "while True: item(rows=7)"))
    async with reading() as made:
        await made.apart.look(spec, "t")
        async with asyncio.timeout(GUARD_S):
            while made.processes[0].ended != "it spoke without being asked":
                await asyncio.sleep(0)


MANY_ROWS = b'{"bad":[],"sha256":"","batches":[{"inputs":[],"span":[0,1000000000],"numbers":[],"ids":null}]}'
NO_ROWS = b'{"bad":[],"sha256":"","batches":[]}'
FALSE_COUNTS = [
    (InputFormat.NPZ, f"item(head={MANY_ROWS!r})\nchannel.next()"),
    (InputFormat.NPZ, f"while True:\n    item(head={NO_ROWS!r}); channel.next()"),
    (InputFormat.BATCH, "item(names=b'[%s[1,\"a\"]]' % (b'[1,\"a\"],' * 9000))\nchannel.next()"),
    (InputFormat.BATCH, "while True:\n    item(names=b'[]'); channel.next()"),
]


@pytest.mark.parametrize(("form", "task"), FALSE_COUNTS)
async def test_reader_that_gives_more_rows_than_it_is_asked_for_or_none_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: InputFormat, task: str
) -> None:
    spec = written(tmp_path, form)
    asked = RowRange(0, ROWS, 0, 0, 0)
    monkeypatch.setattr(process, "ARGV", (sys.executable, "-c", TAKEN + task))
    async with reading() as made:
        given = (
            made.apart.names(spec, "t", asked)
            if form is InputFormat.BATCH
            else made.apart.windows(job_of(spec, ""), asked, INPUTS)
        )
        told = r"rows more than were asked for|names has none|windows without a row"
        with pytest.raises(ReaderEnded, match=told):
            async for _ in given:
                pass
        assert made.pool.count == 0


ONE = "one = {'first_row': 0, 'rows': 1, 'group': 0, 'offset': 0, 'size_bytes': 1, 'digest': b''}\n"
PLANS = {
    "a fingerprint that is no text": "['f'], []",
    "a fingerprint of two lines": "'f\\n', []",
    "too many ranges": "'f', [{**one, 'first_row': at} for at in range(1001)]",
    "rows that were not before": "'f', [{**one, 'first_row': 1}]",
    "the same rows again": "'f', [one, one]",
    "no rows": "'f', [{**one, 'rows': 0}]",
    "more rows than a shard has": "'f', [{**one, 'rows': 2**31}]",
    "a group that no store keeps": "'f', [{**one, 'group': 2**31}]",
    "a place that no store keeps": "'f', [{**one, 'offset': 2**63}]",
    "a place before the file": "'f', [{**one, 'offset': -1}]",
    "more bytes than a shard has": "'f', [{**one, 'size_bytes': 2**26 + 1}]",
    "a digest that is none": "'f', [{**one, 'digest': b'd'}]",
    "a number that is none": "'f', [{**one, 'rows': True}]",
    "no ranges for ever": "'f', []",
}


@pytest.mark.parametrize("name", PLANS)
async def test_plan_that_no_reader_makes_ends_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    told = f"fingerprint, ranges = {PLANS[name]}\nitem(fingerprint=fingerprint, ranges=ranges)\nchannel.next()\n"
    monkeypatch.setattr(process, "ARGV", (sys.executable, "-c", TAKEN + ONE + told * 2))
    async with reading() as made:
        plan = made.apart.plan(written(tmp_path, InputFormat.NPZ), "t", ShardLimits(100))
        with pytest.raises(ReaderEnded, match="it sent what no reader sends"):
            [piece async for piece in plan]
        assert made.pool.count == 0


CLOSED = """
import os, socket, subprocess, sys
from pathlib import Path
from capamesh.router.jobs.readers import child

hidden, library = map(Path, sys.argv[1:])
child.close_in(256 * 2**20, [hidden, library / "tls.key"])

def refused(what):
    try:
        what()
    except (PermissionError, MemoryError):
        return
    raise SystemExit(f"{what} was not refused")

refused((hidden / "key").read_text)
refused((library / "tls.key").read_text)
assert (library / "module.py").read_text() == ""
refused(lambda: (hidden / "new").write_text("x"))
refused(lambda: Path("/etc/shadow").read_text())
refused(lambda: Path(f"/proc/{os.getppid()}/environ").read_text())
refused(lambda: subprocess.run(["/bin/true"]))
refused(os.fork)
refused(lambda: os.kill(os.getppid(), 0))
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    refused(lambda: socket.socket(family))
refused(lambda: bytearray(600 * 2**20))
import pyarrow.parquet
"""


@pytest.mark.skipif(
    not landlock.version() or not seccomp.program(os.uname().machine, 1, ()),
    reason="this kernel lacks Landlock, or its calls are not known",
)
def test_reader_opens_no_file_no_socket_and_no_program(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    hidden, library = tmp_path / "hidden", tmp_path / "library"
    for folder, name in ((hidden, "key"), (library, "tls.key")):
        folder.mkdir()
        (folder / name).write_text("secret")
    (library / "module.py").touch()
    done = subprocess.run(
        [sys.executable, "-P", "-c", CLOSED, str(hidden), str(library)],
        env={**os.environ, "PYTHONPATH": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
