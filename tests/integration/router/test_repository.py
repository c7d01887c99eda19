"""Loads and unloads over HTTP and gRPC: who may ask, and what is answered; and what is refused by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from fleet_fakes import FakeLink, echo
from router_http import Http
from tritonclient.utils import InferenceServerException

from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.links.calls import ControlCall, decode_call
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import ResponseHandler
from capamesh.protocol.tensors import Limits
from capamesh.router.access.keys import Verb
from capamesh.router.grpc.methods import SERVICE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LOAD = "/v2/repository/models/m/load"
UNLOAD = "/v2/repository/models/m/unload"
BY_ITSELF = pytest.mark.real_loop("the client has sockets and threads of its own")
OPERATOR = {"authorization": "Bearer secret"}


@pytest.fixture
def http(http: Http) -> Iterator[Http]:
    yield http
    http.log.events.clear()  # what was changed


class Control:
    """A link to a node that makes every change, or says why not."""

    def __init__(self, link: FakeLink, error: CapameshError | None = None) -> None:
        self._link = link
        self._ask = link.ask
        self._error = error
        self.asked: list[ControlCall] = []
        link.ask = self.ask  # type: ignore[method-assign]

    def ask(self, meta: bytes, body: Sequence[Any], asker: ResponseHandler) -> int:
        call, _ = decode_call(meta, memoryview(b"".join(body)), Limits())
        if not isinstance(call, ControlCall):
            return self._ask(meta, body, asker)
        self.asked.append(call)
        loop = asyncio.get_running_loop()
        if self._error is None:
            loop.call_soon(asker.answered, Answer(b"\x80", memoryview(b"")))
        else:
            loop.call_soon(asker.failed, self._error)
        return 1


async def test_operator_loads_a_model_and_is_told_who_has(http: Http) -> None:
    control = Control(http.node("a", echo))
    Control(http.node("b", echo), InvalidRequest("not here"))
    answer = await http.client.post(LOAD, headers=OPERATOR)
    why = {"code": "invalid_request", "error": "not here"}
    told = {
        "made": [{"peer_id": "a", "name": ""}],
        "refused": [{"peer_id": "b", "name": "", **why}],
    }
    told |= {"model": "m", "action": "load", "made_count": 1, "refused_count": 1}
    assert (answer.status, await answer.json()) == (200, told)
    (asked,) = control.asked
    assert (asked.action, asked.model, asked.version) == ("load", "m", "")
    assert http.log.events == ["models_changed"]


async def test_number_version_and_nodes_are_those_of_the_request(http: Http) -> None:
    controls = {peer: Control(http.node(peer, echo)) for peer in "abc"}
    answer = await http.client.post(
        LOAD,
        json={"parameters": {"nodes": 1, "version": "1"}},
        headers={**OPERATOR, "X-Capamesh-Nodes": "b,c"},
    )
    assert (await answer.json())["made_count"] == 1
    asked = {peer: [each.version for each in of.asked] for peer, of in controls.items()}
    assert asked == {"a": [], "b": ["1"], "c": []}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "not JSON"),
        (b'{"model": 1}', "the key 'model' is unknown"),
        (b'{"parameters": 1}', '"parameters" is 1; an object is expected'),
        (b'{"parameters": {"nodes": 9}}', "nodes is 9, and 1 have model 'm'"),
        (b'{"parameters": {"config": "{}"}}', "a model is loaded as it is in its node's folder"),
    ],
)
async def test_body_that_is_none_is_a_400(http: Http, body: bytes, text: str) -> None:
    control = Control(http.node("a", echo))
    answer = await http.client.post(LOAD, data=body, headers=OPERATOR)
    assert (answer.status, text in (await answer.json())["error"]) == (400, True)
    assert control.asked == []


async def test_operator_and_admins_alone_change_models(http: Http) -> None:
    control = Control(http.node("a", echo))
    answer = await http.client.post(UNLOAD)
    assert (answer.status, "operator's key" in (await answer.json())["error"]) == (401, True)
    for headers, status in (
        (http.bearer(Verb.INFER, Verb.READ, Verb.METRICS), 403),
        (http.bearer(Verb.ADMIN, models=("other",)), 403),
        ({}, 401),
    ):
        assert (await http.client.post(UNLOAD, headers=headers)).status == status
    assert control.asked == []
    for headers in (http.bearer(Verb.ADMIN, models=("m",)), OPERATOR):
        answer = await http.client.post(UNLOAD, headers=headers)
        assert answer.status == 200
    assert len(control.asked) == 2


REFUSED: dict[str, Callable[[Any], object]] = {
    "operator's key": lambda client: client.unload_model("m"),
    "'config' is not taken": lambda client: client.load_model("m", headers=OPERATOR, config="{}"),
    "no node hosts model 'gone'": lambda client: client.load_model("gone", headers=OPERATOR),
    "no trace settings here": lambda client: client.get_trace_settings(),
    "the log is set up": lambda client: client.get_log_settings(),
    "shared memory is of one machine": lambda client: client.get_cuda_shared_memory_status(),
}


@BY_ITSELF
@pytest.mark.parametrize("library", [triton_http, triton_grpc], ids=["http", "grpc"])
async def test_triton_s_client_loads_and_unloads(http: Http, library: Any) -> None:
    control = Control(http.node("a", echo))

    def asked() -> None:
        with library.InferenceServerClient(f"{http.client.host}:{http.client.port}") as client:
            client.load_model("m", headers=OPERATOR)
            client.unload_model("m", headers=OPERATOR)
            for said, ask in REFUSED.items():
                with pytest.raises(InferenceServerException, match=said):
                    ask(client)

    await asyncio.to_thread(asked)
    assert [each.action for each in control.asked] == ["load", "unload"]


@BY_ITSELF
async def test_key_of_another_model_changes_nothing_over_grpc(http: Http) -> None:
    control = Control(http.node("a", echo))
    async with grpc.aio.insecure_channel(f"{http.client.host}:{http.client.port}") as channel:
        load = channel.unary_unary(f"/{SERVICE}/RepositoryModelLoad")
        for metadata, code in (
            (http.metadata(Verb.ADMIN, models=("other",)), "PERMISSION_DENIED"),
            (http.metadata(Verb.INFER), "PERMISSION_DENIED"),
            ((), "UNAUTHENTICATED"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await load(b"\x12\x01m", metadata=metadata)
            assert caught.value.code().name == code
    assert control.asked == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/models/m/trace/setting"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/cudasharedmemory/region/r/register"),
    ],
)
async def test_extension_that_is_not_there_is_refused_by_its_name(
    http: Http, method: str, path: str
) -> None:
    answer = await http.client.request(method, path)
    assert (answer.status, answer.headers["X-Capamesh-Error"]) == (501, "unsupported")
