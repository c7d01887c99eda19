"""Which model a target names, and which targets name none."""

from __future__ import annotations

import pytest
from fleet_fakes import offer
from raw_http import LAST, connected, exchange, request, statuses
from router_http import INFER, Http
from tidy_router import check, json_body

BODY = json_body("one")
TARGET = INFER.encode()


@pytest.mark.parametrize(
    "target",
    [
        TARGET,
        b"/v2/models/%6d/infer",
        b"/v2/models/%6D/infer",
        b"/v2/models/m/%69nfer",
        b"/v2/%6dodels/m/infer",
        b"/v2/models/m/versions/1/infer",
        b"/v2/models/m/versions/%31/infer",
        b"/v2/models/m/%76ersions/1/infer",
        TARGET + b"?",
        TARGET + b"?a=b&c",
        TARGET + b"?/v2/models/other/infer",
        TARGET + b"?a=%zz%&b=%2F",
        TARGET + b"?a?b",
        TARGET + b"#f",
        TARGET + b"?a#f",
        b"http://x" + TARGET,
        b"http://elsewhere:80" + TARGET,
        b"http://x" + TARGET + b"?a",
        b"https://x" + TARGET,
    ],
)
async def test_one_model_has_many_targets(http: Http, target: bytes) -> None:
    link = http.node("A")
    data = request(target, BODY)
    for parts in ((data + LAST,), tuple(bytes([byte]) for byte in data + LAST)):
        first, last = await exchange(http.client.port, *parts)
        check(first, "infer", "one")
        assert last.status == 200
    assert [asked.call.model for asked in link.asks] == ["m", "m"]
    assert [asked.call.version for asked in link.asks] == ["1", "1"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"a%2Fb", "a/b"),
        (b"a%2fb", "a/b"),
        (b"a+b", "a+b"),
        (b"a%20b", "a b"),
        (b"a%2Bb", "a+b"),
        (b"a:b", "a:b"),
        (b"a;x=1", "a;x=1"),
        (b"a@b", "a@b"),
        (b"a!$&'()*,=~_-.b", "a!$&'()*,=~_-.b"),
        (b"%256d", "%6d"),
        (b"%25", "%"),
        (b"%C3%A9", "é"),
        (b"%c3%a9", "é"),
        (b"%F0%9F%98%80", "\N{GRINNING FACE}"),
        (b"a%3Fb", "a?b"),
        (b"a%23b", "a#b"),
        (b"%2e%2e", ".."),
        (b"..", ".."),
        (b".", "."),
        (b"versions", "versions"),
        (b"infer", "infer"),
        (b"M", "M"),
        (b'"m"', '"m"'),
    ],
)
async def test_name_may_be_anything_that_can_be_written(http: Http, path: bytes, name: str) -> None:
    link = http.node("A", models=(offer(name, version="12"),))
    targets = [
        b"/v2/models/%b/infer" % path,
        b"/v2/models/%b/versions/1%%32/infer" % path,
        b"/v2/models/%b/infer?x=1" % path,
    ]
    data = b"".join(request(target, BODY) for target in targets)
    answers = await exchange(http.client.port, data + LAST)
    assert statuses(answers) == [200] * 4
    assert [answer.json()["model_name"] for answer in answers[:3]] == [name] * 3
    assert [asked.call.model for asked in link.asks] == [name] * 3
    assert [asked.call.version for asked in link.asks] == ["12"] * 3


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        (b"/v2/models/other/infer", 404, "no node hosts model 'other'"),
        (b"/v2/models/m/versions/9/infer", 404, "'9'"),
        (b"/v2/models/%zz/infer", 404, "no node hosts model '%zz'"),
        (b"/v2/models/m%/infer", 404, "no node hosts model 'm%'"),
        (b"/v2/models/m%4/infer", 404, "no node hosts model 'm%4'"),
        (b"/v2/models/%ff/infer", 404, "no node hosts model '%ff'"),
        (b"/v2/models/m%00/infer", 404, r"'m\x00'"),
        (b"/v2/models/m%0d%0aX-A:%20b/infer", 404, r"'m\r\nX-A: b'"),
        (b"/v2/models/m%2finfer", 405, "takes GET, HEAD, not POST"),
        (b"/v2/models/m%3f/infer", 404, "no node hosts model 'm?'"),
        (b"/v2/models/m?/infer", 405, "takes GET, HEAD, not POST"),
        (b"/v2/models/m#/infer", 405, "takes GET, HEAD, not POST"),
        (b"/v2/models/m", 405, "takes GET, HEAD, not POST"),
        (b"//v2/models/m/infer", 404, "there is nothing at"),
        (b"//x/v2/models/m/infer", 404, "there is nothing at"),
        (b"/v2//models/m/infer", 404, "there is nothing at"),
        (b"/v2/models//infer", 404, "there is nothing at"),
        (b"/v2/models/m//infer", 404, "there is nothing at"),
        (b"/v2/models/m/versions//infer", 404, "there is nothing at"),
        (b"/v2/models/m/versions/infer", 405, "takes GET, HEAD, not POST"),
        (b"/v2/models/m/versions/1/2/infer", 404, "there is nothing at"),
        (b"/v2/models/m/infer/", 404, "there is nothing at"),
        (b"/v2/models/m/infer/more", 404, "there is nothing at"),
        (b"/v2/models/m/inference", 404, "there is nothing at"),
        (b"/v2/models/m/infe", 404, "there is nothing at"),
        (b"/V2/models/m/infer", 404, "there is nothing at"),
        (b"/v2/models/m/INFER", 404, "there is nothing at"),
        (b"/./v2/models/m/infer", 404, "there is nothing at"),
        (b"/x/../v2/models/m/infer", 404, "there is nothing at"),
        (b"/v2/models/m/../m/infer", 404, "there is nothing at"),
        (b"/v2/models/x/%2e%2e/m/infer", 404, "there is nothing at"),
        (b"/v2/models/m/./infer", 404, "there is nothing at"),
        (b"/v2/models/m%2Fversions%2F1/infer", 404, "no node hosts model 'm/versions/1'"),
        (b"/v2/models/{model}/infer", 404, ""),
        (b"/", 405, "/ takes GET, HEAD, not POST"),
        (b"/?/v2/models/m/infer", 405, "/ takes GET, HEAD, not POST"),
        (b"http://x", 404, "there is nothing at"),
    ],
)
async def test_target_of_an_unknown_model_is_refused_and_the_connection_goes_on(
    http: Http, target: bytes, status: int, said: str
) -> None:
    link = http.node("A")
    data = request(target, BODY)
    for parts in ((data + LAST,), tuple(bytes([byte]) for byte in data + LAST)):
        first, last = await exchange(http.client.port, *parts)
        assert (first.status, last.status) == (status, 200)
        assert said in first.error
    assert link.asks == []


@pytest.mark.parametrize("path", [INFER, "/v2/models/m/versions/1/infer", f"{INFER}?x"])
@pytest.mark.parametrize("body", [b"", BODY])
async def test_another_method_is_a_405_that_names_post(http: Http, path: str, body: bytes) -> None:
    link = http.node("A")
    for method in (b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"PROPFIND"):
        answer, last = await exchange(http.client.port, request(path, body, method=method) + LAST)
        assert (answer.status, answer.get("Allow"), last.status) == (405, "POST", 200)
        assert answer.error == f"{path.partition('?')[0]} takes POST, not {method.decode()}"
    async with connected(http.client.port) as client:
        await client.send(request(path, body, method=b"HEAD") + LAST)
        answer = await client.answer(to=b"HEAD")
        assert statuses(await client.rest()) == [200]
    assert (answer.status, answer.get("Allow"), answer.body) == (405, "POST", b"")
    assert link.asks == []
