"""A file of requests is checked line by line, however its bytes are cut."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from capamesh.protocol.steps import run_through
from capamesh.router.jobs.inputs.limits import MAX_REQUEST_BYTES
from capamesh.router.jobs.stored_files import Requests
from capamesh.router.jobs.uploads.custom_ids import DIGEST_BYTES, CustomIds
from capamesh.router.jobs.uploads.request_lines import RequestLines
from capamesh.router.requests.invalid_parameter import InvalidParameter

URL = "/v1/embeddings"


def request(name: str, **changed: Any) -> dict[str, Any]:
    body = {"model": "words", "input": "a cat"}
    return {"custom_id": name, "method": "POST", "url": URL, "body": body, **changed}


def text(*requests: object) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in requests)


def found(data: bytes, size: int = 1 << 20, **options: Any) -> Requests:
    lines = RequestLines(bytes, **options)
    for at in range(0, len(data), size):
        run_through(lines.take(data[at : at + size]))
    return run_through(lines.finish())


def refusal(data: bytes, size: int = 1 << 20, **options: Any) -> str:
    with pytest.raises(InvalidParameter) as told:
        found(data, size, **options)
    assert told.value.param == "file"
    return told.value.message


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_requests_are_found_however_the_bytes_are_cut(size: int) -> None:
    data = text(*(request(f"r{number}") for number in range(5)))
    assert found(data, size) == Requests(5, URL, "words")
    assert found(data[:-1], size) == Requests(5, URL, "words")  # no line end behind the last


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{\n", "line 2: not JSON"),
        (b"[1]\n", "line 2: the line is [1]; an object is expected"),
        (text(request("a")), "line 2: custom_id 'a' is that of an earlier line"),
        (text(request("")), "line 2: custom_id is ''"),
        (text(request("x" * 257)), "line 2: custom_id is 'xxx"),
        (text({**request("b"), "custom_id": 5}), "line 2: custom_id is 5"),
        (text(request("b", method="GET")), "line 2: method is 'GET'"),
        (text(request("b", url="/v1/chat/completions")), "line 2: url is '/v1/chat/completions'"),
        (text(request("b", url=7)), "line 2: url is 7"),
        (text(request("b", body="x")), "line 2: body is 'x'; an object"),
        (text(request("b", body={"input": "x"})), "line 2: body.model is None"),
        (
            text(request("b", body={"model": "other", "input": "x"})),
            "line 2: body.model is 'other', and 'words' in the lines before",
        ),
        (text(request("b", body={"model": "words"})), "line 2: input is missing or empty"),
        (
            text(request("b", body={"model": "words", "input": "x", "dimensions": 0})),
            "line 2: dimensions is 0",
        ),
        (b'{"a":' * 3000 + b"\n", "line 2: "),
    ],
)
def test_wrong_line_refuses_the_file_by_its_number(line: bytes, words: str) -> None:
    assert refusal(text(request("a")) + line).startswith(words)


def test_file_without_requests_is_refused() -> None:
    assert "no requests" in refusal(b"")
    assert "no requests" in refusal(b"\n \n")


def test_line_that_never_ends_is_refused_before_it_is_held_whole() -> None:
    lines = RequestLines(bytes)
    data = b"x" * (1 << 20)
    run_through(lines.take(data))
    run_through(lines.take(data))
    with pytest.raises(
        InvalidParameter, match=rf"line 1: .* at most {MAX_REQUEST_BYTES} are taken"
    ):
        run_through(lines.take(data))


def test_more_lines_than_a_file_may_have_are_refused() -> None:
    data = text(*(request(f"r{number}") for number in range(4)))
    assert found(data, max_lines=4).lines == 4
    assert refusal(data, max_lines=3) == (
        "line 4: a file of requests has at most 3 lines; divide it into several"
    )
    assert "at most 3 lines" in refusal(b"\n" * 4, max_lines=3)


def test_long_data_is_checked_in_steps() -> None:
    lines = RequestLines(bytes)
    data = text(*(request(f"r{number}") for number in range(2000)))
    assert sum(1 for _ in lines.take(data)) > len(data) // (32 * 1024)


SALT = bytes(range(16))


def test_each_name_is_new_once() -> None:
    ids = CustomIds(SALT)
    names = [f"request-{number}" for number in range(20_000)]
    assert all(ids.add(name) for name in names)
    random.Random(7).shuffle(names)
    assert not any(ids.add(name) for name in names[:1000])


def test_names_of_any_length_take_as_much_memory() -> None:
    ids = CustomIds(SALT)
    for number in range(20_000):
        ids.add(f"{number}{'x' * 200}")
    assert 20_000 * DIGEST_BYTES * 3 // 2 <= ids.size_bytes <= 20_000 * DIGEST_BYTES * 3
