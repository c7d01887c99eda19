"""The answers to the requests of a batch, and its errors, as lines of OpenAI's form. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from capamesh.protocol.errors import CapameshError, ContextExceeded, InvalidRequest, TooLarge
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.values import BadRow

PIECE_BYTES: Final = 2**20
"""The bytes of lines that are written at a time (guess)."""
_STATUSES: Final = {
    InvalidRequest.code: 400,
    InputInvalid.code: 400,
    ContextExceeded.code: 400,
    TooLarge.code: 413,
}
"""The statuses of errors by their codes, where they are not the server's."""
FAILED: Final = 500


def answer_lines(results: Sequence[Results]) -> Iterator[bytes]:
    """Yield the answers to requests, in their order, a line each; all rows of a request are in `results`."""
    found: dict[int, list[tuple[int, Results, int]]] = {}
    for one in results:
        for at, number in enumerate(one.numbers):
            found.setdefault(number, []).append((one.places[at], one, at))
    piece: list[bytes] = []
    size_bytes = 0
    for number in sorted(found):
        line = _answer_line(number, sorted(found.pop(number), key=lambda each: each[0]))
        piece.append(line)
        size_bytes += len(line)
        if size_bytes >= PIECE_BYTES:
            yield b"".join(piece)
            piece.clear()
            size_bytes = 0
    yield b"".join(piece)


def error_line(row: BadRow, prompt_field: str | None = None) -> bytes:
    """Return the line of a request that failed; `prompt_field` is the field that has the prompts at its endpoint, if there is one."""
    kind = "invalid_request_error" if _STATUSES.get(row.code, FAILED) < FAILED else "server_error"
    param = prompt_field if row.code == ContextExceeded.code else None
    error = {"message": row.text, "type": kind, "param": param, "code": row.code}
    body = json.dumps({"error": error}, separators=(",", ":")).encode()
    return _line(row.row, row.row_id, _STATUSES.get(row.code, FAILED), body)


def undone_line(number: int, name: str, code: str, message: str) -> bytes:
    """Return the line of a request that was not begun or not ended when its batch was."""
    value = {
        "id": _id_of(number),
        "custom_id": name,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _answer_line(number: int, rows: Sequence[tuple[int, Results, int]]) -> bytes:
    _, first, at = rows[0]
    name, form = first.ids[at], first.form
    outputs: dict[str, Any] = {
        output: np.stack([one.outputs[output][place] for _, one, place in rows])
        for output in first.outputs
    }
    assert form is not None  # noqa: S101 - the rows are of requests
    try:
        return _line(number, name, 200, b"".join(form.answer(outputs)))
    except CapameshError as exc:  # JSON cannot hold what the model gave
        return error_line(BadRow(number, name, exc.code, exc.message))


def _line(number: int, name: str, status: int, body: bytes) -> bytes:
    request = _id_of(number)
    head = f'{{"id":"{request}","custom_id":{json.dumps(name)},"response":{{"status_code":{status},'
    return b'%b"request_id":"%b","body":%b},"error":null}\n' % (
        head.encode(),
        request.encode(),
        body,
    )


def _id_of(number: int) -> str:
    return f"batch_req_{number:012d}"
