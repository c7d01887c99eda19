"""Opens an input by its URL and form. IO: what the readers do."""

from __future__ import annotations

from capamesh.router.jobs.errors import InputChanged
from capamesh.router.jobs.inputs.arrays import ArrayReader
from capamesh.router.jobs.inputs.arrow_files import ArrowReader, ParquetReader
from capamesh.router.jobs.inputs.csv_rows import CsvReader
from capamesh.router.jobs.inputs.encoded import EncodedReader
from capamesh.router.jobs.inputs.folder import FolderReader
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.reader import Reader
from capamesh.router.jobs.inputs.requests import RequestsReader
from capamesh.router.jobs.inputs.source import Sources
from capamesh.router.jobs.spec import Encoding, InputFormat, InputSpec
from capamesh.router.jobs.values import Job


def open_reader(spec: InputSpec, tenant: str, sources: Sources) -> Reader:
    """Return the reader of a tenant's input.

    Raises:
        InvalidRequest: jobs may not read what its URL names, or no files are beside it.
        InputInvalid: it cannot be read.
        ConfigError: a library is missing.
    """
    reader = _plain_reader(spec, tenant, sources)
    if not spec.encoding:
        return reader
    has_paths = Encoding.PATH in spec.encoding.values()
    files = sources.beside(spec.url, tenant) if has_paths else None
    return EncodedReader(reader, spec.encoding, files)


def _plain_reader(  # noqa: PLR0911 - one for each form
    spec: InputSpec, tenant: str, sources: Sources
) -> Reader:
    if spec.format is InputFormat.FOLDER:
        return FolderReader(sources.folder(spec.url, tenant))
    source = sources.source(spec.url, tenant)
    match spec.format:
        case InputFormat.JSONL:
            return JsonlReader(source)
        case InputFormat.BATCH:
            return RequestsReader(source)
        case InputFormat.CSV:
            return CsvReader(source)
        case InputFormat.PARQUET:
            return ParquetReader(source)
        case InputFormat.ARROW:
            return ArrowReader(source)
        case _:
            return ArrayReader(source, is_archive=spec.format is InputFormat.NPZ)


def open_planned(job: Job, sources: Sources) -> Reader:
    """Return the reader of a planned job's input; raises as `open_reader` and `check_planned`."""
    reader = open_reader(job.spec.input, job.tenant, sources)
    check_planned(reader, job.spec.input, job.fingerprint)
    return reader


def check_planned(reader: Reader, spec: InputSpec, fingerprint: str) -> None:
    """Raise `InputChanged` unless an input is what it was when its job was planned."""
    if reader.fingerprint() != fingerprint:
        raise InputChanged(
            f"{spec.url} was changed since the job was planned; submit a new job for it"
        )
