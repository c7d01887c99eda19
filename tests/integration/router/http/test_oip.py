from __future__ import annotations

import json
from urllib.parse import quote

import aiohttp
import numpy as np
import pytest
from fleet_fakes import answer_of, answering, failing, fp32, garbage, hang, offer
from router_http import Http, serving

from capamesh.protocol import errors
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.oip import encode_request
from capamesh.protocol.tensors import Limits
from capamesh.router.resilience.health import CircuitState

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
BODY = {"inputs": [X]}


async def error_of(response: aiohttp.ClientResponse) -> str:
    assert response.content_type == "application/json"
    body = await response.json()
    # the code is the router's own: Triton's clients read no more than the error
    assert list(body) == ["error", "code"]
    assert body["code"] == response.headers["X-Capamesh-Error"]
    assert body["error"]
    return str(body["error"])


async def test_json_in_json_out(http: Http) -> None:
    http.node("A")
    response = await http.infer({"id": "r-1", **BODY})
    assert response.status == 200
    assert response.content_type == "application/json"
    assert response.headers["X-Capamesh-Node"] == "A"
    assert await response.json() == {
        "model_name": "m",
        "model_version": "1",
        "id": "r-1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
    }


async def test_binary_in_binary_out_and_the_header_says_where_the_json_ends(http: Http) -> None:
    link = http.node("A", models=(offer(version="3"),))
    buffers, json_bytes = encode_request([fp32("x", [3, 4])])
    response = await http.infer(b"".join(buffers), header_length=json_bytes)
    assert (response.status, response.content_type) == (200, "application/octet-stream")
    body = await response.read()
    end = int(response.headers["Inference-Header-Content-Length"])
    assert json.loads(body[:end])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(body[end:], "<f4").tolist() == [3.0, 4.0]
    assert link.calls[0].inputs == (fp32("x", [3, 4]),)
    named = {**BODY, "outputs": [{"name": "y"}]}
    assert (await http.infer(named, path="/v2/models/m/versions/3/infer")).status == 200
    assert (link.calls[1].version, link.calls[1].outputs) == ("3", ("y",))


ERRORS: list[tuple[errors.CapameshError, int]] = [
    (errors.InvalidRequest("input x is wrong"), 400),
    (errors.TooLarge("too large for the node"), 413),
    (errors.DeadlineExceeded("late"), 504),
    *(
        (each("full"), 503)
        for each in (errors.Overloaded, errors.Draining, errors.ModelUnavailable)
    ),
    (errors.LinkLost("gone"), 502),
    (errors.RunFailed("out of memory"), 500),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=[e.code for e, _ in ERRORS])
async def test_error_of_a_node_reaches_the_client_with_its_status(
    http: Http, error: errors.CapameshError, status: int
) -> None:
    http.node("A", failing(error))
    response = await http.infer(BODY)
    assert response.status == status
    assert await error_of(response) == error.message
    assert response.headers["X-Capamesh-Error"] == error.code
    assert http.fleet.counts == {}
    text = http.telemetry.exposition().decode()
    assert f'capamesh_requests_total{{code="{error.code}",model="m"}} 1.0' in text


async def test_client_sees_nothing_of_a_node_that_fails_beside_one_that_works(http: Http) -> None:
    node = http.node(
        "A", failing(errors.ModelNotFound("unloaded")), failing(errors.Overloaded("full", 1.2))
    )
    response = await http.infer(BODY)  # it is away for now: its only node has just unloaded it
    assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "model_unavailable")
    response = await http.infer(BODY)  # a node's hint comes in whole seconds, rounded up
    assert (response.status, response.headers["Retry-After"]) == (503, "2")
    assert len(node.asks) == 2
    http.node("B")
    response = await http.infer(BODY)
    assert (response.status, response.headers["X-Capamesh-Node"]) == (200, "B")


async def test_node_that_answers_garbage_is_a_bad_gateway(http: Http) -> None:
    http.node("A", garbage(b"\xc1junk"))
    response = await http.infer(BODY)
    assert response.status == 502
    assert "the metadata of a RESPONSE is not that of an answer" in await error_of(response)


@pytest.mark.parametrize(("count", "more"), [(10, ""), (12, " and 2 more")])
async def test_404_names_ten_of_the_hosted_models_and_where_the_others_are(
    http: Http, count: int, more: str
) -> None:
    http.node("A", models=tuple(offer(f"m{number:02}") for number in range(count)))
    response = await http.infer(BODY, path="/v2/models/other/infer")
    assert response.status == 404
    reported = await error_of(response)
    names = "m00, m01, m02, m03, m04, m05, m06, m07, m08, m09"
    where = f"{more} (POST /v2/repository/index lists them)" if more else ""
    assert (
        reported
        == f"Request for unknown model: no node hosts model 'other'; hosted models: {names}{where}"
    )


async def test_hosted_but_out_of_reach_is_503_with_retry_after_and_unknown_is_404(
    http: Http,
) -> None:
    http.node("A").is_usable = False
    response = await http.infer(BODY)
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    assert "no node that has it can be reached now" in await error_of(response)
    response = await http.infer(BODY, path="/v2/models/other/infer")
    assert response.status == 404
    assert (
        await error_of(response)
        == "Request for unknown model: no node hosts model 'other'; hosted models: m"
    )
    response = await http.infer(BODY, path="/v2/models/m/versions/8/infer")
    assert response.status == 404
    for path in ("/v2/models/%FF/infer", "/v2/models/%00%0A/infer", "/v2/models/a%2Fb/infer"):
        response = await http.client.post(path, json=BODY)
        assert response.status == 404
        await error_of(response)


TENSOR = '{"inputs":[{"name":"%s","datatype":"%s","shape":[%s],"data":[%s]}]}'
MALFORMED = (
    *(b"", b"{", b"[]", b"\xff\xfe", b'{"inputs": 1}', b'{"inputs": [null]}', b"[" * 100_000),
    *((TENSOR % ("x", "FP32", "1", each)).encode() for each in ("NaN", "Infinity")),
    *((TENSOR % ("x", "FP32", each, "1")).encode() for each in ("2", "-1")),
    *((TENSOR % ("x", *each)).encode() for each in (("FP99", "1", "1"), ("INT8", "1", "300"))),
    (TENSOR % ("\\ud800", "FP32", "1", "1")).encode(),
    json.dumps(BODY).encode()[:-1],
    json.dumps({**BODY, "outputs": [{"name": "y"}, {"name": "y"}]}).encode(),
)


@pytest.mark.parametrize("body", MALFORMED)
async def test_malformed_body_is_a_400_and_reaches_no_node(http: Http, body: bytes) -> None:
    link = http.node("A")
    response = await http.infer(body)
    assert response.status == 400
    await error_of(response)
    assert link.calls == []


async def test_ten_thousand_inputs_pass_and_too_many_do_not(http: Http) -> None:
    link = http.node("A")
    many = [
        {"name": f"column_{number}", "datatype": "FP32", "shape": [1, 2], "data": [number, 0]}
        for number in range(10_000)
    ]
    response = await http.infer({"inputs": many})
    assert response.status == 200
    assert [tensor.name for tensor in link.calls[0].inputs] == [one["name"] for one in many]
    async with serving(limits=Limits(max_tensors=3)) as small:
        small.node("A")
        response = await small.infer({"inputs": many[:4]})
        assert response.status == 413
        await error_of(response)


@pytest.mark.parametrize(
    ("given", "budget_ms"),
    [
        *(
            (None, 30_000),
            (0, 30_000),
            (5_000_000, 5_000),
            (2**64 - 1, 30_000),
            (20_000_000, 20_000),
        ),
        *((each, None) for each in (-1, 1.5, True, "100", "soon")),
    ],
)
async def test_timeout_is_in_microseconds_and_at_most_the_router_s_own(
    http: Http, given: object, budget_ms: int | None
) -> None:
    link = http.node("A")
    parameters = {} if given is None else {"timeout": given}
    response = await http.infer({**BODY, "parameters": parameters})
    if budget_ms is None:
        assert (response.status, "timeout" in await error_of(response)) == (400, True)
        assert link.calls == []
        return
    (sent_ms,) = link.budgets_ms
    assert sent_ms is not None
    assert (response.status, budget_ms - 3_000 < sent_ms <= budget_ms) == (200, True)


@pytest.mark.real_loop("a microsecond passes by itself")
async def test_request_whose_time_is_up_is_a_504_and_leaves_nothing_in_flight(
    http: Http,
) -> None:
    link = http.node("A", hang)
    response = await http.infer({**BODY, "parameters": {"timeout": 1}})
    assert response.status == 504
    assert link.calls == []
    response = await http.infer({**BODY, "parameters": {"timeout": 500_000}})
    assert response.status == 504
    await error_of(response)
    assert len(link.calls) == 1
    assert link.cancelled.is_set()
    assert http.fleet.counts == {}


async def test_output_that_the_node_did_not_send_or_that_json_cannot_hold(http: Http) -> None:
    http.node("A", answering(answer_of("1", fp32("y", [float("nan"), 0.0]))))
    response = await http.infer(BODY)
    assert response.status == 500
    assert response.headers["X-Capamesh-Error"] == "not_in_json"
    await error_of(response)
    buffers, json_bytes = encode_request([fp32("x", [3, 4])])
    assert (await http.infer(b"".join(buffers), header_length=json_bytes)).status == 200
    response = await http.infer({**BODY, "outputs": [{"name": "z"}]})
    assert response.status == 400
    await error_of(response)


# what a request asks of its way


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"Max-Price": "1.49"}, "price 1.5 is over the cap 1.49"),
        ({"Region": "us"}, "region eu is not us"),
        ({"Region": "us,asia"}, "region eu is not one of asia, us"),
        ({"Device": "cuda"}, "device cpu is not cuda"),
        ({"Nodes": "C"}, "not one of the nodes that the request names"),
    ],
)
async def test_wish_that_no_node_meets_is_named_and_no_one_is_told_to_come_again(
    http: Http, headers: dict[str, str], why: str
) -> None:
    links = [http.node("A"), http.node("B")]
    links[1].is_usable = False  # its link would be back, but that would not help
    wishes = {f"X-Capamesh-{name}": value for name, value in headers.items()}
    response = await http.infer(BODY, headers={**wishes, "X-Capamesh-Explain": "1"})
    assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "nobody_fits")
    assert "Retry-After" not in response.headers
    assert await error_of(response) == (
        f"model 'm' is hosted, but none of its nodes may have this request (2 of 2: {why}); to wait does not help: ask"
        " for something else, or have the operator change it"
    )
    explained = json.loads(response.headers["X-Capamesh-Explanation"])
    assert (explained["chosen"], explained["replica_count"]) == ([], 2)
    assert explained["replicas"][0]["refusal"] == why
    text = http.telemetry.exposition().decode()
    assert 'capamesh_requests_total{code="nobody_fits",model="m"} 1.0' in text
    assert [link.calls for link in links] == [[], []]
    # one that an unreachable node meets is worth another try
    response = await http.infer(BODY, headers={"X-Capamesh-Nodes": "B"})
    assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "no_endpoint")
    assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("Max-Price", "cheap", "X-Capamesh-Max-Price is 'cheap'; a number from 0 is expected, for"),
        ("Policy", "best", "X-Capamesh-Policy is 'best'; the policies are affinity, cheapest, "),
    ],
)
async def test_wish_that_is_none_is_a_400_with_its_name_and_value(
    http: Http, name: str, value: str, said: str
) -> None:
    link = http.node("A")
    response = await http.infer(BODY, headers={f"X-Capamesh-{name}": value})
    assert response.status == 400
    assert (await error_of(response)).startswith(said)
    assert link.calls == []
    text = http.telemetry.exposition().decode()
    assert 'capamesh_requests_total{code="invalid_request",model="m"} 1.0' in text


async def test_request_is_explained_on_demand_with_those_that_were_asked(http: Http) -> None:
    http.node("A", failing(errors.Draining("leaving")))
    http.node("B", failing(errors.RunFailed("out of memory")))
    response = await http.infer(BODY, headers={"X-Capamesh-Explain": "1"})
    assert response.status == 500
    explained = json.loads(response.headers["X-Capamesh-Explanation"])
    assert (explained["model"], explained["version"], explained["replica_count"]) == ("m", "1", 2)
    assert (explained["policy"], explained["chosen"]) == ("in-order", ["A", "B"])
    assert [(each["peer_id"], each["outcome"]) for each in explained["attempts"]] == [
        ("A", "draining: leaving"),
        ("B", "run_failed: out of memory"),
    ]
    first, second = explained["attempts"]
    assert 0 == first["sent_us"] <= first["ended_us"] <= second["sent_us"] <= second["ended_us"]
    assert [shown["is_chosen"] for shown in explained["replicas"]] == [True, True]
    http.node("C")
    http.endpoints[0].health.hold(CircuitState.FORCED_OPEN)
    wishes = {"X-Capamesh-Nodes": "A,C"}
    assert "X-Capamesh-Explanation" not in (await http.infer(BODY, headers=wishes)).headers
    response = await http.infer(BODY, headers={**wishes, "x-capamesh-EXPLAIN": " True "})
    explained = json.loads(response.headers["X-Capamesh-Explanation"])
    assert explained["chosen"] == ["C"]
    shown = {each["peer_id"]: each.get("refusal") for each in explained["replicas"]}
    assert (shown["A"], shown["C"]) == ("operator holds it open", None)


async def test_router_that_is_full_says_when_to_come_again_and_why_and_asks_nobody(
    http: Http,
) -> None:
    link = http.node("A")
    (replica,) = http.fleet.replicas
    replica.reported(LoadReport(8, 7, 8, 7_000_000, 1_000_000), http.fleet.clock())
    explain = {"X-Capamesh-Explain": "1"}
    response = await http.infer({**BODY, "parameters": {"timeout": 1_000_000}}, headers=explain)
    assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "overloaded")
    assert int(response.headers["Retry-After"]) >= 2
    assert "model 'm' is overloaded: it would wait " in await error_of(response)
    explained = json.loads(response.headers["X-Capamesh-Explanation"])
    assert explained["chosen"] == []
    (shown,) = explained["replicas"]
    assert (shown["is_chosen"], shown["node_in_flight"], shown["node_limit"]) == (False, 8, 8)
    assert (link.calls, http.fleet.counts) == ([], {})
    response = await http.infer(BODY, path="/v2/models/other/infer", headers=explain)
    assert response.status == 404  # nobody hosts it, and the error says so
    assert "X-Capamesh-Explanation" not in response.headers


async def test_explanation_of_many_wordy_replicas_fits_in_a_header(http: Http) -> None:
    name = "\N{GRINNING FACE}" * 256  # as long as an advert allows, 12 characters each in JSON
    peers = [f"{number:052}" for number in range(40)]
    for peer in peers:
        http.node(peer, models=(offer(name),))
    for endpoint in http.endpoints:
        endpoint.address = "\N{GRINNING FACE}" * 255
    path, explain = f"/v2/models/{quote(name)}/infer", {"X-Capamesh-Explain": "1"}
    text = (await http.infer(BODY, path=path, headers=explain)).headers["X-Capamesh-Explanation"]
    assert len(text) <= 8_000
    explained = json.loads(text)
    assert explained["replica_count"] == 40
    assert 1 <= len(explained["replicas"]) < 16
    assert explained["chosen"] == [explained["replicas"][0]["peer_id"]] == ["0" * 52]


async def test_request_s_headers_decide_where_it_goes_and_who_chooses(http: Http) -> None:
    links = {peer: http.node(peer) for peer in "ABCDEFGH"}
    assert (await http.infer(BODY, headers={"X-Capamesh-Nodes": "B, X"})).status == 200
    assert [peer for peer, link in links.items() if link.calls] == ["B"]
    nodes = []
    for headers in (
        {"X-Capamesh-Policy": "random"},
        {"X-Capamesh-Policy": "round-robin", "X-Capamesh-Affinity": "session"},
        *[{"X-Capamesh-Affinity": "session"}] * 3,
    ):
        response = await http.infer(BODY, headers=headers)
        assert response.status == 200
        nodes.append(response.headers["X-Capamesh-Node"])
    assert set(http.fleet.policies) == {"in-order", "random", "round-robin", "affinity"}
    assert len(set(nodes[2:])) == 1


async def test_parameters_reach_the_node_and_a_sequence_stays_at_one(http: Http) -> None:
    links = [http.node(peer) for peer in "ABCDEFGH"]
    for number in range(3):
        parameters = {"sequence_id": 42, "sequence_start": number == 0, "priority": 3}
        assert (await http.infer({**BODY, "parameters": parameters})).status == 200
    (calls,) = [link.calls for link in links if link.calls]
    assert [(one.priority, one.sequence) for one in calls] == [
        (3, SequenceMark(42, is_start)) for is_start in (True, False, False)
    ]
