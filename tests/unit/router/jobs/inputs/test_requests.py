"""A file of requests as an input: a row of the job is a request, whatever it has in texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_requests import request, text_of

from capamesh.protocol.tensors import Datatype
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs import requests
from capamesh.router.jobs.inputs.limits import MAX_REQUEST_BYTES, ShardLimits
from capamesh.router.jobs.inputs.requests import RequestsReader
from capamesh.router.jobs.inputs.rows import REQUEST_ROWS, RowBatch, RowWindow, read_windows
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.spec import InputFormat, InputSpec
from capamesh.router.jobs.values import RowRange


def written(folder: Path, data: bytes) -> Path:
    path = folder / "in.jsonl"
    path.write_bytes(data)
    return path


def spec_of(path: Path) -> InputSpec:
    return InputSpec(str(path), InputFormat.BATCH, {"rows": ("body",)})


def ranges(path: Path, rows: int = 1000, in_bytes: int = 2**20) -> list[RowRange]:
    return list(RequestsReader(LocalFile(path)).ranges(ShardLimits(rows, in_bytes)))


def window(path: Path) -> RowWindow:
    (whole,) = ranges(path, in_bytes=2**26)
    (found,) = read_windows(RequestsReader(LocalFile(path)), whole, spec_of(path), {})
    return found


def shown(batch: RowBatch) -> list[tuple[int, str, int, bytes]]:
    values = batch.inputs[REQUEST_ROWS].tolist()
    return list(zip(batch.numbers, batch.ids, batch.places, values, strict=True))


def test_request_has_a_row_of_its_node_for_each_text(tmp_path: Path) -> None:
    path = written(tmp_path, text_of(request("a"), request("b", ["x", "y"]), request("c", ["z"])))
    found = window(path)
    (batch,) = found.batches
    assert shown(batch) == [
        (0, "a", 0, b"a cat"),
        (1, "b", 0, b"x"),
        (1, "b", 1, b"y"),
        (2, "c", 0, b"z"),
    ]
    assert batch.form is not None
    assert batch.form.outputs == ("embedding", "tokens")
    (texts,) = batch.form.tensors([b"x", b"yz"])
    assert (texts.name, texts.datatype, texts.shape) == ("text", Datatype.BYTES, (2,))


def test_requests_of_one_form_run_together(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        text_of(
            request("a"),
            request("b", body={"dimensions": 2}),
            request("c", [[7, 8]]),
            request("d", body={"encoding_format": "base64"}),
            request("e", "z"),
        ),
    )
    names = ["".join(name for _, name, _, _ in shown(batch)) for batch in window(path).batches]
    assert names == ["ae", "b", "c", "d"]
    shorter, tokens = (batch.form for batch in window(path).batches[1:3])
    assert shorter is not None
    assert tokens is not None
    named = {each.name: each for each in shorter.tensors([b"x"])}
    assert named["dimensions"].to_numpy().tolist() == [2]
    assert [each.name for each in tokens.tensors([b"\7\0\0\0"])] == ["token_ids"]


def test_line_that_is_wrong_is_a_bad_row_by_its_name(tmp_path: Path) -> None:
    lines = [
        request("a", body={"input": ""}),
        {"custom_id": "b", "url": "/v1/embeddings"},
        {"custom_id": "c", "url": "/v1/other", "body": {}},
    ]
    found = window(written(tmp_path, text_of(*lines) + b"{\n" + text_of(request("e"))))
    assert [(each.row, each.row_id) for each in found.bad] == [*enumerate("abc"), (3, "3")]
    assert {each.code for each in found.bad} == {"input_invalid"}
    assert "input is an empty text" in found.bad[0].text
    assert [shown(batch)[0][:2] for batch in found.batches] == [(4, "e")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"prompt": "Hi", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "Hi", "stream": True}, "stream is true"),
        ({"text": "Hi"}, "fields are 'text'; an object with messages, a prompt"),
        ({}, "fields are none;"),
        ([1], "fields are none;"),
        ({"prompt": "x" * MAX_REQUEST_BYTES}, f"at most {MAX_REQUEST_BYTES} are taken"),
    ],
)
def test_line_that_asks_for_nothing_is_a_bad_row(tmp_path: Path, line: object, words: str) -> None:
    path = written(tmp_path, text_of(line, {"prompt": "x" * 2**20}))  # a long prompt is none
    found = window(path)
    (bad,) = found.bad
    assert (bad.row, bad.code) == (0, "input_invalid")
    assert words in bad.text
    assert [batch.numbers for batch in found.batches] == [[1]]


def test_line_without_an_end_ends_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_SHARD_BYTES", 100)
    path = written(tmp_path, text_of({"prompt": "a"}) + b"x" * 101)
    with pytest.raises(InputInvalid, match="more than 100 bytes"):
        ranges(path)


def test_shards_are_cut_by_the_rows_that_nodes_run(tmp_path: Path) -> None:
    sizes = [1, 2, 4, 1, 1, 9, 1]
    requests = (request(f"r{at}", ["x"] * size) for at, size in enumerate(sizes))
    path = written(tmp_path, text_of(*requests))
    found = ranges(path, rows=5)
    assert [each.rows for each in found] == [2, 2, 1, 1, 1]
    assert [each.first_row for each in found] == [0, 2, 4, 5, 6]
    assert sum(each.size_bytes for each in found) == path.stat().st_size
    reader = RequestsReader(LocalFile(path))
    numbers = [
        number
        for each in found
        for some in read_windows(reader, each, spec_of(path), {})
        for batch in some.batches
        for number in dict.fromkeys(batch.numbers)
    ]
    assert numbers == list(range(len(sizes)))


def test_columns_of_a_data_set_stand_beside_what_is_asked(tmp_path: Path) -> None:
    lines = (
        b'{"prompt": "a", "label": 3, "max_tokens": 2}\n'
        b'{"prompt": "b", "bad_words": ["x"]}\n'
        b'{"url": "/v1/completions", "body": {"prompt": "c", "label": 3}}\n'
    )
    found = window(written(tmp_path, lines))
    assert [values for batch in found.batches for *_, values in shown(batch)] == [
        b'{"prompt":"a","max_tokens":2}'
    ]
    assert [(one.row, one.text.split(" ")[0]) for one in found.bad] == [
        (1, "bad_words"),
        (2, "label"),
    ]
