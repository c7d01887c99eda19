"""Which model a target names, and which targets name none."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from fleet_fakes import offer
from raw_http import LAST, connected, exchange, request, statuses
from router_http import INFER, Http
from tidy_router import check, json_body

BODY = json_body("one")
TARGET = INFER.encode()


ALIKE = b"""
    /v2/models/m/infer /v2/models/%6d/infer /v2/models/%6D/infer /v2/models/m/%69nfer /v2/%6dodels/m/infer
    /v2/models/m/versions/1/infer /v2/models/m/versions/%31/infer /v2/models/m/%76ersions/1/infer
    /v2/models/m/infer? /v2/models/m/infer?a=b&c /v2/models/m/infer?/v2/models/other/infer
    /v2/models/m/infer?a=%zz%&b=%2F /v2/models/m/infer?a?b /v2/models/m/infer#f /v2/models/m/infer?a#f
    http://x/v2/models/m/infer http://elsewhere:80/v2/models/m/infer http://x/v2/models/m/infer?a
    https://x/v2/models/m/infer
"""


@pytest.mark.parametrize("target", ALIKE.split())
async def test_one_model_has_many_targets(http: Http, target: bytes) -> None:
    link = http.node("A")
    data = request(target, BODY)
    for parts in ((data + LAST,), tuple(bytes([byte]) for byte in data + LAST)):
        first, last = await exchange(http.client.port, *parts)
        check(first, "infer", "one")
        assert last.status == 200
    assert [asked.call.model for asked in link.asks] == ["m", "m"]
    assert [asked.call.version for asked in link.asks] == ["1", "1"]


NAMES = r"""
    a%2Fb a%2fb a+b a%20b a%2Bb a:b a;x=1 a@b a!$&'()*,=~_-.b %256d %25 %C3%A9 %c3%a9 %F0%9F%98%80 a%3Fb a%23b
    %2e%2e .. . versions infer M "m"
"""


@pytest.mark.parametrize("path", NAMES.split())
async def test_name_may_be_anything_that_can_be_written(http: Http, path: str) -> None:
    name = unquote(path)
    link = http.node("A", models=(offer(name, version="12"),))
    targets = [
        f"/v2/models/{path}/{rest}" for rest in ("infer", "versions/1%32/infer", "infer?x=1")
    ]
    data = b"".join(request(target, BODY) for target in targets)
    answers = await exchange(http.client.port, data + LAST)
    assert statuses(answers) == [200] * 4
    assert [answer.json()["model_name"] for answer in answers[:3]] == [name] * 3
    assert [asked.call.model for asked in link.asks] == [name] * 3
    assert [asked.call.version for asked in link.asks] == ["12"] * 3


NOWHERE = b"""
    //v2/models/m/infer //x/v2/models/m/infer /v2//models/m/infer /v2/models//infer /v2/models/m//infer
    /v2/models/m/versions//infer /v2/models/m/versions/1/2/infer /v2/models/m/infer/ /v2/models/m/infer/more
    /v2/models/m/inference /v2/models/m/infe /V2/models/m/infer /v2/models/m/INFER /./v2/models/m/infer
    /x/../v2/models/m/infer /v2/models/m/../m/infer /v2/models/x/%2e%2e/m/infer /v2/models/m/./infer http://x
"""
OTHER_ROUTES = b"""
    /v2/models/m%2finfer /v2/models/m?/infer /v2/models/m#/infer /v2/models/m /v2/models/m/versions/infer
    / /?/v2/models/m/infer
"""
OTHER_MODELS = (
    *((each, f"no node hosts model '{each}'") for each in ("other", "%zz", "m%", "m%4", "%ff")),
    *(("m%00", r"'m\x00'"), ("m%0d%0aX-A:%20b", r"'m\r\nX-A: b'"), ("m%3f", "'m?'")),
    *(("m%2Fversions%2F1", "'m/versions/1'"), ("m/versions/9", "'9'"), ("{model}", "")),
)


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        *((f"/v2/models/{path}/infer".encode(), 404, said) for path, said in OTHER_MODELS),
        *((each, 404, "there is nothing at") for each in NOWHERE.split()),
        *((each, 405, "takes GET, HEAD, not POST") for each in OTHER_ROUTES.split()),
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
