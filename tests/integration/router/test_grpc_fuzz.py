"""Makes up what clients of gRPC may send, from a seed, and has routers answer it: over HTTP/2 by hand, and over a library.

Half of the cases keep to the protocol: all routers answer every call, and alike. In the others some bytes are changed, lost
or sent twice: nothing crashes, and what two answer they answer alike. After each nothing is held. Messages are read by
hand and by protobuf, sound and broken ones, and both read the same. A case that fails is told with its seed.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hpack
from fleet_fakes import in_virtual_time
from front_world import World
from fuzz_cases import seeds
from http2_by_h2 import SessionByH2
from http2_client import HEAD, Http2Client
from http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST,
    SETTINGS,
    UNKNOWN,
    WINDOW,
    frame,
    number,
    setting,
)
from link_wire import deliver
from tests.unit.router.grpc.test_messages import check_message

from capamesh.router.grpc.http2 import PREFACE, Http2Session
from capamesh.router.grpc.http2_by_hand import SessionByHand
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.methods import SERVICE

METHODS = {
    "ModelInfer": 8,
    "ModelStreamInfer": 3,
    "ServerLive": 1,
    "ModelMetadata": 1,
    "RepositoryIndex": 1,
    "NoSuch": 1,
}
"""The methods that are called, and how often."""
MOST_STREAMS = 6
MOST_CHANGES = 4


def message_of(rng: random.Random) -> bytes:
    """Return a request for an inference, sound or not quite."""
    rows = rng.randint(1, 3)
    values = struct.pack("<2f", 1.0, 2.0) * rows
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [rows, 2]}
    fields: dict[str, Any] = {"model_name": "m", "inputs": [tensor], "raw_input_contents": [values]}
    match rng.randrange(8):
        case 0:
            fields["id"] = str(rng.randrange(99))
        case 1:
            tensor["contents"] = {"fp32_contents": [1.0, 2.0] * rows}
            fields["raw_input_contents"] = []
        case 2:
            fields["model_name"] = "nobody's"
        case 3:
            fields["raw_input_contents"] = [values[:-4]]
        case 4:
            fields["outputs"] = [{"name": rng.choice(("y", "z"))}]
        case 5:
            fields["parameters"] = {"priority": CLASSES["InferParameter"](int64_param=3)}
        case _:
            pass
    return bytes(CLASSES["ModelInferRequest"](**fields).SerializeToString())


def changed(rng: random.Random, data: bytes, begin: int = 0) -> bytes:
    """Return bytes of which some were changed, lost, sent twice or made up, from a place on."""
    out = bytearray(data)
    for _ in range(rng.randint(1, MOST_CHANGES)):
        if len(out) <= begin:
            break
        at = rng.randrange(begin, len(out))
        end = min(len(out), at + rng.randint(1, 12))
        match rng.randrange(5):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del out[at:end]
            case 3:
                out[at:at] = out[at:end]
            case _:
                out[at:at] = rng.randbytes(rng.randint(1, 12))
    return bytes(out)


@dataclass
class Case:
    """What one client sends."""

    data: bytes
    is_sound: bool
    calls: set[int] = field(default_factory=set)
    """The streams of a sound case that are to be answered: those that the client has not given up."""


class Script:
    """What a client sends that keeps to the protocol, in any order that this allows."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._encoder = hpack.Encoder()
        self._out = [PREFACE, setting(4, rng.choice((0, 3, 1000, 65_535, 2**20)))]
        self._out.append(frame(SETTINGS, ACK, 0))
        self._to_come: dict[int, list[bytes]] = {}
        """The frames that streams still have to send."""
        self.calls: set[int] = set()
        for at in range(rng.randint(1, MOST_STREAMS)):
            self._open(1 + 2 * at)
            while self._to_come and rng.random() < 0.7:
                self._step()
        while self._to_come:
            self._step()

    def sent(self) -> bytes:
        """Return all of it."""
        return b"".join(self._out)

    def _step(self) -> None:
        rng = self._rng
        stream = rng.choice(list(self._to_come))
        match rng.randrange(20):
            case 0:
                self._out.append(frame(PING, 0, 0, rng.randbytes(8)))
            case 1:
                self._out.append(frame(WINDOW, 0, rng.choice((0, stream)), number(5)))
            case 2:
                self._out.append(frame(PRIORITY, 0, stream, number(0) + b"\x10"))
            case 3:
                self._out.append(frame(UNKNOWN, rng.randrange(256), stream, rng.randbytes(9)))
            case 4:
                self._out.append(setting(4, rng.choice((10, 65_535, 2**20))))
            case 5:
                self._out.append(frame(RST, 0, stream, number(8)))
                del self._to_come[stream]
                self.calls.discard(stream)
            case _:
                frames = self._to_come[stream]
                self._out.append(frames.pop(0))
                if not frames:
                    del self._to_come[stream]

    def _open(self, stream: int) -> None:
        rng = self._rng
        method = rng.choices(list(METHODS), list(METHODS.values()))[0]
        head = [
            (name, f"/{SERVICE}/{method}".encode() if name == b":path" else value)
            for name, value in HEAD
        ]
        if rng.random() < 0.2:
            head.append((b"grpc-timeout", rng.choice((b"9S", b"10000m", b"1", b"S"))))
        if rng.random() < 0.2:
            head.append((b"x-test", b"v" * rng.randrange(300)))
        if rng.random() < 0.05:
            head[4] = (b"content-type", b"text/plain")
        block = self._encoder.encode(head)
        pieces = [block]
        while rng.random() < 0.2 and len(pieces[-1]) > 1:
            last = pieces.pop()
            cut = rng.randrange(1, len(last))
            pieces += (last[:cut], last[cut:])
        for at, piece in enumerate(pieces):
            flags = END_HEADERS if at == len(pieces) - 1 else 0
            self._out.append(frame(HEADERS if at == 0 else CONTINUATION, flags, stream, piece))
        self.calls.add(stream)
        self._to_come[stream] = self._frames(stream, method)

    def _frames(self, stream: int, method: str) -> list[bytes]:
        """Return the frames of DATA that follow a head."""
        rng = self._rng
        count = rng.randrange(4) if method == "ModelStreamInfer" else 1
        messages = [message_of(rng) if "Infer" in method else b"" for _ in range(count)]
        if method == "ModelMetadata":
            messages = [b"\x0a\x01m"]
        body = b"".join(b"\0" + number(len(each)) + each for each in messages)
        if rng.random() < 0.1:
            body = changed(rng, body)
        frames: list[bytes] = []
        while body:
            size = rng.choice((len(body), rng.randint(1, len(body))))
            piece, body = body[:size], body[size:]
            if rng.random() < 0.2:
                padding = rng.randrange(20)
                piece = bytes((padding,)) + piece + bytes(padding)
                frames.append(frame(DATA, PADDED, stream, piece))
            else:
                frames.append(frame(DATA, 0, stream, piece))
        if frames and rng.random() < 0.7:
            frames[-1] = frames[-1][:4] + bytes((frames[-1][4] | END_STREAM,)) + frames[-1][5:]
        else:
            frames.append(frame(DATA, END_STREAM, stream))
        return frames


def case_of(rng: random.Random) -> Case:
    """Return a case that is sound, or that was."""
    script = Script(rng)
    if rng.random() < 0.5:
        return Case(script.sent(), True, script.calls)
    return Case(changed(rng, script.sent(), len(PREFACE)), False)


ROUNDS = 8
"""The times that nodes answer and the client opens its windows: more than any case needs."""
NODE = b"x-capamesh-node"


Answered = dict[int, tuple[list[dict[bytes, bytes]], bytes]]
"""The heads and the body of each stream that was answered to its end."""


class Router:
    """A router over one of the libraries, and all clients that it has had."""

    def __init__(self, make: Callable[[], Http2Session]) -> None:
        self._world = World(make_session=make)

    @property
    def misbehaved(self) -> int:
        return self._world.grpc.misbehaved

    async def play(self, case: Case, cuts: list[int]) -> Answered:
        """Take what a client sends in reads that end at `cuts`; return what is answered. Nothing may be held then."""
        world = self._world
        world.connect()
        wire, client = world.client, Http2Client(2**32 - 1)  # whatever the case's settings allow
        for begin, end in zip([0, *cuts], [*cuts, len(case.data)], strict=True):
            if not wire.is_closed:
                deliver(world.connection, case.data[begin:end])
            await asyncio.sleep(0)
        ended: set[int] = set()
        for _ in range(ROUNDS):
            await world.answer()
            await asyncio.sleep(0.001)
            client.take(bytes(wire.sent))
            wire.sent.clear()
            ended |= {each.stream_id for each in client.frames if "END_STREAM" in each.flags}
            if wire.is_closed or not case.is_sound:
                continue
            waiting = sorted(case.calls - ended)
            for stream in (0, *waiting):
                deliver(world.connection, frame(WINDOW, 0, stream, number(100_000)))
        world.connection.connection_lost(None)
        await world.answer()
        await asyncio.sleep(0.001)
        assert world.front.requests.count == 0
        assert world.front.budget.used_bytes == 0
        assert world.fleet.balancer.under_way == 0
        heads = {
            stream: [
                {name: of for name, of in each.items() if name != NODE}
                for each in client.heads[stream]
            ]
            for stream in ended
        }
        return {stream: (heads[stream], client.bodies.get(stream, b"")) for stream in ended}


async def compare(case: Case, cuts: list[int], routers: Sequence[Router]) -> int:
    """Have all routers answer a case, alike; return how many calls all have answered."""
    before = [router.misbehaved for router in routers]
    answered = [await router.play(case, cuts) for router in routers]
    if case.is_sound:
        assert all(each.keys() >= case.calls for each in answered)
        assert [router.misbehaved for router in routers] == before, "it keeps to the protocol"
    first, *others = answered
    for other in others:
        for stream in case.calls if case.is_sound else first.keys() & other.keys():
            assert first[stream] == other[stream], f"stream {stream}"
    return sum(all(stream in each for each in others) for stream in first)


@in_virtual_time
async def test_routers_answer_made_up_clients_alike_however_they_speak_http2() -> None:
    routers = [Router(make) for make in (SessionByHand, SessionByH2)]
    counts: Counter[str] = Counter()
    for seed in seeds(60):
        rng = random.Random(seed)
        case = case_of(rng)
        cuts = sorted(rng.sample(range(1, len(case.data)), rng.randint(0, 3)))
        try:
            counts["answered by all"] += await compare(case, cuts, routers)
            for _ in range(10):
                encoded = message_of(rng)
                for each in (encoded, changed(rng, encoded)):
                    counts["sound messages"] += check_message(each)
                    counts["messages"] += 1
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        counts["cases"] += 1
        counts["sound"] += case.is_sound
    assert 0.3 * counts["cases"] < counts["sound"] < 0.7 * counts["cases"]
    assert counts["answered by all"] > counts["cases"]
    assert counts["sound messages"] > 0.5 * counts["messages"]
