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
from capamesh.router.jobs.inputs.source import Files, Source, Sources
from capamesh.router.jobs.spec import Encoding, InputFormat, InputSpec
from capamesh.router.jobs.values import Job


def open_reader(spec: InputSpec, tenant: str, sources: Sources) -> Reader:
    """Return the reader of a tenant's input.

    Raises:
        InvalidRequest: jobs may not read what its URL names, or no files are beside it.
        InputInvalid: it cannot be read.
        ConfigError: a library is missing.
    """
    has_paths = Encoding.PATH in spec.encoding.values()
    beside = sources.beside(spec.url, tenant) if has_paths else None
    if spec.format is InputFormat.FOLDER:
        return _decoded(FolderReader(sources.folder(spec.url, tenant)), spec, beside)
    return file_reader(spec, sources.source(spec.url, tenant), beside)


def file_reader(spec: InputSpec, source: Source, beside: Files | None) -> Reader:
    """Return the reader of an input that is a file; `beside` are the files that its rows may name. Raises as `open_reader`."""
    return _decoded(_plain_reader(spec.format, source), spec, beside)


def _decoded(reader: Reader, spec: InputSpec, beside: Files | None) -> Reader:
    return EncodedReader(reader, spec.encoding, beside) if spec.encoding else reader


def _plain_reader(form: InputFormat, source: Source) -> Reader:
    match form:
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
            return ArrayReader(source, is_archive=form is InputFormat.NPZ)


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
