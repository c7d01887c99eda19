from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import advert, echo, offer
from router_http import WALL_S, Http, network, serving

from capamesh.protocol.adverts import NO_VERSION, ModelState
from capamesh.protocol.fleet import Joined
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.network import MAX_LIST_BYTES, MAX_ORDER_BYTES, DrainOrder, RevocationList
from capamesh.protocol.tensors import Datatype, Limits, TensorSpec

DRAINED = network()[1].identity.peer_id
UNTIL = dt.datetime(2023, 11, 15, tzinfo=dt.UTC)


async def get(http: Http, path: str) -> tuple[int, object]:
    response = await http.client.get(path)
    assert response.content_type == "application/json"
    return response.status, await response.json()


async def test_health_is_exactly_what_clients_compare_with(http: Http) -> None:
    response = await http.client.get("/v2/health/live")
    assert (response.status, await response.json()) == (200, {"live": True})
    assert await get(http, "/v2/health/ready") == (503, {"ready": False})
    link = http.node("A")
    assert await get(http, "/v2/health/ready") == (200, {"ready": True})
    link.is_usable = False
    assert await get(http, "/v2/health/ready") == (503, {"ready": False})


async def test_server_says_what_it_is(http: Http) -> None:
    status, body = await get(http, "/v2")
    assert status == 200
    assert isinstance(body, dict)
    assert body["name"] == "capamesh"
    assert body["extensions"] == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "schedule_policy",
        "sequence",
        "statistics",
    ]


async def test_model_s_metadata_names_all_versions_or_the_one_asked_for(http: Http) -> None:
    http.node("A", models=(offer(version="9"), offer(version="10")))
    expected = {
        "name": "m",
        "versions": ["9", "10"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert await get(http, "/v2/models/m") == (200, expected)
    one = {**expected, "versions": ["9"]}
    assert await get(http, "/v2/models/m/versions/9") == (200, one)
    status, body = await get(http, "/v2/models/m/versions/3")
    assert (status, body) == (
        404,
        {"error": "model 'm' has no version '3'; its versions: 9, 10", "code": "model_not_found"},
    )
    status, body = await get(http, "/v2/models/x")
    assert (status, body) == (
        404,
        {"error": "no node hosts model 'x'; hosted models: m", "code": "model_not_found"},
    )


async def test_model_s_configuration_is_worded_as_triton_words_it(http: Http) -> None:
    http.node("A")
    status, body = await get(http, "/v2/models/m/config")
    assert status == 200
    assert isinstance(body, dict)
    assert body["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2]}]
    assert await get(http, "/v2/models/m/versions/1/config") == (200, body)
    assert (await get(http, "/v2/models/m/versions/2/config"))[0] == 404


@pytest.mark.parametrize(
    ("state", "code", "retry_after"),
    [
        (ModelState.LOADING, "model_unavailable", "2"),
        (ModelState.UNLOADED, "model_unavailable", "2"),
        (ModelState.FAILED, "model_failed", None),
    ],
)
async def test_model_that_exists_and_is_not_ready_is_503_on_every_page_with_its_reason(
    http: Http, state: ModelState, code: str, retry_after: str | None
) -> None:
    http.node("A", models=(offer("n"), offer("m", "1", state, "what its node said")))
    for path in ("", "/versions/1"):
        for page in ("", "/ready", "/config", "/infer"):
            url = f"/v2/models/m{path}{page}"
            if page == "/infer":
                response = await http.client.post(url, data=b'{"inputs": []}')
            else:
                response = await http.client.get(url)
            assert (response.status, response.headers["X-Capamesh-Error"]) == (503, code), url
            assert response.headers.get("Retry-After") == retry_after
            assert "what its node said" in (await response.json())["error"]


async def test_model_is_ready_while_some_node_can_be_asked(http: Http) -> None:
    status, body = await get(http, "/v2/models/m/ready")
    assert (status, body) == (
        503,
        {
            "error": "this router has not heard of any node yet; try again soon",
            "code": "no_endpoint",
        },
    )
    link = http.node("A")
    assert (await get(http, "/v2/models/x/ready"))[0] == 404
    assert await get(http, "/v2/models/m/ready") == (200, {"name": "m", "ready": True})
    assert (await get(http, "/v2/models/m/versions/1/ready"))[0] == 200
    assert (await get(http, "/v2/models/m/versions/2/ready"))[0] == 404
    link.is_usable = False
    assert await get(http, "/v2/models/m/ready") == (503, {"name": "m", "ready": False})


async def test_index_lists_all_versions_or_just_those_that_are_ready(http: Http) -> None:
    http.node("A", models=(offer(), offer("broken", "2", ModelState.FAILED, "no such operator")))
    ready = {"name": "m", "version": "1", "state": "READY", "reason": ""}
    broken = {
        "name": "broken",
        "version": "2",
        "state": "UNAVAILABLE",
        "reason": "no such operator",
    }
    for body, expected in [
        (b"", [broken, ready]),
        (b" \n", [broken, ready]),
        (b"{}", [broken, ready]),
        (b'{"ready": false}', [broken, ready]),
        (b'{"ready": true}', [ready]),
        (b'{"ready": true, "more": [1]}', [ready]),
    ]:
        response = await http.client.post("/v2/repository/index", data=body)
        assert (response.status, await response.json()) == (200, expected)
    for body in (b"[]", b"{", b'{"ready": 1}', b'{"ready": null}', b"\xff", b'{"ready": NaN}'):
        response = await http.client.post("/v2/repository/index", data=body)
        assert response.status == 400
        assert list(await response.json()) == ["error", "code"]


async def test_index_shows_as_ready_only_what_a_request_can_be_sent_to(http: Http) -> None:
    link = http.node("A")
    link.is_usable = False  # its node was killed, and its advert has not expired yet
    lost = {
        "name": "m",
        "version": "1",
        "state": "UNAVAILABLE",
        "reason": "no node that has it can be reached now",
    }
    for body, expected in [(b"", [lost]), (b'{"ready": true}', [])]:
        response = await http.client.post("/v2/repository/index", data=body)
        assert await response.json() == expected
    http.node("B")
    response = await http.client.post("/v2/repository/index", data=b"")
    assert [entry["state"] for entry in await response.json()] == ["READY"]


async def test_model_that_was_refused_before_a_version_was_known_is_in_the_lists_without_one(
    http: Http,
) -> None:
    refused = offer("broken", NO_VERSION, ModelState.FAILED, "capamesh.toml is not TOML")
    http.node("A", models=(refused,))
    response = await http.client.post("/v2/repository/index")
    assert await response.json() == [
        {
            "name": "broken",
            "version": "",
            "state": "UNAVAILABLE",
            "reason": "capamesh.toml is not TOML",
        }
    ]
    _, body = await get(http, "/v1/nodes")
    assert isinstance(body, dict)
    ((shown,),) = (node["models"] for node in body["nodes"])
    assert (shown["name"], shown["version"], shown["state"]) == ("broken", "", "failed")
    assert shown["reason"] == "capamesh.toml is not TOML"


@pytest.mark.parametrize(
    "path",
    ["/v", "/v3/", "/v2/models/m/nothing", "/v1", "/v2/models//infer", "/v2/models/a/b/infer"],
)
async def test_unknown_route_is_not_found_in_the_protocol_s_form(http: Http, path: str) -> None:
    for method in ("GET", "POST"):
        response = await http.client.request(method, path)
        assert response.status == 404
        assert list(await response.json()) == ["error"]


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/models/m", "/v2/models/m/versions/9/config", "/metrics"]
)
async def test_page_is_there_with_a_slash_at_its_end_too(http: Http, path: str) -> None:
    http.node("A", models=(offer(version="9"),))
    plain, slashed = [await http.client.get(each) for each in (path, f"{path}/")]
    assert (plain.status, slashed.status) == (200, 200)
    assert slashed.content_type == plain.content_type


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/m/infer", {"POST"}),
        ("POST", "/v2/health/live", {"GET", "HEAD"}),
        ("DELETE", "/v2/models/m", {"GET", "HEAD"}),
        ("PUT", "/v1/revocations", {"POST"}),
        ("PUT", "/v1/drains", {"GET", "HEAD", "POST"}),
        ("GET", "/v2/repository/index", {"POST"}),
    ],
)
async def test_wrong_method_is_refused_with_those_there_are(
    http: Http, method: str, path: str, allowed: set[str]
) -> None:
    response = await http.client.request(method, path)
    assert response.status == 405
    assert set(response.headers["Allow"].split(", ")) == allowed
    assert list(await response.json()) == ["error"]


async def test_fleet_page_shows_nodes_models_and_links(http: Http) -> None:
    assert await get(http, "/v1/nodes") == (200, {"nodes": []})
    http.node("A", echo)
    http.view.apply([Joined(advert("B", "b:1", is_draining=True))])
    http.unreachable("b:1", "refused")
    status, body = await get(http, "/v1/nodes")
    assert status == 200
    assert isinstance(body, dict)
    first, second = body["nodes"]
    assert (first["peer_id"], first["region"], first["is_draining"]) == ("A", "eu", False)
    assert first["price_per_million"] == 1.5
    assert first["models"][0]["state"] == "ready"
    assert first["links"][0]["is_usable"]
    assert second["is_draining"]
    keys = ("invite", "member_since", "member_until")
    assert [first[key] for key in keys] == ["", None, None]
    (down,) = second["links"]
    assert {name: down[name] for name in ("address", "is_up", "is_usable", "last_error")} == {
        "address": "b:1",
        "is_up": False,
        "is_usable": False,
        "last_error": "refused",
    }
    assert (down["state"], down["reason"], down["rtt_us"]) == ("closed", "", 0)
    assert (down["requests_in_flight"], down["answered"], down["failed"]) == (0, 0, 0)
    assert [(model["name"], model["state"], model["share"]) for model in down["models"]] == [
        ("m", "closed", 1.0)
    ]


async def test_fleet_page_shows_what_became_of_requests_and_who_is_avoided(http: Http) -> None:
    http.node("A", echo)
    http.node("B", echo)
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    )
    assert (await http.client.post("/v2/models/m/infer", data=body.encode())).status == 200
    http.endpoints[1].health.failed(http.fleet.clock(), is_hard=True, cause="link_lost: reset")
    _, page = await get(http, "/v1/nodes")
    assert isinstance(page, dict)
    (first,), (second,) = (node["links"] for node in page["nodes"])
    assert (first["answered"], first["failed"], first["requests_in_flight"]) == (1, 0, 0)
    (model,) = first["models"]
    assert (model["node_in_flight"], model["node_limit"]) == (1, 8)
    assert (model["bulk_in_flight"], model["online_queue_us"], model["limit_rows"]) == (0, 0, 0)
    assert (second["state"], second["reason"]) == ("inhibited", "link_lost: reset")


async def test_metrics_are_prometheus_text(http: Http) -> None:
    response = await http.client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "process_cpu_seconds_total" in await response.text()


async def test_drain_order_is_taken_over_refused_or_too_large(http: Http) -> None:
    now = http.parts.system.now()
    empty = DrainOrder.empty(network()[0].network_id)
    order = network()[0].drain(empty, {DRAINED: UNTIL}, now=now).encode()
    response = await http.client.post("/v1/drains", data=order)
    assert (response.status, await response.json()) == (200, {"version": 1, "is_kept": True})
    response = await http.client.post("/v1/drains", data=b"junk")
    assert (response.status, (await response.json())["code"]) == (400, "invalid_request")
    response = await http.client.post("/v1/drains", data=io.BytesIO(bytes(MAX_ORDER_BYTES + 1)))
    assert response.status == 413
    response = await http.client.get("/v1/drains")
    assert (response.content_type, await response.read()) == ("application/octet-stream", order)
    http.view.apply([Joined(advert("A", "a:1")), Joined(advert(DRAINED, "b:1"))])
    _, body = await get(http, "/v1/nodes")
    assert isinstance(body, dict)
    assert [node["drained_until"] for node in body["nodes"]] == [None, "2023-11-15T00:00:00+00:00"]


async def test_revocation_list_is_taken_over_refused_or_too_large(http: Http) -> None:
    owner = network()[0]
    empty = RevocationList.empty(owner.network_id)
    revoked = owner.revoke(empty, invites=["ab" * 20], now=http.parts.system.now()).encode()
    response = await http.client.post("/v1/revocations", data=revoked)
    assert (response.status, await response.json()) == (200, {"version": 1, "is_kept": True})
    response = await http.client.post("/v1/revocations", data=b"junk")
    assert (response.status, (await response.json())["code"]) == (400, "invalid_request")
    response = await http.client.post("/v1/revocations", data=io.BytesIO(bytes(MAX_LIST_BYTES + 1)))
    assert response.status == 413

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(MAX_LIST_BYTES // 2)

    response = await http.client.post("/v1/revocations", data=pieces())
    assert (response.status, await response.json()) == (
        413,
        {
            "error": f"the request's body is over the limit of {MAX_LIST_BYTES} bytes",
            "code": "too_large",
        },
    )


async def test_index_asked_for_with_more_than_the_largest_json_is_refused() -> None:
    async with serving(limits=Limits(max_json_bytes=100)) as http:
        response = await http.client.post("/v2/repository/index", data=b"{}".ljust(101))
        assert response.status == 413
        response = await http.client.post("/v2/repository/index", data=b"{}".ljust(100))
        assert response.status == 200


@pytest.mark.pure
async def test_bug_in_a_page_is_a_500_in_the_protocol_s_form_and_is_logged() -> None:
    async with serving(limits=Limits(max_message_bytes=100)) as http:
        http.view.apply([Joined(advert("A", "a:1"))])
        http.endpoints[0].health = None  # type: ignore[assignment]
        response = await http.client.get("/v1/nodes")
        assert response.status == 500
        assert json.loads(await response.read()) == {
            "error": "the router failed on this request; see its log",
            "code": "local_error",
        }
        assert http.log.events == ["request_crashed"]


# statistics


def durations(**given: tuple[int, int]) -> dict[str, dict[str, int]]:
    names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        name: dict(zip(("count", "ns"), given.get(name, (0, 0)), strict=True))
        for name in (*names, "cache_hit", "cache_miss")
    }


async def test_statistics_of_a_version_that_nobody_asked_for_are_zeros(http: Http) -> None:
    http.node("A", models=(offer(version="9"), offer(version="10"), offer(name="stats")))
    zeros = {
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": durations(),
        "batch_stats": [],
    }
    nine, ten, stats = (
        {"name": name, "version": version, **zeros}
        for name, version in (("m", "9"), ("m", "10"), ("stats", "1"))
    )
    assert await get(http, "/v2/models/m/stats") == (200, {"model_stats": [nine, ten]})
    assert await get(http, "/v2/models/m/versions/10/stats") == (200, {"model_stats": [ten]})
    assert await get(http, "/v2/models/stats") == (200, {"model_stats": [nine, ten, stats]})
    assert await get(http, "/v2/models/stats/stats") == (200, {"model_stats": [stats]})
    for path in ("x", "m/versions/3", "m/versions/x"):
        status, body = await get(http, f"/v2/models/{path}/stats")
        assert isinstance(body, dict)
        assert (status, body["code"]) == (404, "model_not_found")


async def test_statistics_count_requests_rows_and_times_in_nanoseconds(http: Http) -> None:
    http.node("A")
    counts = http.view.hosted(ModelName("m"), ModelVersion("1")).requests
    counts.answered, counts.answered_s, counts.rows = 5, 0.5, 9
    counts.queue_us, counts.run_us = 100, 300_000.5
    counts.failed, counts.failed_s = 1, 0.25
    counts.kept, counts.kept_s, counts.missed = 3, 0.125, 1
    counts.last_s = http.fleet.clock() - 60.0
    response = await http.client.get("/v2/models/m/versions/1/stats")
    assert response.status == 200
    entry: dict[str, Any]
    (entry,) = (await response.json())["model_stats"]
    assert entry.pop("last_inference") == pytest.approx((WALL_S - 60) * 1e3, abs=1000)
    assert entry == {
        "name": "m",
        "version": "1",
        "inference_count": 9,
        "execution_count": 2,
        "inference_stats": durations(
            success=(5, 500_000_000),
            fail=(1, 250_000_000),
            queue=(5, 100_000),
            compute_input=(2, 0),
            compute_infer=(2, 300_000_500),
            compute_output=(2, 0),
            cache_hit=(3, 125_000_000),
            cache_miss=(1, 0),
        ),
        "batch_stats": [],
    }


async def test_statistics_of_a_model_without_rows_count_its_requests(http: Http) -> None:
    fixed = (TensorSpec("x", Datatype.FP32, (3, 2)),)
    http.node("A", models=(replace(offer(), inputs=fixed, outputs=fixed),))
    counts = http.view.hosted(ModelName("m"), ModelVersion("1")).requests
    counts.answered, counts.rows, counts.last_s = 2, 6, http.fleet.clock()
    response = await http.client.get("/v2/models/m/stats")
    assert (await response.json())["model_stats"][0]["inference_count"] == 2


async def test_bad_body_for_a_model_that_nobody_hosts_is_told_the_hosted_ones(http: Http) -> None:
    http.node("A")
    response = await http.client.post("/v2/models/x/infer", data=b"{")
    assert response.status == 404
    assert (await response.json())["error"] == "no node hosts model 'x'; hosted models: m"
    assert (await http.client.post("/v2/models/m/infer", data=b"{")).status == 400
