"""Messages of gRPC that are packed: what real clients send, and what unpacks to no message, or to far too much."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from ask_by_wire import BY_GRPC
from fleet_fakes import echo
from grpc_attacker import Attacker, attacking
from http2_client import HEAD
from raw_http import GUARD_S
from router_http import Http
from tidy_router import tidy
from tritonclient.grpc import aio as triton_aio

from capamesh.protocol.tensors import Limits
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.methods import SERVICE
from capamesh.router.http import unpacking

PATHS = {name: f"/{SERVICE}/{name}".encode() for name in ("ModelInfer", "ModelStreamInfer")}
INVALID, EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = b"3", b"8", b"12", b"13", b"14"


def head(coding: str = "gzip", method: str = "ModelInfer") -> tuple[tuple[bytes, bytes], ...]:
    fields = tuple((name, PATHS[method] if name == b":path" else of) for name, of in HEAD)
    return (*fields, (b"grpc-encoding", coding.encode())) if coding else fields


def message(rows: int = 1, **fields: Any) -> bytes:
    described = {"name": "x", "datatype": "FP32", "shape": [rows, 2]}
    built = CLASSES["ModelInferRequest"](
        model_name="m", inputs=[described], raw_input_contents=[bytes(8 * rows)], **fields
    )
    return bytes(built.SerializeToString())


def framed(data: bytes, *, is_packed: bool = True) -> bytes:
    return bytes((is_packed,)) + len(data).to_bytes(4, "big") + data


def is_over(attacker: Attacker, stream: int = 1) -> bool:
    return any(b"grpc-status" in each for each in attacker.heads.get(stream, []))


def trailers(attacker: Attacker) -> dict[bytes, bytes]:
    return attacker.heads[1][-1]


@BY_GRPC
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("count", [2, 1_000_000])
async def test_triton_s_client_packs_its_requests(http: Http, coding: str, count: int) -> None:
    http.node("a", echo)
    rows = np.random.default_rng(1).random((count // 2, 2), np.float32)
    tensor = triton.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    async with triton_aio.InferenceServerClient(f"{http.client.host}:{http.client.port}") as client:
        result = await client.infer("m", [tensor], compression_algorithm=coding)
    assert np.array_equal(result.as_numpy("y"), rows)
    await nothing_held(http)


async def nothing_held(http: Http) -> None:
    async with asyncio.timeout(GUARD_S):
        while http.front.requests.count or http.front.budget.used_bytes:
            await asyncio.sleep(0)


@pytest.mark.parametrize(("rows", "is_packed"), [(1, False), (5000, True)])
async def test_long_answer_comes_as_the_request_came(
    http: Http, rows: int, is_packed: bool
) -> None:
    http.node("a", echo)
    async with attacking(http, initial_window_size=2**20) as attacker:
        for stream, coding in ((1, "gzip"), (3, "deflate"), (5, "")):
            data = message(rows)
            pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding)
            asked = framed(data if pack is None else pack(data), is_packed=pack is not None)
            attacker.send(
                attacker.head(stream, head(coding)), attacker.data(stream, asked, is_last=True)
            )
            await attacker.read_until(lambda at=stream: is_over(attacker, at))
            begin, end = attacker.heads[stream]
            assert end[b"grpc-status"] == b"0"
            told = is_packed and pack is not None
            assert begin.get(b"grpc-encoding", b"") == (coding.encode() if told else b"")
            answer = attacker.bodies[stream]
            assert answer[:5] == framed(answer[5:], is_packed=told)[:5]
            unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(coding)
            plain = unpack(answer[5:]) if told and unpack is not None else answer[5:]
            (output,) = CLASSES["ModelInferResponse"].FromString(plain).raw_output_contents
            assert output == bytes(8 * rows)


@pytest.mark.parametrize(
    ("coding", "packed", "status", "text"),
    [
        ("gzip", b"junk", INVALID, b"cannot be decoded: gzip: Error -3"),
        ("deflate", b"junk", INVALID, b"cannot be decoded: deflate: "),
        ("gzip", gzip.compress(message(), mtime=0)[:-9], INVALID, b"gzip: it ends too early"),
        (
            "gzip",
            gzip.compress(message(), mtime=0) + b"x",
            INVALID,
            b"gzip: it goes on behind its end",
        ),
        ("gzip", b"", INVALID, b"gzip: it ends too early"),
        ("gzip", gzip.compress(b"\x0a\xff", mtime=0), INVALID, b"no ModelInferRequest"),
        (
            "gzip",
            gzip.compress(bytes(50 * 2**20), mtime=0),
            EXHAUSTED,
            b"unpacks to more than 200 times",
        ),
        ("deflate", zlib.compress(bytes(50 * 2**20)), EXHAUSTED, b"more than 200 times"),
        ("", gzip.compress(message(), mtime=0), INTERNAL, b"grpc-encoding does not say how"),
        (
            "identity",
            gzip.compress(message(), mtime=0),
            INTERNAL,
            b"grpc-encoding does not say how",
        ),
        ("br", b"junk", UNIMPLEMENTED, b"grpc-encoding is 'br'; messages may be packed by gzip"),
    ],
)
async def test_packed_message_that_is_none_ends_its_call_alone(
    http: Http, coding: str, packed: bytes, status: bytes, text: bytes
) -> None:
    http.node("a", echo)
    async with attacking(http) as attacker:
        attacker.send(
            attacker.head(1, head(coding)), attacker.data(1, framed(packed), is_last=True)
        )
        await attacker.read_until(lambda: is_over(attacker))
        assert trailers(attacker)[b"grpc-status"] == status
        assert text in trailers(attacker)[b"grpc-message"]
        takes = trailers(attacker).get(b"grpc-accept-encoding")
        assert takes == (b"identity,gzip,deflate" if status == UNIMPLEMENTED else None)
        attacker.send(
            attacker.head(3, head()),
            attacker.data(3, framed(gzip.compress(message(), mtime=0)), is_last=True),
        )
        await attacker.read_until(lambda: is_over(attacker, 3))
        assert attacker.heads[3][-1][b"grpc-status"] == b"0"


async def test_coding_of_which_nothing_is_made_may_be_any(http: Http) -> None:
    http.node("a", echo)
    async with attacking(http) as attacker:
        asked = framed(message(5000), is_packed=False)
        attacker.send(attacker.head(1, head("br")), attacker.data(1, asked, is_last=True))
        await attacker.read_until(lambda: is_over(attacker))
        assert trailers(attacker)[b"grpc-status"] == b"0"


async def test_packed_message_has_the_same_limit_unpacked() -> None:
    async with tidy(limits=Limits(max_message_bytes=1000)) as http:
        http.node("a", echo)
        async with attacking(http) as attacker:
            packed = framed(gzip.compress(message(id="x" * 5000), mtime=0))
            attacker.send(attacker.head(1, head()), attacker.data(1, packed, is_last=True))
            await attacker.read_until(lambda: is_over(attacker))
            assert trailers(attacker)[b"grpc-status"] == EXHAUSTED
            assert b"over the limit of 1000 bytes" in trailers(attacker)[b"grpc-message"]


async def test_client_that_leaves_while_its_message_is_unpacked_holds_nothing(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = http.node("a", echo)
    begun = asyncio.Event()

    async def never(*_: object) -> bytearray:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("capamesh.router.grpc.unpacking.unpacked", never)
    async with attacking(http) as attacker:
        packed = framed(gzip.compress(message(), mtime=0))
        attacker.send(attacker.head(1, head()), attacker.data(1, packed, is_last=True))
        async with asyncio.timeout(GUARD_S):
            await begun.wait()
        assert http.front.requests.count == 1
        attacker.send(attacker.reset(1))
        await nothing_held(http)
    assert link.asks == []


async def test_message_that_waits_too_long_for_room_is_refused(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.node("a", echo)
    http.front.arrival_s = 0.05
    held_bytes = http.front.budget.most_bytes - http.front.budget.used_bytes - unpacking.PIECE_BYTES
    monkeypatch.setattr(http.front.budget, "_most_large_bytes", http.front.budget.most_bytes)
    assert http.front.budget.hold(held_bytes)
    async with attacking(http) as attacker:
        packed = framed(gzip.compress(message(), mtime=0))
        attacker.send(attacker.head(1, head()), attacker.data(1, packed, is_last=True))
        await attacker.read_until(lambda: is_over(attacker))
        assert trailers(attacker)[b"grpc-status"] == UNAVAILABLE
        assert b"as many bytes of requests as it may" in trailers(attacker)[b"grpc-message"]
        http.front.budget.let_go(held_bytes)


async def test_stream_takes_packed_messages_and_goes_on_behind_a_broken_one(http: Http) -> None:
    http.node("a", echo)
    async with attacking(http) as attacker:
        attacker.send(
            attacker.head(1, head(method="ModelStreamInfer")),
            attacker.data(1, framed(gzip.compress(message(id="1"), mtime=0))),
            attacker.data(1, framed(b"junk")),
            attacker.data(1, framed(message(id="3"), is_packed=False), is_last=True),
        )
        await attacker.read_until(lambda: is_over(attacker))
        body, found = attacker.bodies[1], []
        while body:
            size_bytes = int.from_bytes(body[1:5], "big")
            found.append(CLASSES["ModelStreamInferResponse"].FromString(body[5 : 5 + size_bytes]))
            body = body[5 + size_bytes :]
    assert [each.infer_response.id for each in found] == ["1", "", "3"]
    assert "cannot be decoded: gzip" in found[1].error_message


@BY_GRPC
async def test_lookups_may_be_packed_too(http: Http) -> None:
    http.node("a", echo)
    address = f"{http.client.host}:{http.client.port}"
    async with grpc.aio.insecure_channel(address, compression=grpc.Compression.Gzip) as channel:
        ready = channel.unary_unary(f"/{SERVICE}/ModelReady")
        assert (
            await ready(CLASSES["ModelReadyRequest"](name="m").SerializeToString()) == b"\x08\x01"
        )
