"""Uploaded files as JSON, and what their routes read of a request. Pure but for aiohttp's requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from aiohttp import web

from capamesh.protocol.errors import FileNotFound, InvalidRequest
from capamesh.router.jobs.places import is_file_id
from capamesh.router.jobs.stored_files import (
    KEEP_S,
    LEAST_KEEP_S,
    MOST_KEEP_S,
    UPLOADED,
    FileId,
    Purpose,
    StoredFile,
    plain_name,
)
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from capamesh.router.http.schemas import openai

UPLOAD_LENGTH: Final = "Upload-Length"
UPLOAD_NAME: Final = "Upload-Name"
UPLOAD_PURPOSE: Final = "Upload-Purpose"
UPLOAD_EXPIRES_AFTER: Final = "Upload-Expires-After"
UPLOAD_OFFSET: Final = "Upload-Offset"
MAX_LIMIT: Final = 1000
"""The most files of one page; OpenAI's clients ask for ten times as many, and then for the next page."""
ASKED_LIMIT: Final = 10_000
EXPIRES: Final = "expires_after[seconds]"
ANCHOR: Final = "expires_after[anchor]"
_MAX_DIGITS: Final = 15


def file_body(file: StoredFile, arrived_bytes: int | None = None) -> openai.File:
    """Return a file as JSON; `arrived_bytes` are those that are here of one that arrives."""
    body: openai.File = {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_s),
        "expires_at": int(file.expires_s),
        "filename": file.name,
        "purpose": file.purpose.value,
        "status": "processed" if file.is_ready else "pending",
        "status_details": None,
    }
    if not file.is_ready and arrived_bytes is not None:
        body["offset"] = arrived_bytes
    return body


def file_answer(file: StoredFile, arrived_bytes: int, status: int = 200) -> web.Response:
    """Return the answer that tells of one file, and how many bytes of it are here."""
    headers = {
        UPLOAD_OFFSET: str(arrived_bytes),
        UPLOAD_LENGTH: str(file.size_bytes),
        "Cache-Control": "no-store",
    }
    if status == 201:
        headers["Location"] = f"/v1/files/{file.id}"
    return web.json_response(file_body(file, arrived_bytes), status=status, headers=headers)


def file_id_of(request: web.Request) -> FileId:
    """Return the id that a path names; raises `FileNotFound` for what no file is called."""
    text = request.match_info["file"]
    if not is_file_id(text):
        raise FileNotFound(f"there is no file {text[:80]!r}; GET /v1/files lists them")
    return FileId(text)


def bytes_of(request: web.Request, header: str) -> int:
    """Return a number of bytes that a header says. Raises `InvalidRequest`."""
    text = request.headers.get(header, "")
    if not _is_number(text):
        raise InvalidRequest(f"{header} is {text[:80]!r}; a whole number of bytes is expected")
    return int(text)


def name_of(request: web.Request) -> str:
    """Return the name of the file that a header says, in UTF-8 with percent signs."""
    return plain_name(unquote(request.headers.get(UPLOAD_NAME, ""), errors="replace"))


def purpose_of(text: str) -> Purpose:
    """Return the purpose of an uploaded file. Raises `InvalidParameter`."""
    if text not in UPLOADED:
        allowed = ", ".join(UPLOADED)
        raise InvalidParameter("purpose", f"purpose is {text[:80]!r}; it may be {allowed}")
    return Purpose(text)


def keep_s_of(text: str | None) -> float:
    """Return for how many seconds a file is kept; None: as long as files are that do not say. Raises `InvalidParameter`."""
    if text is None:
        return KEEP_S
    if not _is_number(text) or not LEAST_KEEP_S <= int(text) <= MOST_KEEP_S:
        raise InvalidParameter(
            "expires_after",
            f"the seconds of expires_after are {text[:80]!r}; a whole number from {LEAST_KEEP_S:.0f} to {MOST_KEEP_S:.0f} is"
            " expected",
        )
    return float(text)


def asked_keep_s(given: object, name: str) -> float:
    """Return for how many seconds a field of JSON has files kept; None: as long as files are that do not say. Raises `InvalidParameter`."""
    if given is None:
        return KEEP_S
    values = cast("dict[str, object]", given) if isinstance(given, dict) else {}
    seconds = values.get("seconds")
    if values.get("anchor") != "created_at" or type(seconds) is not int:
        raise InvalidParameter(
            name, f"{name} must have the anchor created_at and the seconds from then on"
        )
    return keep_s_of(str(seconds))


def page_of(request: web.Request) -> dict[str, Any]:
    """Return what a request asks of the list of files, as `FileStore.page` takes it. Raises `InvalidParameter`."""
    query = request.query
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidParameter("order", f"order is {order[:80]!r}; it may be asc or desc")
    limit = query.get("limit", str(ASKED_LIMIT))
    if not _is_number(limit) or not 1 <= int(limit) <= ASKED_LIMIT:
        raise InvalidParameter(
            "limit", f"limit is {limit[:80]!r}; a whole number from 1 to {ASKED_LIMIT} is expected"
        )
    purpose = query.get("purpose", "")
    if purpose and purpose not in tuple(Purpose):
        raise InvalidParameter(
            "purpose", f"purpose is {purpose[:80]!r}; it may be {', '.join(Purpose)}"
        )
    after = query.get("after")
    if after is not None and not is_file_id(after):
        raise InvalidParameter("after", f"after is {after[:80]!r}; the id of a file is expected")
    return {
        "purpose": purpose,
        "last": None if after is None else FileId(after),
        "count": min(int(limit), MAX_LIMIT),
        "is_newest_first": order == "desc",
    }


def announced_bytes(request: web.Request) -> int:
    """Return the bytes that a new upload announces. Raises `InvalidRequest`."""
    size_bytes = bytes_of(request, UPLOAD_LENGTH)
    if request.content_length:
        raise InvalidRequest(
            f"with {UPLOAD_LENGTH} a request has no body: send the bytes by PATCH /v1/files/FILE"
        )
    return size_bytes


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
