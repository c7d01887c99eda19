"""Both clients against a server that speaks the protocol."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from certificates import Authority
from typing_extensions import override

from capamesh.client import AsyncClient, Client, Datatype, ModelEntry, Tensor, TensorSpec, asks
from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    LinkLost,
    LocalError,
    ModelNotFound,
    NoEndpoint,
    Overloaded,
    PeerError,
    TooLarge,
    TooManyRequests,
)
from capamesh.protocol.tensors import Limits

if TYPE_CHECKING:
    from oip_servers import OipServer

Connect = Callable[..., Any]


@pytest.fixture
def client(server: OipServer, connect: Connect) -> Any:
    return connect(server.url)


@pytest.mark.parametrize("is_binary", [True, False])
def test_arrays_come_back_as_they_went(client: Any, is_binary: bool) -> None:
    inputs = {
        "F": np.array([[1.5, -2.25], [0.1, 3e38]], np.float32),
        "D": np.array(0.1),
        "I": np.array([2**63 - 1, -(2**63)]),
        "B": np.array([True, False]),
        "E": np.zeros((0, 3), np.uint8),
        "T": np.arange(6, dtype=np.int16).reshape(2, 3).T,
    }
    outputs = client.infer("echo", inputs, is_binary=is_binary)
    assert list(outputs) == list(inputs)
    for name, array in inputs.items():
        assert outputs[name].dtype == array.dtype
        np.testing.assert_array_equal(outputs[name], array)


@pytest.mark.parametrize("is_binary", [True, False])
def test_text_goes_as_lists_or_objects_and_comes_back_as_bytes(
    client: Any, is_binary: bool
) -> None:
    outputs = client.infer(
        "echo",
        {"A": [["a", b"b"], ["ä", ""]], "B": np.array([b"x\0", "y"], dtype=object), "C": "one"},
        is_binary=is_binary,
    )
    assert outputs["A"].tolist() == [[b"a", b"b"], ["ä".encode(), b""]]
    assert outputs["A"].dtype == object
    assert outputs["B"].tolist() == [b"x\0", b"y"]
    assert outputs["C"].shape == ()


def test_bf16_goes_as_a_tensor_and_comes_back_as_float32(server: OipServer, client: Any) -> None:
    tensor = Tensor.from_numpy("any", np.array([1.0, 1.00390625], np.float32), Datatype.BF16)
    output = client.infer("echo", {"X": tensor})["X"]
    assert server.asked[0].inputs[0].datatype is Datatype.BF16
    assert output.dtype == np.float32
    assert output.tolist() == [1.0, 1.0]


def test_large_body_is_sent_and_read_whole(client: Any) -> None:
    array = np.random.default_rng(7).integers(0, 255, 3_000_001, dtype=np.uint8)
    np.testing.assert_array_equal(client.infer("echo", {"X": array})["X"], array)


def test_version_outputs_id_and_deadline_reach_the_router_over_one_connection(
    server: OipServer, connect: Connect
) -> None:
    one = np.ones(1, np.float32)
    client = connect(server.url)
    outputs = client.infer(
        "a/b %?#", {"X": one, "Y": one}, version="3", outputs=["Y"], id="r1", timeout_s=1.5
    )
    assert list(outputs) == ["Y"]
    for _ in range(4):
        client.infer("echo", {"X": one})
    assert len(server.connections) == 1
    connect(server.url, timeout_s=2.0).infer("echo", {"X": one})
    named, *plain, patient = server.asked
    assert (named.model, named.version, named.id) == ("a/b %?#", "3", "r1")
    assert server.paths[0] == "/v2/models/a%2Fb%20%25%3F%23/versions/3/infer"
    assert dict(named.parameters) == {"timeout": 1_500_000}
    assert [dict(asked.parameters) for asked in plain] == [{}] * 4
    assert dict(patient.parameters) == {"timeout": 2_000_000}


def test_pages_come_as_values(server: OipServer, client: Any) -> None:
    assert client.models() == [
        ModelEntry("echo", "1", "READY", ""),
        ModelEntry("echo", "2", "UNAVAILABLE", "no memory"),
    ]
    metadata = client.metadata("echo")
    assert metadata.versions == ("1", "2")
    assert metadata.inputs == (TensorSpec("X", Datatype.FP32, (-1, 2)),)
    assert metadata.outputs == (TensorSpec("Y", Datatype.INT64, (-1,)),)
    assert client.nodes() == [{"peer_id": "12D3KooW"}]
    assert client.revoke(b"signed") == (7, True)
    assert server.revocations == [b"signed"]
    # readiness is the answer, not an error
    assert [client.is_ready(*names) for names in ((), ("echo",), ("busy",), ("absent",))] == [
        *(True, True),
        *(False, False),
    ]


OURS = b'{"error": "why, and what to do"}'


@pytest.mark.parametrize(
    ("status", "code", "body", "kind"),
    [
        (404, "model_not_found", OURS, ModelNotFound),
        (503, "overloaded", OURS, Overloaded),
        (429, "too_many_requests", OURS, TooManyRequests),
        (503, "no_endpoint", OURS, NoEndpoint),
        (400, "invalid_request", OURS, InvalidRequest),
        (504, "deadline_exceeded", OURS, DeadlineExceeded),
        (418, "of_the_future", OURS, PeerError),
        # of a proxy
        (502, "", b"<h1>Bad\n Gateway</h1>", LinkLost),
        (503, "", b"", Overloaded),
        (413, "", b'{"error": "too much"}', TooLarge),
        (404, "", b"Not Found", ClientError),
        (301, "", b"", PeerError),
        (500, "", b"\xff", PeerError),
    ],
)
def test_error_comes_back_as_its_class_and_a_proxys_names_the_router_and_the_status(
    server: OipServer,
    connect: Connect,
    status: int,
    code: str,
    body: bytes,
    kind: type[CapameshError],
) -> None:
    headers = {"X-Capamesh-Error": code, "Retry-After": "7"} if code else {}
    server.failure = (status, headers, body)
    with pytest.raises(kind) as caught:
        connect(server.url, retries=0).infer("fails", {"X": np.ones(1)})
    assert type(caught.value) is kind
    if code:
        assert caught.value.message == "why, and what to do"
        assert getattr(caught.value, "retry_after_s", 7.0) == 7.0
    else:
        said = f"{server.url} answered with HTTP status {status}: "
        assert caught.value.message.startswith(said)


def test_router_that_is_not_there_is_named(connect: Connect) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # so that nobody else listens there meanwhile
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(LinkLost, match=f"cannot reach a router at {url}: .*capamesh up$"):
            connect(url).nodes()


def test_router_that_is_silent_past_the_deadline_is_named(
    server: OipServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asks, "GRACE_S", 0.0)
    with pytest.raises(
        DeadlineExceeded, match=f"no answer from {server.url} to POST .*slow/infer within 0.05 s"
    ):
        client.infer("slow", {"X": np.ones(1)}, timeout_s=0.05)


def test_answer_over_the_limit_is_refused(server: OipServer, connect: Connect) -> None:
    server.failure = (500, {}, b"x" * 2000)
    client = connect(server.url, limits=Limits(max_message_bytes=1000))
    with pytest.raises(TooLarge, match="2000 bytes; the limit is 1000"):
        client.infer("fails", {"X": np.ones(1)})
    assert client.is_ready()  # on another connection


def test_closed_client_says_so_and_may_be_closed_again(client: Any) -> None:
    client.is_ready()
    client.close()
    client.close()
    with pytest.raises(LocalError, match="closed"):
        client.is_ready()


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ({}, {}),
        ({"X": [["a"], ["b", "c"]]}, {}),
        ({"X": {"a": 1}}, {}),
        ({"X": np.ones(1, complex)}, {}),
        ({"X": np.ones(1)}, {"timeout_s": 0}),
        ({"X": np.ones(1)}, {"timeout_s": float("nan")}),
        ({"X": np.ones(1)}, {"outputs": "Y"}),
    ],
)
def test_inputs_and_options_that_are_none_are_refused_before_anything_is_sent(
    connect: Connect, inputs: dict[str, object], options: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        connect("http://127.0.0.1:1").infer("echo", inputs, **options)
    with pytest.raises(ConfigError, match="neither http nor https"):
        connect("ftp://router")


async def test_threads_share_a_client_also_where_a_loop_runs(server: OipServer) -> None:
    with Client(server.url) as client, ThreadPoolExecutor(8) as threads:
        assert client.infer("echo", {"X": np.array([4])})["X"].tolist() == [4]
        answers = list(
            threads.map(lambda n: client.infer("echo", {"X": np.array([n])})["X"][0], range(200))
        )
    assert answers == list(range(200))
    assert len(server.connections) <= 9


async def test_async_client_sends_many_at_once(server: OipServer) -> None:
    async with AsyncClient(server.url, max_connections=10) as client, asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(client.infer("echo", {"X": np.array([n])})) for n in range(100)]
    assert [run.result()["X"][0] for run in runs] == list(range(100))
    assert len(server.connections) == 10


def test_headers_go_with_every_request_and_with_no_error(
    server: OipServer, connect: Connect
) -> None:
    client = connect(server.url, headers={"Authorization": "Bearer s3cret"})
    for _ in range(2):
        client.infer("echo", {"X": [[1, 2]]})
    assert [one["authorization"] for one in server.headers] == ["Bearer s3cret"] * 2
    server.failure = (401, {}, b"who are you?")
    with pytest.raises(ClientError) as caught:
        client.infer("fails", {"X": [[1, 2]]})
    assert "s3cret" not in caught.value.message


def test_one_input_needs_no_name(server: OipServer, client: Any) -> None:
    array = np.float32([[1, 2]])
    assert client.infer("echo", array)["X"].tolist() == [[1, 2]]
    assert client.infer("echo", [1, 2])["X"].tolist() == [[1, 2]]
    assert [asked.inputs[0].datatype for asked in server.asked] == [Datatype.FP32] * 2


def test_arrays_are_cast_only_when_it_is_asked_for(server: OipServer, client: Any) -> None:
    wide = np.array([[1.5, 2.0]])
    client.infer("echo", {"X": wide})
    client.infer("echo", {"X": wide}, cast=True)
    client.infer("echo", wide, cast=True)
    assert [asked.inputs[0].datatype for asked in server.asked] == [
        Datatype.FP64,
        Datatype.FP32,
        Datatype.FP32,
    ]
    with pytest.raises(InvalidRequest, match=r"input 'X': 1e\+300 cannot be cast to FP32"):
        client.infer("echo", np.array([[1e300, 1.0]]), cast=True)
    with pytest.raises(InvalidRequest, match="'X': BYTES cannot be cast to FP32"):
        client.infer("echo", np.array([["a", "b"]]), cast=True)


def test_refusal_of_an_array_s_dtype_names_the_way_to_cast_it(
    server: OipServer, client: Any
) -> None:
    refused = b'{"error": "tensor \'X\' is FP64, the model takes FP32; the model\'s inputs are X"}'
    server.failure = (400, {"X-Capamesh-Error": "invalid_request"}, refused)
    with pytest.raises(
        InvalidRequest, match=r"; cast=True converts arrays to what the model takes$"
    ):
        client.infer("fails", {"X": np.ones((1, 2))})
    with pytest.raises(InvalidRequest, match=r"the model's inputs are X$"):
        client.infer("fails", {"Y": np.ones((1, 2))})


class Ready(BaseHTTPRequestHandler):
    """Says that it is ready."""

    @override
    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


def test_own_authority_is_trusted_where_its_file_is_named(connect: Connect, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"https://127.0.0.1:{server.server_port}"
            assert connect(url, ca=authority.file).is_ready()
            assert connect(url, ca=str(authority.file)).is_ready()
            with pytest.raises(
                LinkLost, match=r"its certificate is not trusted: .*; name the file"
            ):
                connect(url).is_ready()
        finally:
            server.shutdown()
            thread.join(10)
