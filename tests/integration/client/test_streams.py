"""Both clients' streams, against a router's own front over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fleet_fakes import (
    Ask,
    FakeLink,
    answer_of,
    answering,
    echo,
    failing,
    fp32,
    hang,
    offer,
    parting,
)
from loading_nodes import LoadingLink
from patience import until
from router_http import Http
from tidy_router import tidy

from capamesh.client import AsyncClient, Client, Outputs
from capamesh.client.stream_wire import StreamWire
from capamesh.protocol.adverts import Scheduling
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    ProtocolViolation,
    TooLarge,
)
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype, Limits, TensorSpec
from capamesh.protocol.windows import Windows

if TYPE_CHECKING:
    from conftest import Asking

ROW = {"x": np.array([[1, 2]], np.float32)}
VAD = replace(
    offer("vad"),
    inputs=(TensorSpec("sound", Datatype.FP32, (-1, -1)),),
    outputs=(TensorSpec("y", Datatype.FP32, (-1, -1)),),
    scheduling=Scheduling.SEQUENCE,
    windows=Windows("sound", 4, 1, 8000),
)
"""A model that takes windows of four samples behind one of context."""


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with tidy() as http:
        yield http


Run = Callable[..., Any]


def detector(http: Http, *script: Callable[[Ask], None]) -> FakeLink:
    return http.node("V", *script, models=(VAD,))


@pytest.fixture
def run(asking: Asking, http: Http) -> Run:
    """Return what reads a stream of one of the clients to its end."""

    async def runs(
        method: str,
        *arguments: Any,
        at: Http = http,
        limits: Limits = DEFAULT_LIMITS,
        retries: int = 0,
        **options: Any,
    ) -> list[Outputs]:
        async with asking(at, limits=limits, retries=retries) as client:
            return await client.read(method, *arguments, **options)

    return runs


def rows(count: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    return [{"x": np.array([[at, -at]], np.float32)} for at in range(count)]


@pytest.mark.parametrize("is_binary", [True, False])
async def test_requests_are_answered_in_their_order(http: Http, run: Run, is_binary: bool) -> None:
    link = http.node("A")
    answers = await run("stream", "m", rows(5), is_binary=is_binary, parameters={"priority": 3})
    assert [answer["y"].tolist() for answer in answers] == [[[at, -at]] for at in range(5)]
    assert {call.priority for call in link.calls} == {3}
    assert answers[0].version == "1"
    answers = await run("stream", "m", [[[1, 2]], [[3, 4]]])  # of the model's datatype
    assert [answer["y"].tolist() for answer in answers] == [[[1, 2]], [[3, 4]]]


async def test_next_input_may_depend_on_the_answer(http: Http) -> None:
    http.node("A")
    seen = [1.0]

    def doubled() -> Iterator[dict[str, Any]]:
        while seen[-1] < 100:
            yield {"x": np.array([[2 * seen[-1], 0]], np.float32)}

    def follow() -> None:
        with Client(f"http://{http.client.host}:{http.client.port}") as client:
            answers = client.stream("m", doubled())
            while (answer := next(answers, None)) is not None:
                seen.append(float(answer["y"][0, 0]))

    await asyncio.to_thread(follow)
    assert seen == [1, 2, 4, 8, 16, 32, 64, 128]


async def test_first_error_is_raised_or_all_are_told(http: Http, run: Run) -> None:
    http.node("A", echo, failing(InvalidRequest("not such rows")), echo)
    errors: list[CapameshError] = []
    answers = await run("stream", "m", rows(3), on_error=errors.append)
    assert [answer["y"][0, 0] for answer in answers] == [0, 2]
    (error,) = errors
    assert isinstance(error, InvalidRequest)
    http.node("B", failing(Overloaded("full", 2.0)))
    http.endpoints[0].link = None
    with pytest.raises(Overloaded) as caught:
        await run("stream", "m", rows(3))
    assert caught.value.retry_after_s == 2.0


@pytest.mark.parametrize("is_binary", [True, False])
async def test_parts_of_an_answer_are_yielded_one_by_one(
    http: Http, run: Run, is_binary: bool
) -> None:
    link = http.node("A", parting(3), models=(replace(offer(), max_parts=10),))
    answers = await run("stream", "m", rows(2), parts=True, is_binary=is_binary)
    assert [answer["y"][0, 0] for answer in answers] == [1, 2, 3, 1, 2, 3]
    finals = [answer.parameters["triton_final_response"] for answer in answers]
    assert finals == [False, False, True] * 2
    assert all(call.takes_parts for call in link.calls)


async def test_stream_that_is_refused_says_why(http: Http, run: Run) -> None:
    http.node("A")
    with pytest.raises(ModelNotFound, match="no node hosts model 'nobody'"):
        await run("stream", "nobody", [ROW])
    with pytest.raises(InvalidRequest, match="declares no window"):
        await run("stream_samples", "m", [b""])


async def test_late_answer_is_the_deadlines_error(http: Http, run: Run) -> None:
    http.node("A", hang)
    with pytest.raises(DeadlineExceeded):
        await run("stream", "m", [ROW], timeout_s=0.1)


async def test_answer_over_the_limit_is_refused(http: Http, run: Run) -> None:
    http.node("A", answering(answer_of("1", fp32("y", *[[1, 2]] * 300))))
    with pytest.raises(TooLarge, match="over the limit of 2000 bytes"):
        await run("stream", "m", [ROW], limits=Limits(max_message_bytes=2000))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 10, 6_000])
async def test_samples_are_answered_window_by_window(http: Http, run: Run, size: int) -> None:
    link = detector(http)
    count = 10 if size < 100 else 6_002
    sound = np.arange(count, dtype=np.float64) % 1000
    chunks = [sound[at : at + size] for at in range(0, count, size)]
    answers = await run("stream_samples", "vad", chunks, timeout_s=200.0, priority=9)
    assert len(answers) == -(-count // 4)
    joined = np.concatenate([answer["y"][0, 1:] for answer in answers])
    assert joined[:count].tolist() == sound.tolist()
    assert joined[count:].tolist() == [0, 0]
    assert answers[1]["y"].dtype == np.float32
    marks = [call.sequence for call in link.calls]
    assert marks[0] is not None
    assert (marks[0].is_start, marks[0].is_end) == (True, False)
    assert marks[-1] is not None
    assert marks[-1].is_end
    assert {call.priority for call in link.calls} == {9}


async def test_samples_may_be_raw_bytes_and_of_no_other_kind(http: Http, run: Run) -> None:
    link = detector(http)
    raw = np.arange(8, dtype=np.float32).tobytes()
    answers = await run("stream_samples", "vad", [raw[:7], raw[7:]])
    assert [answer["y"][0, 1:].tolist() for answer in answers] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    asked = len(link.calls)
    with pytest.raises(InvalidRequest, match="divide by 32768"):
        await run("stream_samples", "vad", [np.zeros(8, np.int16)])
    assert len(link.calls) == asked


@pytest.mark.parametrize("is_ready", [True, False])
async def test_model_that_is_away_is_loaded_for_samples_or_the_client_told_why(
    run: Run, is_ready: bool
) -> None:
    async with tidy(timeout_s=30.0 if is_ready else 1.0) as http:
        link = LoadingLink(http.fleet, "V", VAD)
        link.is_ready_at_once = is_ready
        if is_ready:
            answers = await run("stream_samples", "vad", [np.arange(8, dtype=np.float32)], at=http)
            assert ([answer.id for answer in answers], link.wants) == (["0", "1"], 1)
            return
        with pytest.raises(ModelUnavailable, match="takes longer than the request's time"):
            await run("stream_samples", "vad", [], at=http)


async def test_window_that_fails_is_told_and_others_go_on(http: Http, run: Run) -> None:
    detector(http, echo, failing(LinkLost("gone")), echo)
    errors: list[CapameshError] = []
    sound = np.arange(12, dtype=np.float32)
    answers = await run("stream_samples", "vad", [sound], on_error=errors.append)
    assert [answer["y"][0].tolist() for answer in answers] == [[0, 0, 1, 2, 3], [0, 8, 9, 10, 11]]
    assert [type(error) for error in errors] == [LinkLost]


async def test_asynchronous_inputs_are_taken_as_they_come(http: Http) -> None:
    detector(http)

    async def microphone() -> AsyncIterator[np.ndarray[Any, Any]]:
        for at in range(3):
            await asyncio.sleep(0)
            yield np.full(4, at, np.float32)

    async with AsyncClient(f"http://{http.client.host}:{http.client.port}") as client:
        found = [answer["y"][0, -1] async for answer in client.stream_samples("vad", microphone())]
    assert found == [0, 1, 2]


async def test_stream_that_is_given_up_is_closed_and_a_router_that_is_not_there_passed_by(
    http: Http, asking: Asking
) -> None:
    link = http.node("A")
    url = f"http://{http.client.host}:{http.client.port}"
    async with asking(["http://127.0.0.1:9", url]) as client:
        (answer,) = await client.read("stream", "m", rows(100), most=1)
    assert answer["y"].tolist() == [[0, 0]]
    await until(lambda: not len(http.front.connections), "the stream is open")
    assert len(link.calls) == 1


def test_router_that_answers_more_than_was_asked_is_not_listened_to() -> None:
    wire = StreamWire("http://x", 100)
    wire.opening("x", "/", {}, {})
    wire._connection.handshake._nonce = b"dGhlIHNhbXBsZSBub25jZQ=="
    wire.receive(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    assert wire.is_open
    frame = b"\x81\x28" + b" " * 40
    with pytest.raises(ProtocolViolation, match="more than was asked"):
        wire.receive(frame * 6)
