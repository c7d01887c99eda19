"""Requests sent before the answers to those before them are answered all, and in order."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from fleet_fakes import echo, failing, hang
from raw_http import LAST, connected, exchange, request, statuses, turns
from router_http import INFER, Http
from tidy_router import KINDS, X, check, infer, json_body, of_kind

from capamesh.protocol.errors import InvalidRequest, LinkLost, Overloaded


def row(kinds: Sequence[str]) -> bytes:
    return b"".join(of_kind(kind, f"n{number}") for number, kind in enumerate(kinds))


async def test_hundreds_of_requests_in_one_write(http: Http) -> None:
    link = http.node("A")
    kinds = [KINDS[number * 7 % len(KINDS)] if number % 3 else "infer" for number in range(300)]
    answers = await exchange(http.client.port, row(kinds) + LAST)
    assert len(answers) == 301
    for number, kind in enumerate(kinds):
        check(answers[number], kind, f"n{number}")
    assert len(link.asks) == sum(kind.startswith("infer") for kind in kinds)


@pytest.mark.parametrize("first", ["infer", "infer of a version", "infer in chunks"])
@pytest.mark.parametrize(
    "then",
    [
        *(("infer",), ("metadata",), ("infer", "metadata"), ("metadata", "infer")),
        ("infer in chunks", "infer", "no JSON"),
        ("nothing there", "infer", "infer", "index"),
    ],
    ids="+".join,
)
async def test_request_that_comes_while_the_first_runs_is_answered_after_it(
    http: Http, first: str, then: tuple[str, ...]
) -> None:
    link = http.node("A", hang, echo)
    async with connected(http.client.port) as client:
        await client.send(of_kind(first, "slow"))
        await link.asked.wait()
        await client.send(row(then))
        await turns(50)
        assert client.received == b""
        link.asks[0].echo()
        check(await client.answer(), first, "slow")
        for number, kind in enumerate(then):
            check(await client.answer(), kind, f"n{number}")
        await client.send(LAST)
        assert statuses(await client.rest()) == [200]


async def test_each_of_a_row_may_be_slow(http: Http) -> None:
    link = http.node("A", hang)
    async with connected(http.client.port) as client:
        await client.send(row(["infer", "infer in chunks", "infer", "metadata", "infer"]) + LAST)
        for number, kind in enumerate(("infer", "infer in chunks", "infer")):
            while len(link.asks) <= number:
                await turns()
            await turns(30)
            assert client.received == b""
            link.asks[number].echo()
            check(await client.answer(), kind, f"n{number}")
        check(await client.answer(), "metadata", "n3")
        while len(link.asks) <= 3:
            await turns()
        link.asks[3].echo()
        check(await client.answer(), "infer", "n4")
        assert statuses(await client.rest()) == [200]


async def test_half_of_a_request_behind_one_that_runs_waits_for_its_other_half(
    http: Http,
) -> None:
    link = http.node("A", hang, echo)
    behind = infer("behind")
    for cut in (1, 20, behind.index(b"\r\n\r\n") + 2, len(behind) - 30, len(behind) - 1):
        async with connected(http.client.port) as client:
            link.asked.clear()
            await client.send(infer("first") + behind[:cut])
            await link.asked.wait()
            await turns(30)
            asked = len(link.asks)
            link.asks[-1].echo()
            check(await client.answer(), "infer", "first")
            await turns(30)
            assert (client.received, len(link.asks)) == (b"", asked)
            await client.send(behind[cut:])
            check(await client.answer(), "infer", "behind")
        link._script.insert(0, hang)


async def test_body_that_arrived_behind_does_not_touch_the_one_that_is_tried_again(
    http: Http,
) -> None:
    first = http.node("A", hang, echo)
    second = http.node("B")
    async with connected(http.client.port) as client:
        await client.send(infer("n0"))
        await first.asked.wait()
        await client.send(request(INFER, json_body("n1", inputs=[{**X, "data": [9, 9]}])))
        await turns(30)
        first.asks[0].fail(LinkLost("gone"))
        answers = [await client.answer() for _ in range(2)]
    assert [answer.json()["id"] for answer in answers] == ["n0", "n1"]
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[1, 2], [9, 9]]
    assert second.calls[0] == first.calls[0]


async def test_failure_in_a_row_is_one_answer_of_it(http: Http) -> None:
    full = failing(Overloaded("full", 3))
    http.node("A", echo, failing(InvalidRequest("not so")), echo, full)
    # the last needs no node: this one counts as full from some milliseconds behind its refusal on
    asked = row([*["infer"] * 4, "metadata"])
    answers = await exchange(http.client.port, asked + LAST)
    assert statuses(answers) == [200, 400, 200, 503, 200, 200]
    assert answers[3].get("Retry-After") == "3"
    check(answers[2], "infer", "n2")
    check(answers[4], "metadata", "n4")


async def test_answer_that_closes_is_the_last(http: Http) -> None:
    link = http.node("A", hang)
    async with connected(http.client.port) as client:
        await client.send(infer("last", b"Connection: close"))
        await link.asked.wait()
        await client.send(infer("late"), of_kind("metadata", "late"))
        link.asks[0].echo()
        (answer,) = await client.rest()
    check(answer, "infer", "last")
    assert len(link.asks) == 1


@pytest.mark.parametrize("kind", ["infer", "infer in chunks", "metadata"])
@pytest.mark.parametrize(
    "junk", [b"junk\r\n\r\n", b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
)
async def test_junk_behind_a_request_is_a_400_and_the_end(
    http: Http, kind: str, junk: bytes
) -> None:
    """In the same write, the junk may cost the request before it its answer; else it does not."""
    http.node("A")
    answers = await exchange(http.client.port, of_kind(kind, "one") + junk + LAST)
    assert statuses(answers) in ([200, 400], [400])
    answers = await exchange(http.client.port, of_kind(kind, "one"), junk + LAST)
    assert statuses(answers) == [200, 400]
    check(answers[0], kind, "one")


async def test_junk_behind_a_request_that_runs_does_not_cost_its_answer(http: Http) -> None:
    link = http.node("A", hang)
    async with connected(http.client.port) as client:
        await client.send(infer("one"))
        await link.asked.wait()
        await client.send(b"junk\r\n\r\n", infer("two"))
        await turns(30)
        link.asks[0].echo()
        first, second = await client.rest()
    check(first, "infer", "one")
    assert second.status == 400
    assert len(link.asks) == 1


async def test_connections_do_not_wait_for_each_other(http: Http) -> None:
    link = http.node("A", hang, echo)
    async with connected(http.client.port) as slow, connected(http.client.port) as quick:
        await slow.send(infer("slow") + infer("slow 2"))
        await link.asked.wait()
        for kind in KINDS:
            await quick.send(of_kind(kind, "quick"))
            check(await quick.answer(), kind, "quick")
        link.asks[0].echo()
        check(await slow.answer(), "infer", "slow")
        check(await slow.answer(), "infer", "slow 2")


async def test_two_hundred_connections_at_once_get_their_own_answers(http: Http) -> None:
    link = http.node("A", hang)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(http.client.port)) for _ in range(200)]
        for number, client in enumerate(clients):
            data = infer(f"n{number}") + of_kind("metadata", "")
            await client.send(data[:200], data[200:])
        while len(link.asks) < 200:
            await turns()
        for asked in reversed(link.asks):
            asked.echo()
        for number, client in enumerate(clients):
            check(await client.answer(), "infer", f"n{number}")
            check(await client.answer(), "metadata", "")
