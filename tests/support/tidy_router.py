"""A router that must leave nothing behind, and requests of every kind that tell which answer is theirs."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from patience import until
from raw_http import RawAnswer, chunked, request
from router_http import INFER, Http, serving

X: Final = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
RELEVANT: Final = (
    "x-capamesh-node",
    "x-capamesh-error",
    "retry-after",
    "content-type",
    "content-length",
    "inference-header-content-length",
    "allow",
)
"""The headers that mean something; dates, servers and how long a connection is kept do not."""


@asynccontextmanager
async def tidy(*, collects: bool = False, **options: Any) -> AsyncIterator[Http]:
    """Serve, and see at the end that nothing is under way, nothing is held, nothing was lost and no one complained.

    `collects`: what is garbage by then is looked at, too (an exception that nobody fetched, an open transport).
    """
    if collects:
        gc.freeze()  # what is older is none of this router's, and takes long to look through
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with serving(**options) as http:
        own = asyncio.all_tasks()

        def left() -> set[asyncio.Task[Any]]:
            return asyncio.all_tasks() - own - {asyncio.current_task()}

        yield http
        await http.client.session.close()
        try:
            await until(lambda: not (http.under_way or left()))
        except TimeoutError:
            pytest.fail(f"it is under way: {http.under_way}, {left()}")
        assert http.log.events == []
    if collects:
        gc.collect()
    assert complaints == []


def json_body(name: str, **changes: object) -> bytes:
    """Return an inference request whose answer carries `name`."""
    return json.dumps({"id": name, "inputs": [X], **changes}).encode()


def infer(name: str, *headers: bytes) -> bytes:
    return request(INFER, json_body(name), *headers)


def of_kind(kind: str, name: str) -> bytes:
    make, _, _ = _KINDS[kind]
    return make(name, json_body(name))


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def _of_a_version(_: str, body: bytes) -> bytes:
    return request("/v2/models/m/versions/1/infer", body, b"Content-Type: application/json")


_KINDS: Final[dict[str, tuple[Callable[[str, bytes], bytes], int, str]]] = {
    "infer": (lambda _, body: request(INFER, body), 200, '"id":"{}"'),
    "infer of a version": (_of_a_version, 200, '"id":"{}"'),
    "infer in chunks": (lambda _, body: chunked(INFER, body, size=17), 200, '"id":"{}"'),
    "unknown model": (
        lambda name, body: request(f"/v2/models/{name}/infer", body),
        404,
        "no node hosts model '{}'",
    ),
    "no JSON": (lambda name, _: request(INFER, f"{{{name}".encode()), 400, "not JSON"),
    "wrong method": (
        lambda name, body: request(f"{INFER}?{name}", body, method=b"PUT"),
        405,
        "takes POST, not PUT",
    ),
    "metadata": (lambda *_: _get("/v2/models/m"), 200, '"platform"'),
    "index": (lambda *_: request("/v2/repository/index", b"{}"), 200, '"state"'),
    "nothing there": (lambda name, _: _get(f"/{name}"), 404, "there is nothing at /{};"),
}
KINDS: Final = tuple(_KINDS)


def check(answer: RawAnswer, kind: str, name: str) -> None:
    """See that this is the answer to the request of that kind and name."""
    _, status, said = _KINDS[kind]
    assert (answer.status, said.format(name) in answer.body.decode()) == (status, True), answer


def essence(answer: RawAnswer) -> tuple[int, dict[str, str | None], bytes]:
    """Return what of an answer must be equal however its request came."""
    return answer.status, {name: answer.get(name) for name in RELEVANT}, answer.body
