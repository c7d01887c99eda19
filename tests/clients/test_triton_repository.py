"""A folder as Triton users have it, served by real processes to Triton's own clients, unmodified.

They call what Triton's example programs call, each in a test of its family; docs/how-to/use-tritons-tools.md lists the programs.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from clusters import nodes_at
from google.protobuf.json_format import MessageToDict
from triton_models import (
    EXAMPLES,
    ZERO_START,
    file_start,
    write_examples,
    write_implicit,
    write_texts,
)
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from capamesh.cli.local_cluster import LocalCluster
from capamesh.node.runtime.onnxruntime import backend as onnx_backend

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
BROKEN = "broken"
LIMIT_S = 60.0
"""Far more than an answer takes."""
READY = (*EXAMPLES, "filed", "zero", "both", "texts")
ENSEMBLE = """
name: "both" platform: "ensemble" max_batch_size: 8
input { name: "A" data_type: TYPE_INT32 dims: [ 16 ] }
input { name: "B" data_type: TYPE_INT32 dims: [ 16 ] }
output { name: "SUM" data_type: TYPE_INT32 dims: [ 16 ] }
ensemble_scheduling { step {
  model_name: "simple" model_version: -1
  input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "B" }
  output_map { key: "OUTPUT0" value: "SUM" }
} }
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    """A router and one node with Triton's examples, models with states, and one that is refused."""
    folder = tmp_path_factory.mktemp("triton")
    models = folder / "models"
    models.mkdir()
    write_examples(models)
    write_implicit(models, "zero", ZERO_START)
    write_implicit(models, "filed", file_start(models, "filed", 100))
    write_texts(models, "texts")
    write_implicit(models, BROKEN)
    (models / BROKEN / "config.pbtxt").write_text("max_batch_sise: 8")
    (models / "both" / "1").mkdir(parents=True)
    (models / "both" / "config.pbtxt").write_text(ENSEMBLE)
    async with LocalCluster(
        folder / "cluster", models, nodes=1, node_options=("--threads", "1")
    ) as running:
        await running.wait_routable(1, READY)
        yield running


def client(cluster: LocalCluster, wire: Any = triton, **options: Any) -> Any:
    return wire.InferenceServerClient(cluster.http_url.removeprefix("http://"), **options)


def tensor(name: str, array: Any, wire: Any = triton, **options: Any) -> Any:
    given = wire.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array, **options)
    return given


def number(value: int) -> Any:
    return np.array([[value]], np.int32)


async def test_models_with_one_request_each_answer_right(cluster: LocalCluster) -> None:
    a, b = np.arange(32, dtype=np.int32).reshape(2, 16), np.ones((2, 16), np.int32)

    def asked() -> None:
        with client(cluster) as server:
            answer = server.infer("both", [tensor("A", a), tensor("B", b)])
            np.testing.assert_array_equal(answer.as_numpy("SUM"), a + 1)
            (picture,) = server.get_model_metadata("densenet_onnx")["inputs"]
            assert picture["shape"] == [3, 224, 224]
            given = [tensor(picture["name"], np.ones((3, 224, 224), np.float32))]
            assert server.infer("densenet_onnx", given).as_numpy("fc6_1").shape == (1000,)
            if onnx_backend._raw_text_runtime() is not None:  # else ONNX Runtime takes UTF-8 alone
                odd = np.array([[b"\xff\xfe\x00\x80", b"a\x00b", b"", b"\x00"]], object)
                answer = server.infer("texts", [tensor("INPUT0", odd)])
                assert answer.as_numpy("OUTPUT0").tolist() == odd.tolist()

    await asyncio.to_thread(asked)


def sent(
    cluster: LocalCluster, model: str, values: list[int], key: int | str, *, is_ending: bool = True
) -> list[int]:
    """Return the answers to a sequence of requests."""
    answers: list[int] = []
    with client(cluster) as server:
        for at, value in enumerate(values):
            answer = server.infer(
                model,
                [tensor("INPUT", number(value))],
                sequence_id=key,
                sequence_start=at == 0,
                sequence_end=is_ending and at == len(values) - 1,
            )
            answers.append(answer.as_numpy("OUTPUT").item())
    return answers


async def test_two_sequences_at_once_have_their_own_controls_and_states(
    cluster: LocalCluster,
) -> None:
    async def asked(model: str, values: list[int], key: int | str) -> list[int]:
        return await asyncio.to_thread(sent, cluster, model, values, key)

    answers = await asyncio.gather(
        asked("simple_sequence", [11, 7, 5, 3, 2, 0, 1], 1007),
        asked("simple_dyna_sequence", [11, 7, 5], 1008),
        asked("zero", [1, 2, 3], 1009),
        asked("zero", [10, 20, 30], "a text"),
        asked("filed", [1, 2, 3], 1009),
    )
    assert answers == [
        [12, 7, 5, 3, 2, 0, 1],
        [12, 7, 1013],
        [1, 3, 6],
        [10, 30, 60],
        [101, 103, 106],
    ]


async def test_refused_model_is_shown_as_failed_with_its_reason_wherever_models_are_listed(
    cluster: LocalCluster,
) -> None:
    def index() -> list[dict[str, str]]:
        with client(cluster) as server:
            found: list[dict[str, str]] = server.get_model_repository_index()
            return found

    (entry,) = [one for one in await asyncio.to_thread(index) if one["name"] == BROKEN]
    assert (entry["version"], entry["state"]) == ("1", "UNAVAILABLE")
    assert "line 1: unknown field 'max_batch_sise'" in entry["reason"]
    with pytest.raises(InferenceServerException) as caught:
        await asyncio.to_thread(sent, cluster, BROKEN, [1], 1)
    assert caught.value.status() == "503"
    assert "unknown field 'max_batch_sise'" in str(caught.value)
    (node,) = (await nodes_at(cluster.http_url)).values()
    for models in (node["models"], cluster.nodes[0].status()["models"]):
        (model,) = [one for one in models if one["name"] == BROKEN]
        assert (model["state"], model["reason"]) == ("failed", entry["reason"])


A, B = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
CHANNELS = (
    ("grpc.max_send_message_length", 2**20),
    ("grpc.keepalive_time_ms", 2**31 - 1),
    ("grpc.keepalive_permit_without_calls", False),
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.dns_enable_srv_queries", 1),
)


def check_sums(result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), A + B)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), A - B)


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
async def test_sums_by_http_at_once_later_and_together(
    cluster: LocalCluster, packing: str | None
) -> None:
    def given(wire: Any) -> dict[str, Any]:
        return {
            "inputs": [
                tensor("INPUT0", A, wire, binary_data=False),
                tensor("INPUT1", B, wire, binary_data=True),
            ],
            "query_params": {"test_1": 1, "test_2": 2},
            "headers": {"test": "1"},
            "request_compression_algorithm": packing,
            "response_compression_algorithm": packing,
        }

    wanted = [triton.InferRequestedOutput(f"OUTPUT{n}", binary_data=n == 0) for n in (0, 1)]

    def asked() -> None:
        with client(cluster, concurrency=2) as server:
            check_sums(server.infer("simple", outputs=wanted, **given(triton)))
            check_sums(server.infer("simple", **given(triton)))
            later = [server.async_infer("simple", **given(triton)) for _ in range(4)]
            for each in later:
                check_sums(each.get_result())
            with pytest.raises(InferenceServerException) as caught:
                server.infer("wrong_model_name", **given(triton))
            assert caught.value.message().startswith("Request for unknown model")
            (entry,) = server.get_inference_statistics("simple")["model_stats"]
            assert entry["name"] == "simple"

    await asyncio.to_thread(asked)
    async with client(cluster, triton_aio) as server:
        both = [server.infer("simple", **given(triton_aio)) for _ in range(2)]
        for result in await asyncio.gather(*both):
            check_sums(result)


@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
async def test_sums_by_grpc_at_once_later_and_together(
    cluster: LocalCluster, packing: str | None
) -> None:
    def given(wire: Any) -> dict[str, Any]:
        return {
            "inputs": [tensor("INPUT0", A, wire), tensor("INPUT1", B, wire)],
            "headers": {"test": "1"},
            "compression_algorithm": packing,
        }

    def asked() -> None:
        kept = triton_grpc.KeepAliveOptions(keepalive_time_ms=2**31 - 1)
        for options in ({}, {"channel_args": CHANNELS}, {"keepalive_options": kept}):
            with client(cluster, triton_grpc, **options) as server:
                check_sums(server.infer("simple", **given(triton_grpc)))
        answers: queue.Queue[Any] = queue.Queue()
        with client(cluster, triton_grpc) as server:
            server.async_infer(
                "simple",
                callback=lambda result, error: answers.put((result, error)),
                **given(triton_grpc),
            )
            result, error = answers.get(timeout=LIMIT_S)
            assert error is None
            check_sums(result)
            with pytest.raises(InferenceServerException) as caught:
                server.get_model_metadata("wrong_model_name")
            assert "Request for unknown model" in caught.value.message()
            (entry,) = server.get_inference_statistics("simple").model_stats
            assert entry.name == "simple"

    await asyncio.to_thread(asked)
    async with client(cluster, triton_grpc_aio) as server:
        both = [server.infer("simple", **given(triton_grpc_aio)) for _ in range(2)]
        for result in await asyncio.gather(*both):
            check_sums(result)


@pytest.mark.parametrize(
    ("model", "datatype", "field", "dtype"),
    [
        ("simple", "INT32", "int_contents", np.int32),
        ("simple_int8", "INT8", "int_contents", np.int8),
        ("simple_string", "BYTES", "bytes_contents", None),
    ],
)
async def test_sums_of_typed_contents(
    cluster: LocalCluster, model: str, datatype: str, field: str, dtype: Any
) -> None:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, values in (("INPUT0", A), ("INPUT1", B)):
        plain = values[0].tolist()
        one = request.inputs.add(name=name, datatype=datatype, shape=[1, 16])
        texts = [str(value).encode() for value in plain]
        getattr(one.contents, field).extend(plain if dtype else texts)
    for name in ("OUTPUT0", "OUTPUT1"):
        request.outputs.add(name=name)
    response = await asyncio.to_thread(lambda: stub_of(cluster).ModelInfer(request))
    for raw, expected in zip(response.raw_output_contents, (A + B, A - B), strict=True):
        found = (
            [int(text) for text in texts_in(raw)] if dtype is None else np.frombuffer(raw, dtype)
        )
        np.testing.assert_array_equal(found, expected[0])


def stub_of(cluster: LocalCluster) -> Any:
    channel = grpc.insecure_channel(cluster.http_url.removeprefix("http://"))
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def texts_in(raw: bytes) -> list[bytes]:
    """Return the elements of BYTES as they travel."""
    found = []
    while raw:
        (size,) = np.frombuffer(raw[:4], np.uint32)
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


def told_of_a_picture(metadata: Any, config: Any) -> tuple[str, str, Any]:
    """Return the names of the input and the output, and a picture, by what a server tells of a classifier; it is gRPC's or JSON."""
    if not isinstance(metadata, dict):
        metadata, config = (
            MessageToDict(each, preserving_proto_field_name=True) for each in (metadata, config)
        )
    (given,), (scores,) = metadata["inputs"], metadata["outputs"]
    (configured,) = config["input"]
    shape = [int(size) for size in given["shape"]]
    assert config.get("max_batch_size", 0) == 0
    assert [int(size) for size in configured["dims"]] == shape
    assert scores["datatype"] == "FP32"
    channels = {"FORMAT_NCHW": 0, "FORMAT_NHWC": 2}[configured["format"]]
    assert shape[channels] == 3
    picture = np.moveaxis(np.ones((*shape[:channels], *shape[channels + 1 :], 3)), -1, channels)
    return given["name"], scores["name"], picture.astype(np.float32)


def check_classes(count: int, texts: Any) -> None:
    """Check the three best classes, which are the last ones for any picture that is not black."""
    told = [(one if isinstance(one, str) else one.decode()).split(":") for one in texts]
    assert [(int(index), label) for _, index, label in told] == [
        (at, f"class {at}") for at in range(count - 1, count - 4, -1)
    ]
    assert [float(score) for score, _, _ in told] == sorted(
        (float(score) for score, _, _ in told), reverse=True
    )


PICTURES = pytest.mark.parametrize(
    ("model", "count"), [("densenet_onnx", 1000), ("inception_onnx", 1001)]
)


@PICTURES
@pytest.mark.parametrize("wire", [triton, triton_grpc], ids=lambda wire: wire.__name__)
async def test_pictures_are_classified_as_image_client_asks(
    cluster: LocalCluster, model: str, count: int, wire: Any
) -> None:
    def asked() -> None:
        answers: queue.Queue[Any] = queue.Queue()

        def answered(result: Any, error: Any) -> None:
            answers.put(error or result)

        with client(cluster, wire) as server:
            metadata = server.get_model_metadata(model_name=model, model_version="")
            config = server.get_model_config(model_name=model, model_version="")
            name, scores, picture = told_of_a_picture(metadata, getattr(config, "config", config))
            outputs = [wire.InferRequestedOutput(scores, class_count=3)]
            given = {"inputs": [tensor(name, picture, wire)], "outputs": outputs}
            answers.put(server.infer(model, request_id="1", **given))
            if wire is triton:
                answers.put(server.async_infer(model, request_id="2", **given).get_result())
            else:
                server.async_infer(model, callback=answered, request_id="2", **given)
                server.start_stream(answered)
                server.async_stream_infer(model, request_id="3", **given)
            for _ in range(2 if wire is triton else 3):
                result = answers.get(timeout=LIMIT_S)
                check_classes(count, result.as_numpy(scores))

    await asyncio.to_thread(asked)


@PICTURES
async def test_pictures_are_classified_as_grpc_image_client_asks(
    cluster: LocalCluster, model: str, count: int
) -> None:
    def asked() -> None:
        stub = stub_of(cluster)
        metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=model))
        config = stub.ModelConfig(service_pb2.ModelConfigRequest(name=model)).config
        pictured = {
            model_config_pb2.ModelInput.FORMAT_NCHW,
            model_config_pb2.ModelInput.FORMAT_NHWC,
        }
        assert config.input[0].format in pictured
        assert config.output[0].label_filename
        name, scores, picture = told_of_a_picture(metadata, config)
        request = service_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name=name, datatype="FP32", shape=picture.shape)
        request.raw_input_contents.append(picture.tobytes())
        request.outputs.add(name=scores).parameters["classification"].int64_param = 3
        answers = [stub.ModelInfer(request), stub.ModelInfer.future(request).result()]
        answers += [each.infer_response for each in stub.ModelStreamInfer(iter([request] * 2))]
        assert len(answers) == 4
        for answer in answers:
            (raw,) = answer.raw_output_contents
            assert list(answer.outputs[0].shape) == [3]
            check_classes(count, texts_in(raw))

    await asyncio.to_thread(asked)


async def test_sequences_on_one_stream_are_kept_apart(cluster: LocalCluster) -> None:
    values = [11, 7, 5, 3, 2, 0, 1]
    sequences: dict[int | str, list[int]] = {1007: values, 1008: [-v for v in values], "text": [4]}

    def requests() -> list[dict[str, Any]]:
        return [
            {
                "model_name": "simple_sequence",
                "inputs": [tensor("INPUT", number(value), triton_grpc)],
                "request_id": f"{key}_{at}",
                "sequence_id": key,
                "sequence_start": at == 0,
                "sequence_end": at == len(each) - 1,
            }
            for key, each in sequences.items()
            for at, value in enumerate(each)
        ]

    expected = {
        f"{key}_{at}": value + (at == 0)
        for key, each in sequences.items()
        for at, value in enumerate(each)
    }
    answers: list[tuple[Any, Any]] = []

    def asked() -> None:
        with client(cluster, triton_grpc) as server:
            server.start_stream(lambda result, error: answers.append((result, error)))
            for each in requests():
                server.async_stream_infer(**each)
            server.stop_stream()

    async def given() -> AsyncIterator[dict[str, Any]]:
        for each in requests():
            yield each

    def found() -> dict[str, int]:
        assert [error for _, error in answers] == [None] * len(expected)
        return {result.get_response().id: result.as_numpy("OUTPUT").item() for result, _ in answers}

    await asyncio.to_thread(asked)
    assert found() == expected
    answers.clear()
    async with client(cluster, triton_grpc_aio) as server:
        answers += [each async for each in server.stream_infer(given())]
    assert found() == expected


@pytest.mark.parametrize("wire", [triton, triton_grpc], ids=lambda wire: wire.__name__)
async def test_texts_come_back_with_their_zero_bytes(cluster: LocalCluster, wire: Any) -> None:
    options = [{"binary_data": True}, {"binary_data": False}] if wire is triton else [{}]

    def asked() -> None:
        with client(cluster, wire) as server:
            for text, each in itertools.product((b"he\x00llo", b"\x00\x01\x02\x03"), options):
                texts = np.array([[text] * 16], object)
                wanted = [wire.InferRequestedOutput("OUTPUT0", **each)]
                given = [tensor("INPUT0", texts, wire, **each)]
                found = server.infer("texts", given, outputs=wanted).as_numpy("OUTPUT0")
                assert [one.encode() if isinstance(one, str) else one for one in found.ravel()] == [
                    text
                ] * 16

    await asyncio.to_thread(asked)


@pytest.mark.parametrize("wire", [triton, triton_grpc], ids=lambda wire: wire.__name__)
async def test_what_does_not_fit_is_refused_with_its_reason(
    cluster: LocalCluster, wire: Any
) -> None:
    def asked() -> None:
        with client(cluster, wire) as server:
            for kind in ("system", "cuda"):
                with pytest.raises(InferenceServerException, match="shared memory is of one mach"):
                    getattr(server, f"unregister_{kind}_shared_memory")()
            with pytest.raises(InferenceServerException, match="takes the operator's key"):
                server.load_model("simple")

    await asyncio.to_thread(asked)
