"""Makes up what clients of gRPC may send, from a seed, and has routers answer it: over HTTP/2 by hand, and over each library.

    python tests/support/grpc_fuzz.py [--seconds 5] [--seed 1]

Half of the cases keep to the protocol: all routers answer every call, and alike. In the others some bytes are changed, lost
or sent twice: nothing crashes, and what two answer they answer alike. After each nothing is held. Messages are read by
hand and by protobuf, sound and broken ones, and both read the same. A case that fails is told with its seed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import virtual_time
from google.protobuf.internal.wire_format import WIRETYPE_START_GROUP
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_made_up import Case, case_of, changed, message_of
from http2_by_h2 import SessionByH2
from http2_by_ngh2 import SessionByNgh2
from http2_client import Http2Client
from http2_frames import WINDOW, frame, number
from warm_router import World

from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.tensors import Limits
from capamesh.router.grpc.http2 import Http2Session
from capamesh.router.grpc.http2_by_hand import SessionByHand
from capamesh.router.grpc.infer_request import parsed, raw_apart
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.http.connection import FrontConnection

LIMITS = Limits()
ROUNDS = 8
"""The times that nodes answer and the client opens its windows: more than any case needs."""
NODE = b"x-capamesh-node"


class Wire:
    """A connection's transport, which keeps what is written to it."""

    def __init__(self) -> None:
        self.written = bytearray()
        self._is_closing = False

    def get_extra_info(self, name: str) -> Any:
        del name

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: bytes) -> None:
        assert not self._is_closing
        self.written += data

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        self._is_closing = True

    abort = close


Answered = dict[int, tuple[list[dict[bytes, bytes]], bytes]]
"""The heads and the body of each stream that was answered to its end."""


class Router:
    """A router over one of the libraries, and all clients that it has had."""

    def __init__(self, make: Callable[[], Http2Session]) -> None:
        self._world = World(b"", make_session=make)

    @property
    def misbehaved(self) -> int:
        return self._world.grpc.misbehaved

    async def play(self, case: Case, cuts: list[int]) -> Answered:
        """Take what a client sends in reads that end at `cuts`; return what is answered. Nothing may be held then."""
        world = self._world
        wire, client = Wire(), Http2Client(2**32 - 1)  # whatever the case's settings allow
        world.connection = connection = FrontConnection(world.front)
        connection.connection_made(cast(asyncio.Transport, wire))
        for begin, end in zip([0, *cuts], [*cuts, len(case.data)], strict=True):
            if not wire.is_closing():
                world.take(case.data[begin:end])
            await asyncio.sleep(0)
        ended: set[int] = set()
        for _ in range(ROUNDS):
            await world.answer()
            await asyncio.sleep(0.001)
            client.take(bytes(wire.written))
            wire.written.clear()
            ended |= {each.stream_id for each in client.frames if "END_STREAM" in each.flags}
            if wire.is_closing() or not case.is_sound:
                continue
            waiting = sorted(case.calls - ended)
            for stream in (0, *waiting):
                world.take(frame(WINDOW, 0, stream, number(100_000)))
        connection.connection_lost(None)
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


class Disagreement(AssertionError):
    """Two that should do the same do not."""


async def compare(case: Case, cuts: list[int], routers: Sequence[Router]) -> int:
    """Have all routers answer a case; return how many calls all have answered.

    Raises:
        Disagreement: they have not answered alike.
    """
    before = [router.misbehaved for router in routers]
    answered = [await router.play(case, cuts) for router in routers]
    if case.is_sound:
        if any(each.keys() < case.calls for each in answered):
            told = [sorted(each) for each in answered]
            raise Disagreement(f"of {sorted(case.calls)} {told} are answered")
        if [router.misbehaved for router in routers] != before:
            raise Disagreement("a client that keeps to the protocol was sent away")
    first, *others = answered
    for other in others:
        for stream in case.calls if case.is_sound else first.keys() & other.keys():
            if first[stream] != other[stream]:
                raise Disagreement(f"stream {stream}: {first[stream]} and {other[stream]}")
    return sum(all(stream in each for each in others) for stream in first)


def check_message(encoded: bytes) -> bool:
    """Read a message by hand and by protobuf, and see that both are the same; return whether it is one.

    Raises:
        Disagreement: they are not.
    """
    try:
        expected = CLASSES["ModelInferRequest"].FromString(encoded)
    except DecodeError:
        expected = None
    try:
        rest, raw = raw_apart(memoryview(encoded), LIMITS)
        found = parsed(rest)
    except InvalidRequest:
        # groups, which no writer of this message makes, are refused
        if expected is None or has_group(expected):
            return False
        raise Disagreement(f"protobuf alone reads {encoded.hex()}") from None
    except TooLarge:
        return False
    if expected is None or found.raw_input_contents:
        raise Disagreement(f"protobuf does not read {encoded.hex()}")
    tensors = list(expected.raw_input_contents)
    expected.ClearField("raw_input_contents")
    if found != expected or [bytes(each) for each in raw] != tensors:
        raise Disagreement(f"{encoded.hex()} is read as {found!r} and {raw!r}")
    return True


def has_group(message: Any) -> bool:
    """Return whether a message has a field that is a group, which its type does not have."""
    return any(each.wire_type == WIRETYPE_START_GROUP for each in UnknownFieldSet(message))


async def fuzz(seeds: Iterator[int]) -> dict[str, int]:
    """Try a case and some messages for each seed; return how many there were of what. A case that fails has its seed in a note."""
    routers = [Router(make) for make in (SessionByHand, SessionByNgh2, SessionByH2)]
    counts = {"cases": 0, "sound": 0, "answered_by_all": 0, "messages": 0, "sound_messages": 0}
    for seed in seeds:
        rng = random.Random(seed)
        case = case_of(rng)
        cuts = sorted(rng.sample(range(1, len(case.data)), rng.randint(0, 3)))
        try:
            counts["answered_by_all"] += await compare(case, cuts, routers)
            for _ in range(10):
                encoded = message_of(rng)
                for each in (encoded, changed(rng, encoded)):
                    counts["sound_messages"] += check_message(each)
                    counts["messages"] += 1
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        counts["cases"] += 1
        counts["sound"] += case.is_sound
    return counts


def until(end_s: float, seed: int) -> Iterator[int]:
    """Return seeds from one on, until a time."""
    while time.monotonic() < end_s:
        yield seed
        seed += 1


def main() -> None:
    """Fuzz for some time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first case")
    options = parser.parse_args()
    seeds = until(time.monotonic() + options.seconds, options.seed)
    done = virtual_time.run(fuzz(seeds))
    sys.stdout.write(json.dumps({"wire": "grpc", "seed": options.seed, **done}) + "\n")


if __name__ == "__main__":
    main()
