"""The questions of a client to a router about jobs and files, as values that either client can send. Pure.

All of them may be sent again, also to another router that shares the store: a job that is submitted again is the same one, by
its client key.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from capamesh.client.answers import Answer, failure_of
from capamesh.client.asks import UNASKED_WAIT_S, Ask
from capamesh.client.jobs.values import (
    BadRow,
    FileInfo,
    JobEvent,
    JobInfo,
    JobPart,
    JobPromise,
    Said,
    bad_row_of,
    event_of,
    file_of,
    job_of,
    part_of,
    read_file,
    read_job,
    read_page,
    read_promise,
)
from capamesh.protocol.errors import InvalidRequest, ProtocolViolation
from capamesh.protocol.tensors import DEFAULT_LIMITS, Limits

JOB_WAIT_S: Final = 30.0
"""The longest wait for an answer about jobs: a router gives its store ten seconds (guess: and may be busy with them)."""
PAGE: Final = 100
"""The entries of a list that are asked for at a time: the most that a router gives."""
JSON: Final = {"Content-Type": "application/json"}
T = TypeVar("T")


def ask_submit(body: Mapping[str, Any]) -> Ask[JobInfo]:
    """Return the request to submit a job, as `/v1/jobs` takes it."""
    return _posted("/v1/jobs", body, read_job)


def ask_promise(body: Mapping[str, Any]) -> Ask[JobPromise]:
    """Return the question when a job would end that is not submitted."""
    return _posted("/v1/jobs", {**body, "dry_run": True}, read_promise)


def ask_job(job: str) -> Ask[JobInfo]:
    """Return the question about one job."""
    return _got(_path(job), read_job)


def ask_jobs(after: str, state: str, limit: int = PAGE) -> Ask[tuple[list[JobInfo], bool]]:
    """Return the question for jobs, the newest first, from the one behind `after` on; the result says whether there are more."""
    asked: dict[str, str | int] = {"limit": limit}
    if after:
        asked["after"] = after
    if state:
        asked["state"] = state
    return _got(f"/v1/jobs?{urlencode(asked)}", _page_of(job_of, "a list of jobs"))


def ask_move(job: str, verb: str) -> Ask[JobInfo]:
    """Return the request to `pause`, `resume` or `cancel` a job."""
    return _posted(f"{_path(job)}/{verb}", None, read_job)


def ask_parts(job: str, after: int) -> Ask[tuple[list[JobPart], bool]]:
    """Return the question for the shards behind the one of number `after` whose results are committed."""
    path = f"{_path(job)}/parts?{urlencode(_behind(after))}"
    return _got(path, _page_of(part_of, "a list of parts"))


def ask_bad_rows(job: str, after: int) -> Ask[tuple[list[BadRow], bool]]:
    """Return the question for the bad rows behind a row."""
    path = f"{_path(job)}/errors?{urlencode(_behind(after))}"
    return _got(path, _page_of(bad_row_of, "a list of bad rows"))


def ask_events(job: str, after: int) -> Ask[list[JobEvent]]:
    """Return the question for the events that there are behind one."""
    return _got(f"{_path(job)}/events?after={after}&follow=false", _events)


def ask_results(
    job: str, from_row: int, rows: int, limits: Limits = DEFAULT_LIMITS
) -> Ask[tuple[bytes, int | None]]:
    """Return the question for the results of rows, as lines of JSON, and for the row from which to go on, None: not said."""
    query = urlencode({"from_row": from_row, "rows": rows, "format": "jsonl"})

    def read(answer: Answer) -> tuple[bytes, int | None]:
        return bytes(answer.body), whole_number(answer.next_row)

    return dataclasses.replace(_got(f"{_path(job)}/results?{query}", read), limits=limits)


def ask_upload(name: str, size_bytes: int, purpose: str) -> Ask[str]:
    """Return the request to begin an upload; the result is the id of its file."""
    headers = {
        "Upload-Length": str(size_bytes),
        "Upload-Name": quote(name, safe=" !#$&'()+,-.;=@[]^_`{}~"),
        "Upload-Purpose": purpose,
    }
    return _ask("POST", "/v1/files", _file_id, headers=headers)


def ask_append(file: str, offset: int, chunk: bytes) -> Ask[int]:
    """Return the request to add bytes to an upload; the result is how many it has then."""
    headers = {
        "Upload-Offset": str(offset),
        "Content-Type": "application/offset+octet-stream",
    }
    end = offset + len(chunk)

    def read(answer: Answer) -> int:
        told = whole_number(answer.upload_offset)
        return end if told is None else told

    ask = _ask("PATCH", _file_path(file), read, buffers=(chunk,), headers=headers)
    # at another router the file may be shorter than here: it is asked how long it is
    return dataclasses.replace(ask, wait_s=UNASKED_WAIT_S, is_repeatable=False)


def ask_offset(file: str) -> Ask[int]:
    """Return the question how many bytes of an upload have come."""

    def read(answer: Answer) -> int:
        told = whole_number(answer.upload_offset)
        if told is None:
            raise ProtocolViolation(
                f"the answer does not say how much of the upload has come: {answer.upload_offset!r:.80}; is this a router's URL?"
            )
        return told

    return _ask("HEAD", _file_path(file), read)


def ask_file(file: str) -> Ask[FileInfo]:
    """Return the question about one file."""
    return _got(_file_path(file), read_file)


def ask_files(after: str, purpose: str) -> Ask[tuple[list[FileInfo], bool]]:
    """Return the question for files, from the one behind `after` on; the result says whether there are more."""
    asked: dict[str, str | int] = {"limit": PAGE}
    if after:
        asked["after"] = after
    if purpose:
        asked["purpose"] = purpose
    return _got(f"/v1/files?{urlencode(asked)}", _page_of(file_of, "a list of files"))


def ask_delete(file: str) -> Ask[None]:
    """Return the request to remove a file."""
    return _ask("DELETE", _file_path(file), _nothing)


def ask_content(file: str, offset: int, size_bytes: int) -> Ask[bytes]:
    """Return the question for bytes of a file."""
    headers = {"Range": f"bytes={offset}-{offset + size_bytes - 1}"}
    return _ask("GET", f"{_file_path(file)}/content", _content, headers=headers)


def repeated(ask: Ask[T]) -> Ask[T]:
    """Return a question that is sent again as inferences are, where nothing else sends it again."""

    def again(_: float | None) -> Ask[T]:
        return repeated(ask)

    return dataclasses.replace(ask, renew=again, is_idempotent=True)


def whole_number(text: str | None) -> int | None:
    """Return the whole number that a header has; None: there is no header. Raises `ProtocolViolation`."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ProtocolViolation(f"the answer has {text!r:.80} where a whole number is expected")
    return int(text)


def _behind(after: int) -> dict[str, int]:
    """Return what asks for the entries behind one; below 0: from the first on."""
    return {"limit": PAGE} if after < 0 else {"after": after, "limit": PAGE}


def _path(job: str) -> str:
    if not job:
        raise InvalidRequest("the job's id is empty; see the list: capamesh jobs ls")
    return f"/v1/jobs/{quote(job, safe='')}"


def _file_path(file: str) -> str:
    if not file:
        raise InvalidRequest("the file's id is empty; client.files.list() has those that there are")
    return f"/v1/files/{quote(file, safe='')}"


def _got(path: str, read: Callable[[Answer], T]) -> Ask[T]:
    return _ask("GET", path, read)


def _posted(path: str, body: Mapping[str, Any] | None, read: Callable[[Answer], T]) -> Ask[T]:
    if body is None:
        return _ask("POST", path, read)
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(
            f"the job cannot be sent: {exc}; give texts and finite numbers"
        ) from exc
    return _ask("POST", path, read, buffers=(text,), headers=JSON)


def _ask(
    method: str,
    path: str,
    read: Callable[[Answer], T],
    *,
    buffers: tuple[bytes, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Ask[T]:
    def read_checked(answer: Answer, url: str) -> T:
        if not 200 <= answer.status < 300:
            raise failure_of(answer, url)
        return read(answer)

    return Ask(method, path, read_checked, JOB_WAIT_S, buffers, headers or {})


def _page_of(entry: Callable[[object], T], what: str) -> Callable[[Answer], tuple[list[T], bool]]:
    def read(answer: Answer) -> tuple[list[T], bool]:
        entries, has_more = read_page(answer, what)
        return [entry(each) for each in entries], has_more and bool(entries)

    return read


def _file_id(answer: Answer) -> str:
    said = Said(json.loads(bytes(answer.body) or b"null"), "an upload")
    return said.text("id")


def _nothing(_: Answer) -> None:
    return None


def _content(answer: Answer) -> bytes:
    return bytes(answer.body)


def _events(answer: Answer) -> list[JobEvent]:
    """Return the events of a stream of server-sent events that has ended; what says how far the job is, is left out."""
    try:
        text = bytes(answer.body).decode()
    except UnicodeDecodeError as exc:
        raise ProtocolViolation("the events of the job are not text in UTF-8") from exc
    found: list[JobEvent] = []
    for message in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line.partition(":") for line in message.split("\n")]
        kind = next((value.strip() for name, _, value in lines if name == "event"), "")
        data = [value.removeprefix(" ") for name, _, value in lines if name == "data"]
        if data and kind != "progress":
            found.append(event_of("\n".join(data)))
    return found
