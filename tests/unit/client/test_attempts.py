"""The attempts at a request, a stream and a sequence: who is asked, what is sent again and after how long, and what is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
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

from capamesh.client import AsyncClient, Client
from capamesh.client.access import Access
from capamesh.client.address import RouterAddress
from capamesh.client.answers import Answer, Outputs
from capamesh.client.asks import (
    GRACE_S,
    Ask,
    CutOff,
    Unreachable,
    ask_infer,
    ask_nodes,
    cut_off,
    unreachable,
)
from capamesh.client.attempts import Attempts
from capamesh.client.failover import (
    COOL_DOWN_S,
    Failover,
    is_for_another,
    none_answered,
    routers_of,
)
from capamesh.client.retries import BUDGET, COST, Retries
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
from capamesh.protocol import errors
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    InvalidRequest,
    NoEndpoint,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.oip import HEADER_LENGTH_NAME, decode_request
from capamesh.protocol.tensors import DEFAULT_LIMITS

A, B, C = (RouterAddress.parse(f"http://10.0.0.{number}:8000") for number in (1, 2, 3))
ONE = {"X": np.ones(1, np.float32)}
ANSWER = Answer(200, b'{"model_name": "m", "model_version": "1", "id": "", "outputs": []}')


def wait_s(error: CapameshError, *, draw: float = 0.0, **options: float) -> float | None:
    given = {"attempts": 1, "left_s": 60.0, "is_idempotent": False, **options}
    return Retries(3, lambda: draw).wait_s(error, **given)  # type: ignore[arg-type]


def with_hint(error: CapameshError, after_s: float = 2.0) -> CapameshError:
    error.retry_after_s = after_s
    return error


@pytest.mark.parametrize(
    ("kind", "is_waited_out", "is_another_asked", "in_a_sequence"),
    [
        (Overloaded, True, False, False),
        (errors.TooManyRequests, True, False, False),
        (errors.Draining, True, None, None),
        (errors.ModelUnavailable, True, None, None),
        (NoEndpoint, True, True, True),
        (errors.KeysUnavailable, True, None, None),
        (errors.ShutOut, False, True, True),
        (errors.ModelFailed, False, None, None),
        (errors.Unsatisfiable, False, False, False),
        (RunFailed, False, None, None),
        (errors.LinkLost, False, False, False),
        (InvalidRequest, False, False, False),
        (errors.DeadlineExceeded, False, False, False),
        (CutOff, None, True, False),
        (Unreachable, None, True, True),
    ],
)
def test_error_says_whether_it_is_waited_out_or_another_router_asked(
    kind: type[CapameshError],
    is_waited_out: bool | None,
    is_another_asked: bool | None,
    in_a_sequence: bool | None,
) -> None:
    error = with_hint(kind("x"))
    if is_another_asked is not None:
        asked = [is_for_another(error, is_repeatable=each) for each in (True, False)]
        assert asked == [is_another_asked, in_a_sequence]
    if is_waited_out:
        assert (wait_s(error), wait_s(error, draw=0.5)) == (2.0, 2.25)
        assert wait_s(with_hint(error, 0.0)) is None
    elif is_waited_out is False:
        assert [wait_s(error, is_idempotent=each) for each in (False, True)] == [None, None]


def test_waits_grow_and_are_shorter_than_what_is_left_or_there_is_none() -> None:
    error = unreachable("http://a", "refused")
    waits = [wait_s(error, attempts=count) for count in (1, 2, 3, 4)]
    assert waits == [0.1, 0.2, 0.4, None]
    broken = cut_off("http://a", "it was closed")
    assert [wait_s(broken, is_idempotent=each) for each in (False, True)] == [None, 0.1]
    refused = with_hint(Overloaded("full"))
    assert [wait_s(refused, left_s=left_s) for left_s in (2.0, 2.01)] == [None, 2.0]
    assert wait_s(refused, left_s=2.01, draw=0.5) is None


def test_retries_of_all_requests_are_bounded_together() -> None:
    retries = Retries(1, lambda: 0.0)

    def is_retried(left_s: float = 9, by: Retries = retries) -> bool:
        error = Overloaded("full", 2.0)
        return by.wait_s(error, attempts=1, left_s=left_s, is_idempotent=False) is not None

    assert not any(is_retried(left_s=1) for _ in range(100))  # which costs nothing
    most = BUDGET // COST
    assert [is_retried() for _ in range(most + 2)] == [True] * most + [False] * 2
    for _ in range(COST):
        assert not is_retried()
        retries.succeeded()
    assert is_retried()
    assert not is_retried()
    for _ in range(1_000):
        retries.succeeded()
    assert sum(is_retried() for _ in range(3 * most)) == most
    assert not is_retried(by=Retries(0, lambda: 0.0))
    for wrong in (-1, 21, 1.5, True, "2", None):
        with pytest.raises(ConfigError, match="a whole number from 0 to 20 is expected"):
            Retries(wrong, lambda: 0.0)


def test_one_router_is_kept_to_and_one_that_failed_is_asked_last_until_it_has_cooled_down() -> None:
    routers = Failover([A, B, C])
    assert routers.order(0.0) == [A, B, C]
    routers.failed(A, 0.0)
    assert routers.order(0.1) == [B, C, A]
    routers.answered(B)
    assert routers.favourite == B
    assert routers.order(0.2) == [B, C, A]
    routers.failed(B, 1.0)
    assert routers.order(1.1) == [C, A, B]  # who failed first is asked first of them
    routers.answered(C)
    assert routers.order(COOL_DOWN_S + 2) == [C, A, B]
    routers.failed(C, 20.0)
    assert routers.order(20.1) == [A, B, C]
    routers.failed(A, 20.0)
    routers.failed(B, 20.0)
    assert len(routers.order(20.1)) == 3  # nobody is given up


def test_urls_are_read_and_counted() -> None:
    assert routers_of("10.0.0.1:8000") == [A]
    assert routers_of(["http://10.0.0.1:8000", "10.0.0.2:8000"]) == [A, B]
    assert Failover([A, A]).order(0.0) == [A]
    for routers in ([], [A] * 17):
        with pytest.raises(ConfigError, match=f"{len(routers)} routers are named; give 1 to 16"):
            Failover(routers)
    alone = Unreachable("a")
    assert none_answered([alone]) is alone
    assert alone.message == "a"


def attempts_at(ask: Ask[Outputs], *routers: RouterAddress) -> Attempts[Outputs]:
    return Attempts(ask, Failover(routers), Retries(2, lambda: 0.0), 100.0)


def timeout_us(ask: Ask[Outputs]) -> object:
    length = int(ask.headers[HEADER_LENGTH_NAME])
    return decode_request("m", "", b"".join(ask.buffers), length).parameters.get("timeout")


def test_refusal_is_waited_out_and_the_router_is_told_what_is_left_of_the_deadline() -> None:
    attempts = attempts_at(ask_infer("m", ONE, timeout_s=5.0), A)
    assert attempts.deadline_s == 105.0 + GRACE_S
    assert timeout_us(attempts.ask) == 5_000_000
    assert attempts.wait_s(Overloaded("full", 2.0), 100.5) == 2.0
    assert (attempts.router, attempts.deadline_s) == (A, 105.0 + GRACE_S)
    assert timeout_us(attempts.ask) == 2_500_000
    refused = Answer(503, b'{"error": "full"}', "overloaded", retry_after="4")
    with pytest.raises(Overloaded) as caught:
        attempts.result(refused)
    assert caught.value.retry_after_s == 4.0
    outputs = attempts.result(ANSWER)
    assert (outputs.timings.attempts, outputs.router) == (2, A.url)
    # without a deadline the same is sent again
    ask = ask_infer("m", ONE)
    attempts = attempts_at(ask, A)
    assert (attempts.wait_s(Overloaded("full", 2.0), 100.5), attempts.ask) == (2.0, ask)
    assert attempts.wait_s(Overloaded("full", 60.0), 103.0) is None


def test_all_routers_are_asked_before_one_is_waited_for() -> None:
    attempts = attempts_at(ask_infer("m", ONE), A, B)
    for error, now_s, waited_s, router in (
        (NoEndpoint("a", 3.0), 100.0, 0.0, B),
        (NoEndpoint("b", 1.0), 100.0, 1.0, A),  # which failed first
        (Unreachable("a"), 101.0, 0.0, B),
        (NoEndpoint("b", 1.0), 101.0, 1.0, A),
        (Unreachable("a"), 102.0, 0.0, B),
    ):
        assert (attempts.wait_s(error, now_s), attempts.router) == (waited_s, router)
    last = NoEndpoint("b", 1.0)
    assert attempts.wait_s(last, 102.0) is None
    assert last.message == "none of 2 routers could take it: a; b"


def test_request_with_an_idempotency_key_that_may_have_run_stays_with_its_router() -> None:
    attempts = attempts_at(ask_infer("m", ONE, idempotency_key="k1"), A, B)
    for error, now_s, waited_s in (
        (CutOff("broke"), 100.0, 0.1),
        (Unreachable("gone"), 100.1, 0.2),
        (NoEndpoint("no", 1.0), 100.3, None),
    ):
        assert (attempts.wait_s(error, now_s), attempts.router) == (waited_s, A)
    assert error.message == "no"


def test_request_that_may_have_run_goes_to_the_next_router_once_unless_it_is_a_step() -> None:
    attempts = attempts_at(ask_infer("m", ONE), A, B)
    assert (attempts.wait_s(CutOff("broke"), 100.0), attempts.router) == (0.0, B)
    assert attempts.wait_s(CutOff("broke"), 100.0) is None
    step = ask_infer("m", ONE, parameters={"sequence_id": 7})
    assert attempts_at(step, A, B).wait_s(CutOff("broke"), 100.0) is None
    assert attempts_at(step, A, B).wait_s(Overloaded("full", 1.0), 100.0) == 1.0
    # nor is one that failed for good sent again, or what is no inference
    assert attempts_at(ask_infer("m", ONE), A).wait_s(RunFailed("no"), 100.0) is None
    page = Attempts(ask_nodes(), Failover([A]), Retries(2, lambda: 0.0), 100.0)
    assert page.wait_s(Overloaded("full", 1.0), 100.0) is None


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
            if isinstance(event, Request):
                self._take()
            elif isinstance(event, TextMessage):
                self._answer(json.loads(event.data))

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
        *routers: Router,
        takes_parts: bool = False,
        on_error: Callable[[CapameshError], None] | None = None,
        plan: StreamPlan[Any] | None = None,
    ) -> None:
        """`routers` are connected to one after the other."""
        self.routers = list(routers)
        self.now_s = 0.0
        self.pauses: list[float] = []
        self.given: list[float] = []
        self.hung_up = 0
        self.plan = plan or RequestStream(OPENING, on_error, takes_parts=takes_parts)
        self._router: Router

    def run(self, *values: float) -> list[float]:
        """Send a request of each value; return what was answered."""
        retries = Retries(2, lambda: 0.0)
        steps = course(Failover([A]), retries, Access(), self.plan, lambda: self.now_s)
        rows = [{"x": np.array([[value]], np.float32)} for value in values]
        items = iter([ask_infer("m", row, is_binary=False) for row in rows])
        step: Step | None = next(steps)
        while step is not None:
            try:
                came = self._do(step, items)
            except CapameshError as error:
                step = steps.throw(error)
                continue
            try:
                step = steps.send(came)
            except StopIteration:
                step = None
        return self.given

    def _do(self, step: Step, items: Iterator[Any]) -> object:
        match step:
            case Connect(wire=wire):
                self._router, self._wire = self.routers.pop(0), wire
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


OPENING = ask_stream("m", "", timeout_s=10.0, routing=ANYWHERE, limits=DEFAULT_LIMITS)


def sent(router: Router) -> list[float]:
    """Return the values of the requests that came to a router."""
    return [one["inputs"][0]["data"][0] for one in router.messages if one != END]


def test_refused_request_is_sent_again_after_the_time_that_was_named_but_not_too_often() -> None:
    router = Router([FULL], [answer(10)], [answer(20)])
    drive = Drive(router)
    assert drive.run(1, 2) == [10, 20]
    assert (sent(router), router.messages[-1], drive.pauses) == ([1, 1, 2], END, [2.0])
    late = {**FULL, "retry_after_s": 3600}  # its time is over by then
    for script, count in (([[FULL]] * 3, 3), ([[late]], 1)):
        router = Router(*script)
        drive = Drive(router)
        with pytest.raises(Overloaded, match="full"):
            drive.run(1)
        assert (sent(router), drive.pauses) == ([1] * count, [2.0] * (count - 1))


def test_request_that_has_run_or_that_broke_off_after_parts_is_not_sent_again() -> None:
    failed = {"error": "it fell over", "code": "run_failed"}
    broken = {**failed, "parts": 1, "retry_after_s": 1}
    for first, given in (([failed], []), ([answer(1, is_final=False), broken], [1])):
        router = Router(first, [answer(9, is_final=True)])
        errors: list[CapameshError] = []
        drive = Drive(router, takes_parts=bool(given), on_error=errors.append)
        assert drive.run(1, 2) == [*given, 9]
        assert (sent(router), [type(error) for error in errors]) == ([1, 2], [RunFailed])


def test_parts_are_given_until_the_last_and_then_the_next_request_is_sent() -> None:
    parts = [answer(1, is_final=False), answer(2, is_final=False), answer(3, is_final=True)]
    router = Router(parts, [answer(9)])
    drive = Drive(router, takes_parts=True)
    assert drive.run(1, 2) == [1, 2, 3, 9]
    assert drive.plan.answered == 2


def test_stream_that_is_refused_for_now_is_opened_later_but_not_too_often() -> None:
    drive = Drive(Router(refusal=503), Router([answer(10)]))
    assert drive.run(1) == [10]
    assert (drive.pauses, drive.hung_up) == ([3.0], 1)
    drive = Drive(*(Router(refusal=503) for _ in range(3)))
    with pytest.raises(CapameshError, match="no link"):
        drive.run(1)
    assert (drive.pauses, drive.hung_up) == ([3.0, 3.0], 3)


def test_turn_that_cannot_be_repeated_is_not_sent_again() -> None:
    class Once(StreamPlan[Any]):
        def turns(self, wire: Any, item: Any) -> Iterator[Turn]:
            yield Turn(wire.request(item.buffers, item.headers), 1, item.read)

    router = Router([FULL])
    drive = Drive(router, plan=Once(OPENING, {}, None))
    with pytest.raises(Overloaded):
        drive.run(1)
    assert (sent(router), drive.pauses) == ([1], [])


# a sequence of requests: its first and last, and what loses it


class Recording:
    """Stands for what a client's `infer` does: notes the arguments, and answers or fails as it was told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.failures: list[BaseException | None] = []

    def infer(self, model: str, inputs: object, **options: Any) -> Outputs:
        self.asked.append({"model": model, "inputs": inputs, **options})
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return Outputs({}, version="3")

    async def infer_soon(self, *args: Any, **options: Any) -> Outputs:
        await asyncio.sleep(0)
        return self.infer(*args, **options)

    @property
    def parameters(self) -> list[dict[str, Any]]:
        return [each["parameters"] for each in self.asked]


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    made = Recording()
    monkeypatch.setattr(Client, "infer", made.infer)
    monkeypatch.setattr(AsyncClient, "infer", made.infer_soon)
    return made


def marks(id: int | str, *bounds: str) -> list[dict[str, Any]]:  # noqa: A002 -- the client's own word
    """Return the parameters of a sequence's requests, each of which is its `start`, its `end`, both or ""."""
    return [
        {"sequence_id": id, **{f"sequence_{bound}": True for bound in each.split()}}
        for each in bounds
    ]


def test_first_request_starts_and_the_last_ends(recording: Recording) -> None:
    with Client().sequence("vad", id="call-7", timeout_s=2, priority=1, outputs=["p"]) as sequence:
        assert sequence.id == "call-7"
        for inputs, is_last in (({"x": 1}, False), ({"x": 2}, False), ({"x": 3}, True)):
            sequence.infer(inputs, is_last=is_last)
    assert recording.parameters == marks("call-7", "start", "", "end")
    assert [each["version"] for each in recording.asked] == ["", "3", "3"]
    first = recording.asked[0]
    assert (first["model"], first["inputs"]) == ("vad", {"x": 1})
    assert (first["timeout_s"], first["priority"], first["outputs"]) == (2, 1, ["p"])
    Client().sequence("vad", version="2").infer({})
    assert recording.asked[-1]["version"] == "2"


async def test_each_step_is_sent_and_the_last_ends(recording: Recording) -> None:
    async def steps(count: int) -> AsyncIterator[dict[str, int]]:
        for at in range(count):
            yield {"x": at}

    assert len(list(Client().sequence("vad", id=7).infer_each({"x": at} for at in range(3)))) == 3
    assert [each["inputs"] for each in recording.asked] == [{"x": 0}, {"x": 1}, {"x": 2}]
    list(Client().sequence("vad", id=8).infer_each([{}]))
    async with AsyncClient().sequence("vad", id=9) as sequence:
        assert len([outputs async for outputs in sequence.infer_each(steps(3))]) == 3
    async with AsyncClient().sequence("vad", id=10) as sequence:
        assert len([outputs async for outputs in sequence.infer_each([{}, {}])]) == 2
    assert recording.parameters == [
        *marks(7, "start", "", "end"),
        *marks(8, "start end"),
        *marks(9, "start", "", "end"),
        *marks(10, "start", "end"),
    ]
    assert list(Client().sequence("vad").infer_each([])) == []
    assert len(recording.asked) == 9


def test_sequence_that_has_ended_takes_nothing_more(recording: Recording) -> None:
    last, left = Client().sequence("vad", id=7), Client().sequence("vad", id=8)
    last.infer({}, is_last=True)
    with left:
        left.infer({})
    for sequence, said in ((last, "sequence 7 has ended; begin another"), (left, "sequence 8 has")):
        with pytest.raises(InvalidRequest, match=said):
            sequence.infer({})
    assert len(recording.asked) == 2


def test_request_that_did_not_run_may_be_sent_again(recording: Recording) -> None:
    sequence = Client().sequence("vad", id=7)
    sequence.infer({})
    kinds = (Overloaded, NoEndpoint, Unreachable, InvalidRequest)
    for kind in kinds:
        recording.failures = [kind("x")]
        with pytest.raises(kind):
            sequence.infer({})
    sequence.infer({})
    assert recording.parameters == marks(7, "start", *[""] * (len(kinds) + 1))


@pytest.mark.parametrize(
    "kind",
    [
        *(CutOff, RunFailed, errors.LinkLost, errors.DeadlineExceeded),
        *(errors.SequenceUnknown, errors.SequenceLost, KeyboardInterrupt),
    ],
)
def test_request_that_may_have_run_loses_the_sequence_unless_it_was_the_first(
    recording: Recording, kind: type[BaseException]
) -> None:
    sequence = Client().sequence("vad", id=7)
    recording.failures = [kind("x"), None, kind("x")]
    with pytest.raises(kind):
        sequence.infer({})
    sequence.infer({})
    assert recording.parameters == marks(7, "start", "start")
    with pytest.raises(kind):
        sequence.infer({})
    with pytest.raises(errors.SequenceLost, match="sequence 7 is lost"):
        sequence.infer({})
    assert len(recording.asked) == 3


async def test_request_before_the_answer_of_the_one_before_is_refused_and_a_cancelled_one_may_have_run(
    recording: Recording,
) -> None:
    sequence = AsyncClient().sequence("vad", id=7)
    first = asyncio.ensure_future(sequence.infer({}))
    await asyncio.sleep(0)
    with pytest.raises(InvalidRequest, match="sequence 7 has a request under way"):
        await sequence.infer({})
    await first
    second = asyncio.ensure_future(sequence.infer({}))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    with pytest.raises(errors.SequenceLost):
        await sequence.infer({})
    assert len(recording.asked) == 1
