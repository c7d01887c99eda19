"""Checks a file of requests while it arrives: each line by itself, and that all are of one endpoint and one model. Pure.

What is held is a line, and a digest for each `custom_id`. A line that is wrong refuses the file, by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.schema import Mismatch, json_value, shown
from capamesh.router.jobs.endpoints import ENDPOINTS
from capamesh.router.jobs.inputs.limits import MAX_REQUEST_BYTES
from capamesh.router.jobs.row_forms import Endpoint
from capamesh.router.jobs.stored_files import Requests
from capamesh.router.jobs.uploads.custom_ids import CustomIds
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from capamesh.protocol.steps import Steps

MAX_LINES: Final = 1_000_000
"""The most lines of a file of requests: 20 times OpenAI's, and 50 MB of digests while they are checked."""
MAX_ID_CHARS: Final = 256
STEP_BYTES: Final = 16 * 1024
"""The bytes of lines that are checked in a step, where a line is no longer (guess: 1 ms)."""
FILE: Final = "file"
"""The parameter that errors name."""


class RequestLines:
    """The check of one file."""

    def __init__(self, salt: Callable[[int], bytes], max_lines: int = MAX_LINES) -> None:
        """`salt` returns so many bytes that nobody can guess."""
        self._ids = CustomIds(salt(16))
        self._max_lines = max_lines
        self._rest = bytearray()
        """The beginning of a line that is not whole."""
        self._number = 0
        """The number of the last line, from 1, empty ones included."""
        self._lines = 0
        self._endpoint: Endpoint | None = None
        self._model = ""

    def take(self, data: bytes) -> Steps[None]:
        """Check the lines that end in the next bytes of the file.

        Raises `InvalidParameter`, which names the line; nothing is to be taken after that.
        """
        pieces = data.split(b"\n")
        last = pieces.pop()
        since = 0
        for piece in pieces:
            line: bytes | bytearray = piece
            if self._rest:
                self._rest += piece
                line, self._rest = self._rest, bytearray()
            yield from self._line(line)
            since += len(line) + 1
            if since >= STEP_BYTES:
                since = 0
                yield
        self._rest += last
        if len(self._rest) > MAX_REQUEST_BYTES:
            self._number += 1
            raise self._wrong(self._too_long(len(self._rest)))

    def finish(self) -> Steps[Requests]:
        """Check what is left when the file has ended, and return what is in it; raises as `take`."""
        if self._rest:
            yield from self._line(self._rest)
        if self._endpoint is None:
            raise InvalidParameter(FILE, "the file has no requests; a batch has one a line")
        return Requests(self._lines, self._endpoint.path, self._model)

    def _line(self, line: bytes | bytearray) -> Steps[None]:
        self._number += 1
        if self._number > self._max_lines:
            raise self._wrong(
                f"a file of requests has at most {self._max_lines} lines; divide it into several"
            )
        if len(line) > MAX_REQUEST_BYTES:
            raise self._wrong(self._too_long(len(line)))
        if not line.strip():
            return
        try:
            request = _object(json_value(bytes(line)), "the line")
            self._check_name(request)
            endpoint = self._check_endpoint(request)
            body = _object(request.get("body"), "body")
            self._check_model(body)
            yield from endpoint.read(body)
        except (Mismatch, InvalidRequest) as exc:
            raise self._wrong(str(exc)) from exc
        self._lines += 1

    def _check_name(self, request: Mapping[str, Any]) -> None:
        name = request.get("custom_id")
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ID_CHARS:
            raise Mismatch(
                f"custom_id is {shown(name)}; a text of 1 to {MAX_ID_CHARS} characters is expected"
            )
        if not self._ids.add(name):
            raise Mismatch(f"custom_id {shown(name)} is that of an earlier line; each has its own")

    def _check_endpoint(self, request: Mapping[str, Any]) -> Endpoint:
        if request.get("method") != "POST":
            raise Mismatch(f"method is {shown(request.get('method'))}; it must be 'POST'")
        url = request.get("url")
        endpoint = ENDPOINTS.get(url) if isinstance(url, str) else None
        if endpoint is None:
            raise Mismatch(f"url is {shown(url)}; it may be {', '.join(ENDPOINTS)}")
        if self._endpoint is None:
            self._endpoint = endpoint
        elif endpoint is not self._endpoint:
            raise Mismatch(
                f"url is {shown(url)}, and {self._endpoint.path} in the lines before; a file has one"
            )
        return endpoint

    def _check_model(self, body: Mapping[str, Any]) -> None:
        model = body.get("model")
        if not isinstance(model, str) or not 0 < len(model) <= MAX_ID_CHARS:
            raise Mismatch(
                f"body.model is {shown(model)}; the name of a model is expected: GET /v1/models lists them"
            )
        if not self._model:
            self._model = model
        elif model != self._model:
            raise Mismatch(
                f"body.model is {shown(model)}, and {shown(self._model)} in the lines before; a file has one"
            )

    def _wrong(self, words: str) -> InvalidParameter:
        return InvalidParameter(FILE, f"line {self._number}: {words}")

    @staticmethod
    def _too_long(size_bytes: int) -> str:
        return f"the line has {size_bytes} bytes or more; at most {MAX_REQUEST_BYTES} are taken: give fewer texts"


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Mismatch(f"{what} is {shown(value)}; an object is expected")
    return cast("Mapping[str, Any]", value)
