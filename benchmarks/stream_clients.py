"""Clients of answers in parts, one for each wire: server-sent events, gRPC and WebSocket. IO: sockets.

The model counts from `x` to `until`, a step a part, so that each part tells whose it is and which.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
from abc import ABC, abstractmethod
from typing import Any, Final

import grpc
import numpy as np
from typing_extensions import override

from capamesh.router.grpc.messages import CLASSES

METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
CALLS_OF_CHANNEL: Final = 50
READ_BYTES: Final = 2**16
FLOATS: Final = np.dtype("<f4")
_SSE_VALUE: Final = re.compile(rb'"y":([0-9.e+]+)')
_RETRY_AFTER: Final = re.compile(rb"Retry-After: (\d+)")
_NUMBERS: Final = {"narrow": 1, "wide": 1000}
"""The numbers in a part of each model: 8 KB of JSON are wide."""


class CountingAnswer(ABC):
    """One answer under way."""

    refusals = 0
    """The refusals of all answers, each of which was asked for again after the time that was named."""

    def __init__(self, address: tuple[str, int], model: str, first: float, until: float) -> None:
        self.address = address
        self.model = model
        self.first = first
        self.until = until

    @abstractmethod
    async def begin(self) -> None:
        """Ask, again where the router says so, and take the first part. SystemExit: it is refused for good."""

    @abstractmethod
    async def all(self) -> list[float]:
        """Ask, and return the values of all parts."""

    @abstractmethod
    async def broken(self) -> str:
        """Take parts until an error ends the answer; return that."""

    @abstractmethod
    def leave(self) -> None:
        """Be gone, without a word where the wire asks for none."""


async def refused(retry_after_s: float) -> None:
    """Count a refusal, and wait until the router may be asked again."""
    CountingAnswer.refusals += 1
    await asyncio.sleep(retry_after_s)


class _OnSocket(CountingAnswer):
    """An answer on a connection of its own."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @override
    def leave(self) -> None:
        self.writer.transport.abort()

    async def _connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(*self.address, limit=READ_BYTES)

    async def _head(self, wanted: bytes) -> bool:
        """Read the head of the router's answer; False: it is to be asked again, now that the time is over which it named."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        if wanted in head.split(b"\r\n", 1)[0]:
            return True
        retry_after = _RETRY_AFTER.search(head)
        if retry_after is None:
            body = await self.reader.read(READ_BYTES)
            raise SystemExit(f"the router refuses a stream: {head.decode()}{body.decode()}")
        self.writer.close()
        await refused(float(retry_after[1]))
        return False

    async def _read(self) -> bytes:
        data = await self.reader.read(READ_BYTES)
        if not data:
            raise SystemExit("an answer ended without its last part, and without an error")
        return data


class EventsAnswer(_OnSocket):
    """One answer as server-sent events."""

    @override
    async def begin(self) -> None:
        await self._ask()
        await self.reader.readuntil(b"data: ")

    @override
    async def all(self) -> list[float]:
        await self._ask()
        found = bytearray()
        while not found.endswith(b"\r\n0\r\n\r\n"):
            found += await self._read()
        self.writer.close()
        return [float(value) for value in _SSE_VALUE.findall(found)]

    @override
    async def broken(self) -> str:
        kept = b""
        while b'"error"' not in kept:
            kept = kept[-512:] + await self._read()
        return kept[kept.index(b'"error"') :].decode()

    async def _ask(self) -> None:
        x = [self.first] * _NUMBERS[self.model]
        body = json.dumps({"x": x, "until": self.until}).encode()
        is_taken = False
        while not is_taken:
            await self._connect()
            self.writer.write(
                b"POST /v2/models/%b/generate_stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
                % (self.model.encode(), len(body), body)
            )
            is_taken = await self._head(b" 200 ")


class SocketAnswer(_OnSocket):
    """One answer to a message on a WebSocket."""

    @override
    async def begin(self) -> None:
        await self._ask()

    @override
    async def all(self) -> list[float]:
        said = await self._ask()
        found: list[float] = []
        while True:
            if "error" in said:
                raise SystemExit(f"an answer over WebSocket failed: {said}")
            found.append(said["outputs"][0]["data"][0])
            if said["parameters"]["triton_final_response"]:
                self.writer.close()
                return found
            said = json.loads(await self._message())

    @override
    async def broken(self) -> str:
        while True:
            message = await self._message()
            if b'"error"' in message:
                return message.decode()

    async def _ask(self) -> Any:  # noqa: ANN401 - JSON
        """Return the first message."""
        await self._connect()
        self.writer.write(
            b"GET /v2/models/%b/stream?parts=1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % self.model.encode()
        )
        await self._head(b" 101 ")
        wide = _NUMBERS[self.model]
        x = {"name": "x", "datatype": "FP32", "shape": [1, wide], "data": [self.first] * wide}
        until = {"name": "until", "datatype": "FP32", "shape": [1, 1], "data": [self.until]}
        text = json.dumps({"inputs": [x, until]}).encode()
        while True:
            # a mask of zeros changes nothing
            self.writer.write(b"\x81\xfe" + struct.pack("!H", len(text)) + bytes(4) + text)
            said = json.loads(await self._message())
            if "retry_after_s" not in said:
                return said
            await refused(said["retry_after_s"])

    async def _message(self) -> bytes:
        """Return the next message, which has one frame; SystemExit: the stream is closed."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        data = await self.reader.readexactly(size)
        if first & 0x0F == 0x08:
            raise SystemExit(f"the router closes a stream: {data[2:].decode()}")
        return await self._message() if first & 0x08 else data


class GrpcAnswer(CountingAnswer):
    """One answer on a call of gRPC; some share a channel."""

    call: Any

    @override
    async def begin(self) -> None:
        await self._ask()

    @override
    async def all(self) -> list[float]:
        answer = await self._ask()
        found: list[float] = []
        while not answer.error_message:
            raw = answer.infer_response.raw_output_contents[0]
            found.append(float(np.frombuffer(raw, FLOATS, 1)[0]))
            if answer.infer_response.parameters["triton_final_response"].bool_param:
                await self.call.done_writing()
                return found
            answer = await self._next()
        raise SystemExit(f"an answer over gRPC failed: {answer.error_message}")

    @override
    async def broken(self) -> str:
        while not (error := (await self._next()).error_message):
            pass
        self.call.cancel()
        return str(error)

    @override
    def leave(self) -> None:
        self.call.cancel()

    async def _ask(self) -> Any:  # noqa: ANN401 - protobuf makes the class as it runs
        """Return the first message."""
        x = np.full(_NUMBERS[self.model], self.first, FLOATS)
        message = CLASSES["ModelInferRequest"](
            model_name=self.model,
            inputs=[
                {"name": "x", "datatype": "FP32", "shape": [1, len(x)]},
                {"name": "until", "datatype": "FP32", "shape": [1, 1]},
            ],
            raw_input_contents=[x.tobytes(), np.array(self.until, FLOATS).tobytes()],
        )
        self.call = channel_to(self.address).stream_stream(METHOD)()
        while True:
            await self.call.write(message.SerializeToString())
            answer = await self._next()
            if "try again in" not in answer.error_message:
                return answer
            await refused(1.0)

    async def _next(self) -> Any:  # noqa: ANN401 - protobuf makes the class as it runs
        data = await self.call.read()
        if data is grpc.aio.EOF:
            raise SystemExit(
                "an answer over gRPC ended without its last part, and without an error"
            )
        return CLASSES["ModelStreamInferResponse"].FromString(data)


_CHANNELS: Final[dict[tuple[str, int], list[grpc.aio.Channel]]] = {}
_CALLS: Final[dict[tuple[str, int], int]] = {}


def channel_to(address: tuple[str, int]) -> grpc.aio.Channel:
    """Return a channel of which as many have been asked for as one is to have calls."""
    channels = _CHANNELS.setdefault(address, [])
    number = _CALLS[address] = _CALLS.get(address, -1) + 1
    if number >= len(channels) * CALLS_OF_CHANNEL:
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels.append(grpc.aio.insecure_channel(f"{address[0]}:{address[1]}", options=own))
    return channels[number // CALLS_OF_CHANNEL]


async def close_channels() -> None:
    """Close all channels: those that ask again get others."""
    for channels in _CHANNELS.values():
        for channel in channels:
            await channel.close()
    _CHANNELS.clear()
    _CALLS.clear()


WIRES: Final[dict[str, type[CountingAnswer]]] = {
    "server-sent events": EventsAnswer,
    "gRPC": GrpcAnswer,
    "WebSocket": SocketAnswer,
}
