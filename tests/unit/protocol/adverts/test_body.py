"""The bodies of adverts: round trips, and each field's limits."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import (
    Device,
    ImageFormat,
    ModelOffer,
    ModelState,
    NodeAdvert,
    RouterAdvert,
    Sequence,
    advert_from_body,
    advert_to_body,
    router_from_body,
    router_to_body,
)
from capamesh.protocol.errors import AdvertRejected, ConfigError
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.msgpack_codec import pack, unpack_strictly
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensors import Datatype, TensorSpec
from capamesh.protocol.windows import Windows

PEER = PeerId("12D3KooWPeer")
SEQUENCE = Sequence(1_000, 3)
DIGEST = "sha256-chunks:" + "0a" * 32

ADVERT = NodeAdvert(
    peer=PEER,
    sequence=SEQUENCE,
    devices=(
        Device(
            index=0,
            kind="cuda",
            name="NVIDIA H100",
            provider="CUDAExecutionProvider",
            memory_total_bytes=80_000,
            memory_free_bytes=70_000,
            data_addresses=("10.0.0.1:7001", "[2001:db8::1]:7001"),
            runtime="onnxruntime 1.31.1",
            driver="580.65.06",
        ),
    ),
    models=(
        ModelOffer(
            name=ModelName("iris"),
            version=ModelVersion("1"),
            digest=DIGEST,
            state=ModelState.READY,
            reason="",
            inputs=(TensorSpec("X", Datatype.FP32, (-1, 4)),),
            outputs=(TensorSpec("label", Datatype.INT64, (-1,)),),
            provider="CUDAExecutionProvider",
            precision="fp16",
            best_rows=64,
            row_us=15,
            max_rows=256,
            memory_bytes=9_000,
            is_idempotent=False,
            is_deterministic=False,
            windows=Windows("X", 3, 1, 16_000),
        ),
    ),
    region="eu",
    price_per_million=0.25,
    agent_version="0.1.0",
    is_draining=False,
    interval_s=60,
    name="gpu-1",
)

ROUTER = RouterAdvert(
    peer=PEER,
    sequence=SEQUENCE,
    link_addresses=("router.example.org:7100", "router.example.org:7101"),
    region="eu",
    agent_version="0.1.0",
    nodes=600,
    name="front",
)

BODY: dict[str, Any] = advert_to_body(ADVERT)


def texts(low: int, high: int) -> st.SearchStrategy[str]:
    kept = st.characters(exclude_categories=("Cc", "Cs"))
    return st.text(kept, min_size=low, max_size=high)


addresses = st.builds(
    "{}:{}".format, st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True), st.integers(1, 65_535)
)
specs = st.builds(
    TensorSpec,
    name=texts(0, 256),
    datatype=st.sampled_from(Datatype),
    shape=st.lists(st.integers(-1, 2**53 - 1), max_size=32).map(tuple),
)
counts = st.integers(0, 2**63 - 1)
offers = st.builds(
    ModelOffer,
    name=texts(1, 256).map(ModelName),
    version=st.integers(0, 10**18 - 1).map(str).map(ModelVersion),
    digest=st.binary(min_size=32, max_size=32).map(lambda raw: "sha256-chunks:" + raw.hex()),
    state=st.sampled_from(ModelState),
    reason=texts(0, 512),
    inputs=st.lists(specs, max_size=3).map(tuple),
    outputs=st.lists(specs, max_size=3).map(tuple),
    provider=texts(0, 64),
    precision=texts(0, 32),
    **dict.fromkeys(("best_rows", "row_us", "max_rows", "memory_bytes"), counts),
    **dict.fromkeys(("is_idempotent", "is_deterministic"), st.booleans()),
    signed=st.just(b"") | st.binary(min_size=96, max_size=96),
    also_signed=st.lists(st.binary(min_size=96, max_size=96), max_size=3).map(tuple),
    labelled=st.lists(texts(0, 256), max_size=3).map(tuple),
    formats=st.dictionaries(
        texts(0, 256), st.sampled_from([ImageFormat.NCHW, ImageFormat.NHWC]), max_size=3
    ).map(lambda each: tuple(each.items())),
    max_batch_size=st.integers(0, 2**31 - 1),
    task=st.sampled_from(Task),
)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    total_bytes = draw(counts)
    return Device(
        index=draw(st.integers(0, 65_535)),
        kind=draw(texts(1, 32)),
        name=draw(texts(0, 256)),
        provider=draw(texts(1, 64)),
        memory_total_bytes=total_bytes,
        memory_free_bytes=draw(st.integers(0, total_bytes)),
        data_addresses=tuple(draw(st.lists(addresses, max_size=16))),
        runtime=draw(texts(0, 64)),
        driver=draw(texts(0, 64)),
    )


adverts = st.builds(
    NodeAdvert,
    peer=st.just(PEER),
    sequence=st.just(SEQUENCE),
    devices=st.lists(devices(), max_size=4, unique_by=lambda one: one.index).map(tuple),
    models=st.lists(offers, max_size=4, unique_by=lambda one: (one.name, one.version)).map(tuple),
    region=texts(0, 64),
    price_per_million=st.floats(0, 1e12),
    agent_version=texts(0, 64),
    is_draining=st.booleans(),
    interval_s=st.integers(1, 600),
    name=st.just("") | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True),
)


@pytest.mark.full
@given(adverts)
def test_advert_comes_back_through_the_wire(advert: NodeAdvert) -> None:
    body = unpack_strictly(pack(advert_to_body(advert)), max_array_items=1024)
    assert isinstance(body, dict)
    assert advert_from_body(body, PEER, SEQUENCE) == advert


def test_field_names_on_the_wire_are_these() -> None:
    assert BODY == {
        "devices": [
            {
                "index": 0,
                "kind": "cuda",
                "name": "NVIDIA H100",
                "provider": "CUDAExecutionProvider",
                "memory_total": 80_000,
                "memory_free": 70_000,
                "addresses": ["10.0.0.1:7001", "[2001:db8::1]:7001"],
                "runtime": "onnxruntime 1.31.1",
                "driver": "580.65.06",
            }
        ],
        "models": [
            {
                "name": "iris",
                "version": "1",
                "digest": DIGEST,
                "state": "ready",
                "reason": "",
                "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
                "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
                "provider": "CUDAExecutionProvider",
                "precision": "fp16",
                "best_rows": 64,
                "row_us": 15,
                "max_rows": 256,
                "memory": 9_000,
                "once": 1,
                "varies": 1,
                "windows": {"input": "X", "samples": 3, "context": 1, "rate_hz": 16_000},
            }
        ],
        "region": "eu",
        "price_per_million": 0.25,
        "agent_version": "0.1.0",
        "draining": False,
        "interval_s": 60,
        "name": "gpu-1",
    }
    assert router_to_body(ROUTER) == {
        "link_addresses": ["router.example.org:7100", "router.example.org:7101"],
        "region": "eu",
        "agent_version": "0.1.0",
        "nodes": 600,
        "name": "front",
    }


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    body = copy.deepcopy(BODY)
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return body


DEVICE = ("devices", 0)
MODEL = ("models", 0)
INPUT = ("models", 0, "inputs", 0)


@pytest.mark.parametrize("path", [(), DEVICE, MODEL, INPUT])
def test_unknown_fields_are_tolerated(path: tuple[str | int, ...]) -> None:
    body = changed((*path, "from_the_future"), {"a": [1, 2]})
    assert advert_from_body(body, PEER, SEQUENCE) == ADVERT


def test_publisher_learns_that_its_advert_would_be_refused_but_for_a_reason_which_is_cut() -> None:
    with pytest.raises(ConfigError, match=r"refuse this advert: field: region is 'x"):
        advert_to_body(replace(ADVERT, region="x" * 65))
    with pytest.raises(ConfigError, match=r"link_addresses is '7100', expected host:port"):
        router_to_body(replace(ROUTER, link_addresses=("7100",)))
    with pytest.raises(ConfigError, match=r"interval_s is 0, expected a whole number from 1 to"):
        advert_to_body(replace(ADVERT, interval_s=0))
    offer = replace(ADVERT.models[0], state=ModelState.FAILED, reason="bad\n\udcff" + "x" * 600)
    body = advert_to_body(replace(ADVERT, models=(offer,)))
    assert advert_from_body(body, PEER, SEQUENCE).models[0].reason == "bad ?" + "x" * 507


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
places: list[tuple[str | int, ...]] = [
    *[(key,) for key in BODY],
    *[(*DEVICE, key) for key in BODY["devices"][0]],
    *[(*MODEL, key) for key in BODY["models"][0]],
    *[(*INPUT, key) for key in BODY["models"][0]["inputs"][0]],
]


@given(st.sampled_from(places), junk)
def test_junk_in_any_field_is_read_or_rejected(path: tuple[str | int, ...], value: object) -> None:
    try:
        advert = advert_from_body(changed(path, value), PEER, SEQUENCE)
    except AdvertRejected:
        return
    advert_to_body(advert)


REFUSED: dict[tuple[str | int, ...], list[object]] = {
    ("devices",): [{}, [{}] * 65, [1], BODY["devices"] * 2],
    (*DEVICE, "index"): [True, -1, 65_536, 0.0],
    (*DEVICE, "kind"): ["", "x" * 33],
    (*DEVICE, "name"): ["x" * 257, "\x1b[2J", b"H100"],
    (*DEVICE, "provider"): [None, ""],
    (*DEVICE, "memory_total"): [2**63],
    (*DEVICE, "memory_free"): [80_001],
    (*DEVICE, "addresses"): [["a:1"] * 17, ["a:0"], "a:1"],
    (*DEVICE, "runtime"): ["x" * 65],
    (*DEVICE, "driver"): [None, "x" * 65],
    ("models",): [[{}] * 1025, BODY["models"] * 2],
    (*MODEL, "name"): [""],
    (*MODEL, "version"): ["v1", "9" * 19, "01", "\u0661", 1],
    (*MODEL, "digest"): ["", DIGEST.upper(), DIGEST + "0"],
    (*MODEL, "signed"): [b"x" * 95, b"x" * 97, "x" * 96],
    (*MODEL, "also_signed"): [b"x" * 97, b"x" * 384],
    (*MODEL, "task"): ["x" * 33],
    (*MODEL, "windows"): [
        {"input": "X"},
        {"input": "X", "samples": 0},
        {"input": "X", "samples": 4, "constants": {"c": "1"}},
        {"input": "X", "samples": 4, "constants": {"c": 2**54}},
    ],
    (*MODEL, "labelled"): [["x" * 257], ["\x1b[2J"], ["y"] * 1025, "y", [7], {"y": 1}],
    (*MODEL, "formats"): [{"x" * 257: "NCHW"}, {"x": "x" * 33}, {"x": 1}, ["x"]],
    (*MODEL, "batch"): [2**31, -1, 1.5],
    (*MODEL, "state"): [3],
    (*MODEL, "reason"): ["x" * 513],
    (*MODEL, "provider"): ["x" * 65],
    (*MODEL, "precision"): ["x" * 33],
    (*MODEL, "best_rows"): [-1],
    (*MODEL, "row_us"): [1.5],
    (*MODEL, "max_rows"): [True],
    (*MODEL, "memory"): [2**63],
    (*MODEL, "once"): [2],
    (*MODEL, "varies"): [2],
    (*INPUT, "datatype"): [""],
    (*INPUT, "shape"): [[-2], [1] * 33, [True]],
    ("region",): ["x" * 65],
    ("price_per_million",): [-0.1, float("nan"), float("inf"), True, "1"],
    ("agent_version",): [1],
    ("draining",): [0],
    ("interval_s",): [0, 601, 60.0],
    ("name",): ["x" * 64, "-x", "gpu 1", "gpu\n", "\x1b[2J", "\u202egpu", "\u0261pu", b"gpu", None],
}


@pytest.mark.parametrize("path", REFUSED)
def test_field_that_does_not_fit_is_named(path: tuple[str | int, ...]) -> None:
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]
    for value in REFUSED[path]:
        with pytest.raises(AdvertRejected) as caught:
            advert_from_body(changed(path, value), PEER, SEQUENCE)
        assert caught.value.reason == "field"
        assert caught.value.message.startswith(f"field: {place}")
        assert re.search(
            r" (is|has the key) .*, expected .|is missing; add it$", caught.value.message
        )
        assert len(caught.value.message) < 400


def test_every_field_without_a_default_is_required_and_an_older_advert_has_the_others() -> None:
    older = replace(
        ADVERT,
        interval_s=10,
        name="",
        devices=(replace(ADVERT.devices[0], runtime="", driver=""),),
        models=(
            replace(
                ADVERT.models[0],
                provider="",
                precision="",
                best_rows=0,
                row_us=0,
                max_rows=0,
                memory_bytes=0,
                is_idempotent=True,
                is_deterministic=True,
                windows=None,
            ),
        ),
    )
    body = advert_to_body(older)
    assert advert_from_body(body, PEER, SEQUENCE) == older
    places = [body, body["devices"][0], body["models"][0], body["models"][0]["inputs"][0]]
    for place in places:
        for key, value in list(place.items()):
            del place[key]
            with pytest.raises(AdvertRejected, match=rf"^field: .*{key} is missing; add it$"):
                advert_from_body(body, PEER, SEQUENCE)
            place[key] = value
    router = replace(ROUTER, nodes=0, name="")
    assert sorted(router_to_body(router)) == ["agent_version", "link_addresses", "region"]
    for wrong in ({"nodes": -1}, {"nodes": 2**63}, {"nodes": "9"}, {"name": "a b"}):
        with pytest.raises(AdvertRejected, match=r"^field: (nodes|name) is .*, expected"):
            router_from_body({**router_to_body(ROUTER), **wrong}, PEER, SEQUENCE)
    for each in (ROUTER, router):
        assert router_from_body(router_to_body(each), PEER, SEQUENCE) == each


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "paused"}, "its state 'paused' is not known to this version"),
        (
            {"inputs": [{"name": "X", "datatype": "FP4", "shape": [1]}]},
            "it has a tensor of a datatype that is not known to this version",
        ),
        (
            {"digest": "sha256:" + "0a" * 32},
            "sha256:0a0a0a0a0a0a is a digest of another version of Capamesh; this one names files by "
            "sha256-chunks:…",
        ),
        ({"digest": "sha256:" + "0a" * 32, "state": "failed", "reason": "no memory"}, "no memory"),
    ],
)
def test_model_of_another_version_failed_and_says_why(
    changes: dict[str, object], reason: str
) -> None:
    body = copy.deepcopy(BODY)
    body["models"] = [{**BODY["models"][0], **changes}, {**BODY["models"][0], "name": "other"}]
    first, second = advert_from_body(body, PEER, SEQUENCE).models
    assert (first.state, first.reason) == (ModelState.FAILED, reason)
    assert (first.is_ready, second.is_ready) == (False, True)
    if "state" not in changes:
        assert (first.inputs, first.outputs) == ((), ())
    assert second == replace(ADVERT.models[0], name=ModelName("other"))


def test_model_that_is_not_ready_needs_no_digest() -> None:
    for state in ("loading", "unloaded"):
        for digest in ("", "sha256:" + "0a" * 32):
            body = changed((*MODEL, "digest"), digest)
            body["models"][0]["state"] = state
            (offer,) = advert_from_body(body, PEER, SEQUENCE).models
            assert (offer.digest, offer.state) == ("", ModelState.FAILED if digest else state)


def test_windows_that_do_not_fit_the_model_count_as_none() -> None:
    fitting = {"input": "X", "samples": 4}
    with_constant = Windows("X", 4, 0, 0, (("sr", 16_000.0),))
    for windows, read in (
        ({**fitting, "input": "Y"}, None),
        ({**fitting, "samples": 5}, None),
        ({**fitting, "constants": {"Z": 1}}, None),
        (fitting, Windows("X", 4)),
        ({**fitting, "constants": {"sr": 16_000}}, with_constant),
    ):
        body = changed((*MODEL, "windows"), windows)
        if read is with_constant:
            body["models"][0]["inputs"].append({"name": "sr", "datatype": "INT64", "shape": []})
        (offer,) = advert_from_body(body, PEER, SEQUENCE).models
        assert (offer.windows, offer.state) == (read, ModelState.READY)
        again = advert_to_body(replace(ADVERT, models=(offer,)))
        assert advert_from_body(again, PEER, SEQUENCE).models == (offer,)
