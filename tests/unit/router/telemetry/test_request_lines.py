"""The lines and the spans that are made of a request once it is over, and the file of lines."""

from __future__ import annotations

import errno
import json
import math
import os
import random
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog

from capamesh.protocol.errors import InvalidRequest, Overloaded
from capamesh.router.telemetry import line_file
from capamesh.router.telemetry.ended import MOST_CHARS, MOST_OF_A_KIND, SLOW_S, EndedRequests
from capamesh.router.telemetry.line_file import LineFile
from capamesh.router.telemetry.request_lines import BURST, AccessLog, Facts, SlowLog, inference_line
from capamesh.router.telemetry.tracing import (
    AttemptTimes,
    RequestTimes,
    Sampling,
    TraceParent,
    Tracer,
    parsed_traceparent,
)

LOST = AttemptTimes("A", "10.0.0.1:4100", 1.0, 1.1, "link_lost: it says 'my password'")
ANSWERED = AttemptTimes("B", "10.0.0.2:4100", 1.1, 1.25, "answered", 0.05, 0.08)
TIMES = RequestTimes(
    "m", "1", "ok", 1.0, 1.25, (LOST, ANSWERED), TraceParent("0a" * 16, "0b" * 8, is_sampled=True)
)
FACTS = Facts("grpc", "10.0.0.9", "lab", "abcd1234", "seven", 8, 16)
Lines = list[Mapping[str, Any]]


def access_log(sample: float, lines: Lines) -> AccessLog:
    return AccessLog(
        lines.append, sample, rng=random.Random(7), clock=lambda: 2.0, wall_clock=lambda: 1002.0
    )


def slow_log(lines: Lines, now: list[float], least_s: float = 1.0, factor: float = 4.0) -> SlowLog:
    return SlowLog(
        lines.append, least_s=least_s, factor=factor, clock=lambda: now[0], wall_clock=lambda: 0.0
    )


def test_line_says_who_asked_who_answered_and_what_it_took() -> None:
    lines: Lines = []
    access_log(1.0, lines).inference(TIMES, FACTS)
    answer = {"model": "m", "version": "1", "code": "ok", "node": "B", "attempts": 2}
    times = {"at": "1970-01-01T00:16:41.000Z", "took_ms": 250.0, "queue_ms": 50.0, "run_ms": 80.0}
    client = {"client": "10.0.0.9", "tenant": "lab", "key": "abcd1234", "id": "seven"}
    wire = {"wire": "grpc", "bytes_in": 8, "bytes_out": 16, "trace": "0a" * 16}
    assert lines == [answer | times | client | wire]


def test_line_has_no_text_that_could_repeat_a_body_and_no_control_character() -> None:
    lines: Lines = []
    slow_log(lines, [0.0]).write(TIMES, FACTS, 0.2, {"policy": "p2c"})
    (line,) = lines
    assert [each["outcome"] for each in line["attempts"]] == ["link_lost", "answered"]
    assert "password" not in str(line)
    assert (line["limit_ms"], line["explanation"]) == (200.0, {"policy": "p2c"})
    named = RequestTimes("a\n\u202eb" + "x" * 500, "", "model_not_found", 0.0, math.inf)
    told = inference_line(named, Facts("http", request_id="\x1b[31m"), 0.0)
    assert told["took_ms"] == 0.0
    assert len(told["model"]) < 300
    assert told["model"].isprintable()
    assert told["id"].isprintable()
    assert "node" not in told


def test_share_of_requests_is_as_asked_and_by_chance() -> None:
    log = access_log(0.1, [])
    wanted = [log.wants() for _ in range(20_000)]
    assert 1_850 < sum(wanted) < 2_150
    places = [at for at, is_wanted in enumerate(wanted) if is_wanted]
    assert len({after - at for at, after in pairwise(places)}) > 10


def test_request_is_slow_by_time_or_by_what_is_usual() -> None:
    log, one, other = slow_log([], [0.0]), object(), object()
    assert log.limit_s(one) == 1.0
    log.learn({one: 0.05, other: 0.0001})
    assert (log.limit_s(one), log.limit_s(other), log.limit_s(None)) == (0.2, 0.01, 1.0)
    assert slow_log([], [0.0], math.inf, math.inf).limit_s(one) == math.inf


def test_slow_requests_are_written_so_often_and_the_others_are_counted() -> None:
    now = [0.0]
    log = slow_log([], now)
    assert [log.may_write() for _ in range(BURST + 3)] == [True] * BURST + [False] * 3
    assert log.left_out == 3
    now[0] = 2.0
    assert [log.may_write() for _ in range(3)] == [True, True, False]
    now[0] = -50.0  # a clock that went back gives nothing
    assert not log.may_write()


def made(path: Path, **options: Any) -> LineFile:
    return LineFile(str(path), NullLog(), **options)  # type: ignore[arg-type]


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_beyond_the_bound_are_dropped_and_counted(tmp_path: Path) -> None:
    file = made(tmp_path / "a.log", most_waiting=3)
    for number in range(5):
        file.put({"n": number})
    file.write()
    assert [line["n"] for line in lines(tmp_path / "a.log")] == [0, 1, 2]
    assert file.dropped == 2


def test_full_disk_loses_lines_and_the_next_begins_on_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, room = tmp_path / "a.log", os.write, [12]

    def limited(descriptor: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = write(descriptor, data[: room[0]])
        room[0] -= taken
        return taken

    file = made(path)
    monkeypatch.setattr(os, "write", limited)
    for number in range(3):
        file.put({"n": number})
    file.write()  # a line and a half
    assert (file.written, file.lost) == (1, 2)
    room[0] = 1000
    file.put({"n": 3})
    file.write()
    assert path.read_text() == '{"n":0}\n{"n"\n{"n":3}\n'
    assert (file.written, file.lost) == (2, 2)


def test_thread_writes_what_waits_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_file, "CLOSE_S", 60.0)  # it ends when the thread does
    file = made(tmp_path / "a.log")
    file.start()
    file.put({"n": 1})
    file.close()
    assert lines(tmp_path / "a.log") == [{"n": 1}]


@pytest.fixture
def told() -> EndedRequests:
    return EndedRequests(clock=lambda: 9.0, wall_clock=lambda: 109.0)


def request(code: str = "ok", took_s: float = 0.1) -> RequestTimes:
    return RequestTimes("m", "1", code, 5.0, 5.0 + took_s)


def test_requests_that_failed_or_were_slow_are_kept_by_model_and_code(told: EndedRequests) -> None:
    told.ended(request())
    told.ended(request(took_s=SLOW_S))
    assert told.rows() == []
    told.failed("m", Overloaded("first"))
    told.ended(request("overloaded"))
    told.ended(request(took_s=SLOW_S + 0.5))
    told.failed("m", Overloaded("second\x1b[31m" + "x" * 999))
    told.ended(request("overloaded", took_s=0.2))
    failed, slow = told.rows()
    assert (failed["model"], failed["code"], failed["count"]) == ("m", "overloaded", 2)
    assert failed["error"] == ("second\ufffd[31m" + "x" * 999)[:MOST_CHARS]
    assert [each["took_s"] for each in failed["newest"]] == [0.2, 0.1]
    assert (slow["code"], slow["count"], slow["error"], slow["last_at"]) == ("ok", 1, "", 109.0)
    assert slow["newest"] == [
        {"model": "m", "version": "1", "began_at": 105.0, "took_s": 1.5, "attempts": []}
    ]


def test_flood_of_one_failure_is_counted_and_drives_no_other_out(told: EndedRequests) -> None:
    told.failed("other", InvalidRequest("bad"))
    for _ in range(1_000):
        told.failed("m", Overloaded("full"))
        told.ended(request("overloaded"))
    flood, other = told.rows()
    assert (flood["count"], len(flood["newest"])) == (1_000, MOST_OF_A_KIND)
    assert (other["model"], other["error"], other["newest"]) == ("other", "bad", [])


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = TraceParent(TRACE, SPAN, is_sampled=True)
ATTEMPTS = (
    AttemptTimes("A", "127.0.0.1:1", 10.0, 10.5, "link_lost: gone"),
    AttemptTimes("B", "127.0.0.1:2", 10.5, 11.5, "answered", queue_s=0.25, run_s=0.5),
)
NOW_S, NOW_NS = 20.0, 1_000 * 10**9


def tracer(most_waiting: int = 10) -> Tracer:
    return Tracer(
        Sampling(ratio=1.0),
        rng=random.Random(1),
        clock=lambda: NOW_S,
        wall_clock_ns=lambda: NOW_NS,
        most_waiting=most_waiting,
    )


def seconds(span: dict[str, Any]) -> list[float]:
    """Return start and end on the clock of the request's times."""
    ends = (span["startTimeUnixNano"], span["endTimeUnixNano"])
    return [(int(each) - NOW_NS) / 1e9 + NOW_S for each in ends]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (f"00-{TRACE}-{SPAN}-01", PARENT),
        (f"00-{TRACE}-{SPAN}-00", PARENT._replace(is_sampled=False)),
        (f"00-{TRACE}-{SPAN}-03", PARENT),
        (f"cc-{TRACE}-{SPAN}-01-more", PARENT),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
    ],
)
def test_traceparent_is_read_as_w3c_says_and_anything_else_is_none(
    header: str, found: TraceParent | None
) -> None:
    assert parsed_traceparent(header) == found


def test_request_and_its_attempts_become_spans_of_one_trace() -> None:
    made = tracer()
    made.ended(RequestTimes("m", "1", "ok", 10.0, 11.5, ATTEMPTS, PARENT))
    spans = root, lost, answered, queue, _ = made.taken(10)
    assert {span["traceId"] for span in spans} == {TRACE}
    parents = [SPAN, *[root["spanId"]] * 2, *[answered["spanId"]] * 2]
    assert [span["parentSpanId"] for span in spans] == parents
    assert [span["kind"] for span in (root, lost, queue)] == [2, 3, 1]
    halves = [[10.0, 10.5], [10.5, 11.5], [10.625, 10.875], [10.875, 11.375]]
    assert [*map(seconds, spans)] == [[10.0, 11.5], *halves]
    statuses = [span.get("status") for span in (root, lost, answered)]
    assert statuses == [None, {"code": 2, "message": "link_lost: gone"}, None]
    told = {each["key"]: each["value"]["stringValue"] for each in root["attributes"]}
    assert told == {"capamesh.model": "m", "capamesh.version": "1", "capamesh.code": "ok"}
    assert {"key": "capamesh.node", "value": {"stringValue": "B"}} in answered["attributes"]


def test_requests_beyond_the_room_are_dropped_and_counted() -> None:
    made = tracer(most_waiting=2)
    for _ in range(5):
        made.ended(request())
    assert (made.waiting, made.dropped) == (2, 3)
    assert [len(made.taken(most)) for most in (1, 10, 10)] == [1, 1, 0]
