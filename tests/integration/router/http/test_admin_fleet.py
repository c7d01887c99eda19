from __future__ import annotations

import datetime as dt
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import advert, echo, offer
from router_http import WALL_S, Http, network

from capamesh.protocol.adverts import NO_VERSION, ModelState
from capamesh.protocol.fleet import Joined
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.network import MAX_LIST_BYTES, MAX_ORDER_BYTES, DrainOrder, RevocationList
from capamesh.protocol.tensors import Datatype, TensorSpec

DRAINED = network()[1].identity.peer_id
UNTIL = dt.datetime(2023, 11, 15, tzinfo=dt.UTC)


async def get(http: Http, path: str) -> tuple[int, Any]:
    response = await http.client.get(path)
    assert response.content_type == "application/json"
    return response.status, await response.json()


async def index(http: Http, body: bytes = b"") -> tuple[int, Any]:
    response = await http.client.post("/v2/repository/index", data=body)
    return response.status, await response.json()


async def test_server_says_what_it_is_and_whether_it_lives_and_is_ready(http: Http) -> None:
    status, body = await get(http, "/v2")
    assert (status, body["name"]) == (200, "capamesh")
    assert body["extensions"] == [
        *("binary_tensor_data", "classification", "model_configuration", "model_repository"),
        *("schedule_policy", "sequence", "statistics"),
    ]
    assert await get(http, "/v2/health/live") == (200, {"live": True})
    assert await get(http, "/v2/health/ready") == (503, {"ready": False})
    link = http.node("A")
    assert await get(http, "/v2/health/ready") == (200, {"ready": True})
    link.is_usable = False
    assert await get(http, "/v2/health/ready") == (503, {"ready": False})
    response = await http.client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "process_cpu_seconds_total" in await response.text()


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
    assert await get(http, "/v2/models/m/versions/9") == (200, {**expected, "versions": ["9"]})
    for path, error in (
        ("m/versions/3", "model 'm' has no version '3'; its versions: 9, 10"),
        ("x", "no node hosts model 'x'; hosted models: m"),
    ):
        told = {"error": f"Request for unknown model: {error}", "code": "model_not_found"}
        assert await get(http, f"/v2/models/{path}") == (404, told)
    # as Triton words it
    status, body = await get(http, "/v2/models/m/versions/9/config")
    given = [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2], "format": "FORMAT_NONE"}]
    assert (status, body["input"]) == (200, given)
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
    none_yet = "this router has not heard of any node yet; try again soon"
    told = {"error": none_yet, "code": "no_endpoint"}
    assert await get(http, "/v2/models/m/ready") == (503, told)
    link = http.node("A")
    assert await get(http, "/v2/models/m/ready") == (200, {"name": "m", "ready": True})
    for path, status in (("x", 404), ("m/versions/1", 200), ("m/versions/2", 404)):
        assert (await get(http, f"/v2/models/{path}/ready"))[0] == status
    link.is_usable = False
    assert await get(http, "/v2/models/m/ready") == (503, {"name": "m", "ready": False})


async def test_index_lists_all_versions_or_just_those_that_are_ready(http: Http) -> None:
    refused = offer("broken", NO_VERSION, ModelState.FAILED, "capamesh.toml is not TOML")
    failed = offer("failed", "2", ModelState.FAILED, "no such operator")
    link = http.node("A", models=(offer(), failed, refused))
    ready = {"name": "m", "version": "1", "state": "READY", "reason": ""}
    lost, broken, unready = (
        {"name": name, "version": version, "state": "UNAVAILABLE", "reason": reason}
        for name, version, reason in (
            ("m", "1", "no node that has it can be reached now"),
            ("broken", "", "capamesh.toml is not TOML"),
            ("failed", "2", "no such operator"),
        )
    )
    for body in (b"", b" \n", b'{"ready": false}'):
        assert await index(http, body) == (200, [broken, unready, ready])
    for body in (b'{"ready": true}', b'{"ready": true, "more": [1]}'):
        assert await index(http, body) == (200, [ready])
    for body in (b"[]", b"{", b'{"ready": 1}', b'{"ready": null}', b"\xff", b'{"ready": NaN}'):
        status, told = await index(http, body)
        assert (status, list(told)) == (400, ["error", "code"])
    link.is_usable = False  # its node was killed, and its advert has not expired yet
    assert await index(http) == (200, [broken, unready, lost])
    assert await index(http, b'{"ready": true}') == (200, [])
    _, body = await get(http, "/v1/nodes")
    shown = body["nodes"][0]["models"][2]
    told = [shown[name] for name in ("name", "version", "state", "reason")]
    assert told == ["broken", "", "failed", "capamesh.toml is not TOML"]


async def test_unknown_route_is_not_found_in_the_protocol_s_form(http: Http) -> None:
    models = ("/v2/models/m/nothing", "/v2/models//infer", "/v2/models/a/b/infer")
    for path in ("/v", "/v3/", "/v1", *models):
        for method in ("GET", "POST"):
            response = await http.client.request(method, path)
            body = await response.json()
            assert (response.status, body["code"]) == (404, "not_found"), path
    for path, right in (
        ("/v2/models", "GET /v1/models lists the models"),
        ("/health", "GET /v2/health/ready says"),
        ("/healthz/", "GET /v2/health/ready says"),
    ):
        body = await (await http.client.get(path)).json()
        assert body["error"].startswith(f"there is nothing at {path}; {right}")
    body = await (await http.client.delete("/v1/nodes")).json()
    assert body == {"error": "/v1/nodes takes GET, HEAD, not DELETE", "code": "method_not_allowed"}


async def test_page_is_there_with_a_slash_at_its_end_too(http: Http) -> None:
    http.node("A", models=(offer(version="9"),))
    for path in ("/v2", "/v2/health/live", "/v2/models/m/versions/9/config", "/metrics"):
        plain, slashed = [await http.client.get(each) for each in (path, f"{path}/")]
        assert (plain.status, slashed.status) == (200, 200)
        assert slashed.content_type == plain.content_type


async def test_wrong_method_is_refused_with_those_there_are(http: Http) -> None:
    for method, path, allowed in (
        ("GET", "/v2/models/m/infer", {"POST"}),
        ("POST", "/v2/health/live", {"GET", "HEAD"}),
        ("DELETE", "/v2/models/m", {"GET", "HEAD"}),
        ("PUT", "/v1/drains", {"GET", "HEAD", "POST"}),
    ):
        response = await http.client.request(method, path)
        assert (response.status, list(await response.json())) == (405, ["error", "code"])
        assert set(response.headers["Allow"].split(", ")) == allowed


async def test_fleet_page_shows_nodes_models_links_and_what_became_of_requests(http: Http) -> None:
    assert await get(http, "/v1/nodes") == (200, {"nodes": [], "lost": []})
    http.node("A", echo)
    http.view.apply([Joined(advert("B", "b:1", is_draining=True))])
    http.unreachable("b:1", "refused")
    given = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    assert (await http.infer({"inputs": [given]})).status == 200
    status, body = await get(http, "/v1/nodes")
    assert status == 200
    first, second = body["nodes"]
    node = {"peer_id": "A", "region": "eu", "is_draining": False, "price_per_million": 1.5}
    node |= {"invite": "", "member_since": None, "member_until": None}
    assert first == first | node
    assert (first["models"][0]["state"], second["is_draining"]) == ("ready", True)
    (up,), (down,) = first["links"], second["links"]
    assert up == up | {"is_usable": True, "answered": 1, "failed": 0, "requests_in_flight": 0}
    (model,) = up["models"]
    load = {"node_in_flight": 1, "node_limit": 8, "bulk_in_flight": 0, "online_queue_us": 0}
    assert model == model | load | {"limit_rows": 0}
    lost = {"address": "b:1", "is_up": False, "is_usable": False, "last_error": "refused"}
    idle = {
        "state": "closed",
        "reason": "",
        "rtt_us": 0,
        **dict.fromkeys(("answered", "failed"), 0),
    }
    assert down == down | lost | idle | {"requests_in_flight": 0}
    (model,) = down["models"]
    assert model == model | {"name": "m", "state": "closed", "share": 1.0}
    http.node("C", echo)
    http.endpoints[2].health.failed(http.fleet.clock(), is_hard=True, cause="link_lost: reset")
    _, body = await get(http, "/v1/nodes")
    (avoided,) = body["nodes"][2]["links"]
    assert (avoided["state"], avoided["reason"]) == ("inhibited", "link_lost: reset")


async def test_drain_order_is_taken_over_refused_or_too_large(http: Http) -> None:
    owner, now = network()[0], http.parts.system.now()
    order = owner.drain(DrainOrder.empty(owner.network_id), {DRAINED: UNTIL}, now=now).encode()
    await taken_refused_or_too_large(http, "/v1/drains", order, MAX_ORDER_BYTES)
    response = await http.client.get("/v1/drains")
    assert (response.content_type, await response.read()) == ("application/octet-stream", order)
    http.view.apply([Joined(advert("A", "a:1")), Joined(advert(DRAINED, "b:1"))])
    _, body = await get(http, "/v1/nodes")
    assert [node["drained_until"] for node in body["nodes"]] == [None, "2023-11-15T00:00:00+00:00"]


async def taken_refused_or_too_large(http: Http, path: str, signed: bytes, most_bytes: int) -> None:
    """See that what the owner has signed is taken over, and junk and too much refused."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(most_bytes // 2)

    over = f"the request's body is over the limit of {most_bytes} bytes"
    for data, status, told in (
        (signed, 200, {"version": 1, "is_kept": True}),
        (b"junk", 400, {"code": "invalid_request"}),
        (io.BytesIO(bytes(most_bytes + 1)), 413, {"code": "too_large"}),
        (pieces(), 413, {"error": over, "code": "too_large"}),
    ):
        response = await http.client.post(path, data=data)
        body = await response.json()
        assert (response.status, {**body, **told}) == (status, body)
    assert http.log.events.pop() in {"drains_updated", "revocations_updated"}


async def test_revocation_list_is_taken_over_refused_or_too_large(http: Http) -> None:
    owner = network()[0]
    empty = RevocationList.empty(owner.network_id)
    revoked = owner.revoke(empty, invites=["ab" * 20], now=http.parts.system.now()).encode()
    await taken_refused_or_too_large(http, "/v1/revocations", revoked, MAX_LIST_BYTES)


@pytest.mark.pure
async def test_bug_in_a_page_is_a_500_in_the_protocol_s_form_and_is_logged(http: Http) -> None:
    http.view.apply([Joined(advert("A", "a:1"))])
    endpoint = http.endpoints[0]
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(endpoint, "health", None)
        said = "the router failed on this request; see its log"
        assert await get(http, "/v1/nodes") == (500, {"error": said, "code": "local_error"})
    assert http.log.events == ["request_crashed"]
    http.log.events.clear()


# statistics


def durations(**given: tuple[int, int]) -> dict[str, dict[str, int]]:
    names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        name: dict(zip(("count", "ns"), given.get(name, (0, 0)), strict=True))
        for name in (*names, "cache_hit", "cache_miss")
    }


async def test_statistics_of_a_version_that_nobody_asked_for_are_zeros(http: Http) -> None:
    http.node("A", models=(offer(version="9"), offer(version="10"), offer(name="stats")))
    counts = dict.fromkeys(("last_inference", "inference_count", "execution_count"), 0)
    zeros = {**counts, "inference_stats": durations(), "batch_stats": []}
    nine, ten, stats = (
        {"name": name, "version": version, **zeros}
        for name, version in (("m", "9"), ("m", "10"), ("stats", "1"))
    )
    for path, expected in (
        ("m/stats", [nine, ten]),
        ("m/versions/10/stats", [ten]),
        ("stats", [nine, ten, stats]),
        ("stats/stats", [stats]),
    ):
        assert await get(http, f"/v2/models/{path}") == (200, {"model_stats": expected})
    for path in ("x", "m/versions/3", "m/versions/x"):
        status, body = await get(http, f"/v2/models/{path}/stats")
        assert (status, body["code"]) == (404, "model_not_found")


async def test_statistics_count_requests_rows_and_times_in_nanoseconds(http: Http) -> None:
    fixed = (TensorSpec("x", Datatype.FP32, (3, 2)),)
    http.node("A", models=(offer(), replace(offer("n"), inputs=fixed, outputs=fixed)))
    counts = http.view.hosted(ModelName("m"), ModelVersion("1")).requests
    counts.answered, counts.answered_s, counts.rows = 5, 0.5, 9
    counts.queue_us, counts.run_us = 100, 300_000.5
    counts.failed, counts.failed_s = 1, 0.25
    counts.kept, counts.kept_s, counts.missed = 3, 0.125, 1
    counts.last_s = http.fleet.clock() - 60.0
    entry: dict[str, Any]
    (entry,) = (await get(http, "/v2/models/m/versions/1/stats"))[1]["model_stats"]
    assert entry.pop("last_inference") == pytest.approx((WALL_S - 60) * 1e3, abs=1000)
    times = durations(
        success=(5, 500_000_000),
        fail=(1, 250_000_000),
        queue=(5, 100_000),
        compute_infer=(2, 300_000_500),
        **dict.fromkeys(("compute_input", "compute_output"), (2, 0)),
        cache_hit=(3, 125_000_000),
        cache_miss=(1, 0),
    )
    counted = {"inference_count": 9, "execution_count": 2, "inference_stats": times}
    assert entry == {"name": "m", "version": "1", "batch_stats": [], **counted}
    counts = http.view.hosted(ModelName("n"), ModelVersion("1")).requests
    counts.answered, counts.rows, counts.last_s = 2, 6, http.fleet.clock()
    (entry,) = (await get(http, "/v2/models/n/stats"))[1]["model_stats"]
    assert entry["inference_count"] == 2  # requests, for the model has no rows
