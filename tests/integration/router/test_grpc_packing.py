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


async def told(
    attacker: Attacker, body: bytes, coding: str = "gzip", stream: int = 1
) -> dict[bytes, bytes]:
    """Send a message, and return the trailers of its answer."""
    sent = attacker.head(stream, head(coding)), attacker.data(stream, body, is_last=True)
    attacker.send(*sent)
    await attacker.read_until(lambda: is_over(attacker, stream))
    return attacker.heads[stream][-1]


def is_over(attacker: Attacker, stream: int = 1) -> bool:
    return any(b"grpc-status" in each for each in attacker.heads.get(stream, []))


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
            assert (await told(attacker, asked, coding, stream))[b"grpc-status"] == b"0"
            comes_packed = is_packed and pack is not None
            begin = attacker.heads[stream][0]
            assert begin.get(b"grpc-encoding", b"") == (coding.encode() if comes_packed else b"")
            answer = attacker.bodies[stream]
            assert answer[:5] == framed(answer[5:], is_packed=comes_packed)[:5]
            unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}[coding or "gzip"]
            plain = unpack(answer[5:]) if comes_packed else answer[5:]
            (output,) = CLASSES["ModelInferResponse"].FromString(plain).raw_output_contents
            assert output == bytes(8 * rows)


GOOD = gzip.compress(message(), mtime=0)
BOMB = bytes(50 * 2**20)
BROKEN = [
    ("gzip", b"junk", INVALID, b"cannot be decoded: gzip: Error -3"),
    ("deflate", b"junk", INVALID, b"cannot be decoded: deflate: "),
    ("gzip", GOOD[:-9], INVALID, b"gzip: it ends too early"),
    ("gzip", GOOD + b"x", INVALID, b"gzip: it goes on behind its end"),
    ("gzip", b"", INVALID, b"gzip: it ends too early"),
    ("gzip", gzip.compress(b"\x0a\xff", mtime=0), INVALID, b"no ModelInferRequest"),
    ("gzip", gzip.compress(BOMB, mtime=0), EXHAUSTED, b"unpacks to more than 200 times"),
    ("deflate", zlib.compress(BOMB), EXHAUSTED, b"more than 200 times"),
    *((each, GOOD, INTERNAL, b"grpc-encoding does not say how") for each in ("", "identity")),
    ("br", b"junk", UNIMPLEMENTED, b"grpc-encoding is 'br'; messages may be packed by gzip"),
]


@pytest.mark.parametrize(("coding", "packed", "status", "text"), BROKEN)
async def test_packed_message_that_is_none_ends_its_call_alone(
    http: Http, coding: str, packed: bytes, status: bytes, text: bytes
) -> None:
    http.node("a", echo)
    async with attacking(http) as attacker:
        refused = await told(attacker, framed(packed), coding)
        assert (refused[b"grpc-status"], text in refused[b"grpc-message"]) == (status, True), (
            refused
        )
        takes = refused.get(b"grpc-accept-encoding")
        assert takes == (b"identity,gzip,deflate" if status == UNIMPLEMENTED else None)
        assert (await told(attacker, framed(GOOD), stream=3))[b"grpc-status"] == b"0"


async def test_coding_of_which_nothing_is_made_may_be_any(http: Http) -> None:
    http.node("a", echo)
    async with attacking(http) as attacker:
        asked = framed(message(5000), is_packed=False)
        assert (await told(attacker, asked, "br"))[b"grpc-status"] == b"0"


async def test_packed_message_has_the_same_limit_unpacked() -> None:
    async with tidy(limits=Limits(max_message_bytes=1000)) as http:
        http.node("a", echo)
        async with attacking(http) as attacker:
            refused = await told(attacker, framed(gzip.compress(message(id="x" * 5000), mtime=0)))
            assert refused[b"grpc-status"] == EXHAUSTED
            assert b"over the limit of 1000 bytes" in refused[b"grpc-message"]


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
        attacker.send(attacker.head(1, head()), attacker.data(1, framed(GOOD), is_last=True))
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
        refused = await told(attacker, framed(GOOD))
        assert refused[b"grpc-status"] == UNAVAILABLE
        assert b"as many bytes of requests as it may" in refused[b"grpc-message"]
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
        asked = CLASSES["ModelReadyRequest"](name="m").SerializeToString()
        assert await ready(asked) == b"\x08\x01"
