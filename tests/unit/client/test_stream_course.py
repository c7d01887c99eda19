"""The course of a stream: who is asked, what is sent again and after how long, and when an answer of many parts is over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from typing_extensions import override
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from capamesh.client import asks
from capamesh.client.access import Access
from capamesh.client.address import RouterAddress
from capamesh.client.failover import Failover
from capamesh.client.retries import Retries
from capamesh.client.routing_options import ANYWHERE
from capamesh.client.stream_course import (
    NOTHING,
    Await,
    Connect,
    Give,
    HangUp,
    Look,
    Pause,
    Send,
    Step,
    course,
)
from capamesh.client.streams import RequestStream, StreamPlan, Turn, ask_stream
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LinkLost,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.tensors import DEFAULT_LIMITS

FULL = {"error": "full", "code": "overloaded", "retry_after_s": 2}
END = {"end": True}


def answer(value: float, *, is_final: bool | None = None) -> dict[str, Any]:
    said: dict[str, Any] = {"model_name": "m", "model_version": "1"}
    if is_final is not None:
        said["parameters"] = {"triton_final_response": is_final}
    tensor = {"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    return {**said, "outputs": [tensor]}


class Router:
    """The other end: answers each message as the script says, and closes behind the last."""

    def __init__(self, *script: Sequence[dict[str, Any]], refusal: int = 0) -> None:
        self.script = list(script)
        self.refusal = refusal
        """The status with which it refuses a stream; 0: it takes it."""
        self.messages: list[Any] = []
        self._connection = WSConnection(ConnectionType.SERVER)
        self.out = b""

    def receive(self, data: bytes) -> None:
        self._connection.receive_data(data)
        for event in self._connection.events():
            match event:
                case Request():
                    self._take()
                case TextMessage():
                    self._answer(json.loads(event.data))
                case _:
                    pass

    def _take(self) -> None:
        if not self.refusal:
            self._say(AcceptConnection())
            return
        headers = [(b"retry-after", b"3"), (b"x-capamesh-error", b"no_endpoint")]
        self._say(RejectConnection(self.refusal, headers, has_body=True))
        self._say(RejectData(b'{"error": "no link", "code": "no_endpoint"}'))

    def _answer(self, message: Any) -> None:
        self.messages.append(message)
        if message == END:
            self._say(CloseConnection(1000))
            return
        for said in self.script.pop(0):
            self._say(TextMessage(json.dumps(said)))

    def _say(self, event: Event) -> None:
        self.out += self._connection.send(event)


class Drive:
    """Takes the steps of a course, on a clock of its own, with routers in the place of sockets."""

    def __init__(
        self,
        *routers: Router | CapameshError,
        urls: int = 1,
        takes_parts: bool = False,
        on_error: Callable[[CapameshError], None] | None = None,
        plan: StreamPlan[Any] | None = None,
    ) -> None:
        """`routers` are connected to one after the other, by whatever URL; an error: it cannot be reached."""
        self.routers = list(routers)
        self.asked: list[str] = []
        self.now_s = 0.0
        self.pauses: list[float] = []
        self.given: list[float] = []
        self.hung_up = 0
        opening = ask_stream("m", "", timeout_s=10.0, routing=ANYWHERE, limits=DEFAULT_LIMITS)
        self.plan = plan or RequestStream(opening, on_error, takes_parts=takes_parts)
        self.failover = Failover([RouterAddress.parse(f"http://r{at}:1") for at in range(urls)])
        self._router: Router

    def run(self, *values: float) -> list[float]:
        """Send a request of each value; return what was answered."""
        steps = course(
            self.failover, Retries(2, lambda: 0.0), Access(), self.plan, lambda: self.now_s
        )
        items = iter([self._item(value) for value in values])
        step: Step | None = next(steps)
        while step is not None:
            try:
                came = self._do(step, items)
            except CapameshError as error:
                step = steps.throw(error)
            else:
                try:
                    step = steps.send(came)
                except StopIteration:
                    step = None
        return self.given

    def _item(self, value: float) -> Any:
        return asks.ask_infer("m", {"x": np.array([[value]], np.float32)}, is_binary=False)

    def _do(self, step: Step, items: Iterator[Any]) -> object:
        match step:
            case Connect(router=router, wire=wire):
                self.asked.append(router.url)
                there = self.routers.pop(0)
                if isinstance(there, CapameshError):
                    raise there
                self._router, self._wire = there, wire
            case Send(data=data):
                self._router.receive(data)
            case Await(is_there=is_there):
                while not is_there():
                    data, self._router.out = self._router.out, b""
                    self._wire.receive(data)
            case Pause(seconds=seconds):
                self.pauses.append(seconds)
                self.now_s += seconds
            case Give(outputs=outputs):
                self.given.append(float(outputs["y"][0, 0]))
            case HangUp():
                self.hung_up += 1
            case Look():
                return next(items, NOTHING)
        return None


def sent(router: Router) -> list[float]:
    """Return the values of the requests that came to a router."""
    return [one["inputs"][0]["data"][0] for one in router.messages if one != END]


def test_request_that_was_refused_is_sent_again_after_the_time_that_was_named() -> None:
    router = Router([FULL], [answer(10)], [answer(20)])
    drive = Drive(router)
    assert drive.run(1, 2) == [10, 20]
    assert (sent(router), router.messages[-1], drive.pauses) == ([1, 1, 2], END, [2.0])


def test_request_that_is_refused_too_often_is_an_error() -> None:
    router = Router([FULL], [FULL], [FULL])
    drive = Drive(router)
    with pytest.raises(Overloaded, match="full"):
        drive.run(1)
    assert (sent(router), drive.pauses) == ([1, 1, 1], [2.0, 2.0])
    router = Router([{**FULL, "retry_after_s": 3600}])  # its time is over by then
    with pytest.raises(Overloaded):
        Drive(router).run(1)
    assert sent(router) == [1]


def test_request_that_has_run_is_not_sent_again() -> None:
    failed = {"error": "it fell over", "code": "run_failed"}
    router = Router([failed], [answer(20)])
    errors: list[CapameshError] = []
    assert Drive(router, on_error=errors.append).run(1, 2) == [20]
    assert (sent(router), [type(error) for error in errors]) == ([1, 2], [RunFailed])


def test_parts_are_given_until_the_last_and_then_the_next_request_is_sent() -> None:
    parts = [answer(1, is_final=False), answer(2, is_final=False), answer(3, is_final=True)]
    router = Router(parts, [answer(9)])
    drive = Drive(router, takes_parts=True)
    assert drive.run(1, 2) == [1, 2, 3, 9]
    assert drive.plan.answered == 2


def test_answer_that_breaks_off_after_parts_is_not_asked_for_again() -> None:
    broken = {"error": "the answer broke off", "code": "run_failed", "parts": 1, "retry_after_s": 1}
    router = Router([answer(1, is_final=False), broken], [answer(9, is_final=True)])
    errors: list[CapameshError] = []
    assert Drive(router, takes_parts=True, on_error=errors.append).run(1, 2) == [1, 9]
    assert (sent(router), len(errors)) == ([1, 2], 1)


def test_router_that_cannot_be_reached_is_passed_by() -> None:
    router = Router([answer(10)])
    drive = Drive(asks.unreachable("http://r0:1", "refused"), router, urls=2)
    assert drive.run(1) == [10]
    assert (drive.asked, drive.hung_up) == (["http://r0:1", "http://r1:1"], 1)
    assert drive.failover.favourite.url == "http://r1:1"


def test_stream_that_is_refused_for_now_is_opened_later() -> None:
    drive = Drive(Router(refusal=503), Router([answer(10)]))
    assert drive.run(1) == [10]
    assert (drive.pauses, drive.hung_up) == ([3.0], 1)


def test_stream_that_is_refused_too_often_is_an_error() -> None:
    drive = Drive(*(Router(refusal=503) for _ in range(3)))
    with pytest.raises(CapameshError, match="no link"):
        drive.run(1)
    assert (drive.pauses, drive.hung_up) == ([3.0, 3.0], 3)


def test_stream_that_the_router_closes_is_an_error() -> None:
    class Closing(Router):
        @override
        def _answer(self, message: Any) -> None:
            self._say(CloseConnection(1001, "the router stops"))

    with pytest.raises(LinkLost, match="behind 0 answers, with 1001: the router stops"):
        Drive(Closing()).run(1)


def test_turn_that_cannot_be_repeated_is_not_sent_again() -> None:
    class Once(StreamPlan[Any]):
        @override
        def turns(self, wire: Any, item: Any) -> Iterator[Turn]:
            yield Turn(wire.request(item.buffers, item.headers), 1, item.read)

    opening = ask_stream("m", "", timeout_s=10.0, routing=ANYWHERE, limits=DEFAULT_LIMITS)
    router = Router([FULL])
    drive = Drive(router, plan=Once(opening, {}, None))
    with pytest.raises(Overloaded):
        drive.run(1)
    assert (sent(router), drive.pauses) == ([1], [])


def test_error_of_what_is_to_be_sent_ends_the_stream() -> None:
    class Wrong(Drive):
        @override
        def _do(self, step: Step, items: Iterator[Any]) -> object:
            if isinstance(step, Look):
                raise InvalidRequest("no such dtype")
            return super()._do(step, items)

    with pytest.raises(InvalidRequest, match="no such dtype"):
        Wrong(Router()).run(1)
