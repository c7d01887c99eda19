"""Opens an input by its URL and form. IO: what the readers do."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from capamesh.router.jobs.errors import InputChanged, InputInvalid
from capamesh.router.jobs.inputs.arrays import ArrayReader
from capamesh.router.jobs.inputs.arrow_files import ArrowReader, ParquetReader
from capamesh.router.jobs.inputs.csv_rows import CsvReader
from capamesh.router.jobs.inputs.folder import FolderReader
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.reader import Reader
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.spec import InputFormat, InputSpec
from capamesh.router.jobs.values import Job


def local_path(url: str) -> Path:
    """Return the path that a URL `file:///…` or an absolute path names; raises `InputInvalid` for others."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        path = Path(unquote(parts.path))
    elif not parts.scheme:
        path = Path(url)
    else:
        raise InputInvalid(
            f"{url[:200]!r} is not on this machine: give an absolute path or a URL file:///…"
        )
    if not path.is_absolute():
        raise InputInvalid(f"{url[:200]!r} is a relative path; give an absolute one")
    return path


def open_reader(spec: InputSpec) -> Reader:
    """Return the reader of an input. Raises `InputInvalid`, or `ConfigError` where a library is missing."""
    path = local_path(spec.url)
    if spec.format is InputFormat.FOLDER:
        return FolderReader(path)
    source = LocalFile(path)
    match spec.format:
        case InputFormat.JSONL:
            return JsonlReader(source)
        case InputFormat.CSV:
            return CsvReader(source)
        case InputFormat.PARQUET:
            return ParquetReader(source)
        case InputFormat.ARROW:
            return ArrowReader(source)
        case _:
            return ArrayReader(source, is_archive=spec.format is InputFormat.NPZ)


def open_planned(job: Job) -> Reader:
    """Return the reader of a planned job's input; raises as `open_reader`, or `InputChanged` if it is not what was planned."""
    reader = open_reader(job.spec.input)
    if reader.fingerprint() != job.fingerprint:
        raise InputChanged(
            f"{job.spec.input.url} was changed since the job was planned; submit a new job for it"
        )
    return reader
