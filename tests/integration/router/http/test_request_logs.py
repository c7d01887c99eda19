"""The access log and the log of slow requests, of a router core over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from fleet_fakes import hang
from router_http import Http, serving

from capamesh.router.access.keys import Key, Scope, Verb, digest_of
from capamesh.router.process import request_logs
from capamesh.router.rules.model_rules import CacheRule, ModelRules, RoutingRules

BODY = {
    "id": "seven",
    "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}],
}
KEY = "cm_abcdefgh_" + 32 * "1"
BEARER = {"Authorization": f"Bearer {KEY}"}
SECRETS = (KEY, 32 * "1", "FP32", "data")
TRACE = "0a" * 16


class Lines(list[Mapping[str, Any]]):
    """The lines that were put, in the place of a file."""

    written = dropped = lost = 0
    put = list.append

    def start(self) -> None:
        """Do nothing: lines are kept as they come."""

    close = start

    def without(self, *names: str) -> list[dict[str, Any]]:
        return [{name: each[name] for name in each if name not in names} for each in self]


ALL = {"access_log": "-", "access_log_sample": 1.0}
SLOW = {"slow_log": "-", "slow_log_s": -1.0}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    lines = Lines()
    monkeypatch.setattr(request_logs, "LineFile", lambda *_: lines)
    return lines


@pytest.fixture
async def http(lines: Lines) -> AsyncIterator[Http]:
    async with serving(**ALL) as http:
        http.node("A")
        yield http


@pytest.mark.parametrize("is_plain", [True, False], ids=["front", "aiohttp"])
async def test_inference_is_one_line_whoever_reads_it(
    http: Http, lines: Lines, is_plain: bool
) -> None:
    other = {} if is_plain else {"Expect": "100-continue"}
    http.front.keys.ring.take(
        [Key("abcdefgh", digest_of(KEY), "lab", Scope(verbs=(Verb.INFER,)))], 0.0, 0.0
    )
    traced = {"traceparent": f"00-{TRACE}-{'0b' * 8}-01"}
    assert (await http.infer(BODY, headers={**BEARER, **traced, **other})).status == 200
    (line,) = lines.without("at", "took_ms", "queue_ms", "run_ms")
    whose = {"client": "127.0.0.1", "tenant": "lab", "key": "abcdefgh", "id": "seven"}
    done = {"code": "ok", "node": "A", "attempts": 1, "bytes_in": 8, "bytes_out": 8}
    assert line == {"wire": "http", "model": "m", "version": "1", "trace": TRACE} | whose | done
    lines.clear()
    await http.infer({**BODY, "inputs": 7}, headers={**BEARER, **other})
    await http.infer(BODY, headers=other)  # without a key
    await http.infer(BODY, path="/v2/models/n/infer", headers={**BEARER, **other})
    codes = [line.get("code") or line["status"] for line in lines]
    assert codes == ["invalid_request", "unauthenticated" if is_plain else 401, "model_not_found"]
    assert not any(secret in json.dumps(lines) for secret in SECRETS)


async def test_line_says_whether_the_answer_was_kept(lines: Lines) -> None:
    async with serving(rules=RoutingRules(ModelRules(cache=CacheRule(60.0))), **ALL) as http:
        http.node("A")
        named = {"Idempotency-Key": "k"}
        for headers in ({}, {}, named, named):
            await http.infer(BODY, headers=headers)
    assert [line["cache"] for line in lines] == ["miss", "hit", "hit", "repeated"]
    assert [line["attempts"] for line in lines] == [1, 0, 0, 0]


async def test_other_requests_have_their_route(http: Http, lines: Lines) -> None:
    await http.client.get("/v1/nodes/A?a=secret")
    await http.client.get("/nothing/secret")
    common = {"wire": "http", "method": "GET", "client": "127.0.0.1"}
    found, none = lines.without("at", "took_ms")
    assert found == common | {"route": "/v1/nodes/{peer}", "status": 200}
    assert none == common | {"status": 404}


async def test_client_that_leaves_is_a_line(lines: Lines) -> None:
    async with serving(**ALL) as http:
        link = http.node("A", hang)
        asked = asyncio.create_task(http.infer(BODY))
        await link.asked.wait()
        asked.cancel()
        while not lines:
            await asyncio.sleep(0)
        assert [line["code"] for line in lines] == ["cancelled"]


async def test_slow_request_says_why_its_node_was_chosen_or_it_failed(lines: Lines) -> None:
    async with serving(**SLOW) as http:
        http.node("A")
        assert (await http.infer(BODY, path="/v2/models/n/infer")).status == 404
        (line,) = lines
        assert (line["code"], line["explanation"]) == ("model_not_found", {})
        for _ in range(11):
            assert (await http.infer(BODY)).status == 200
        assert (len(lines), http.parts.traces.logs.slow.left_out) == (10, 2)
        line = lines[1]
        assert (line["model"], line["limit_ms"]) == ("m", -1000.0)
        assert line["explanation"]["chosen"] == ["A"]
        assert line["explanation"]["replicas"][0]["peer_id"] == "A"
        assert [each["outcome"] for each in line["attempts"]] == ["answered"]
