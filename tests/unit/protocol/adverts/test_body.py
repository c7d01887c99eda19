"""The bodies of adverts: round trips, and each field's limits."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import (
    Device,
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
    best_rows=counts,
    row_us=counts,
    max_rows=counts,
    memory_bytes=counts,
    is_idempotent=st.booleans(),
    is_deterministic=st.booleans(),
    signed=st.just(b"") | st.binary(min_size=96, max_size=96),
    also_signed=st.lists(st.binary(min_size=96, max_size=96), max_size=3).map(tuple),
    labelled=st.lists(texts(0, 256), max_size=3).map(tuple),
    task=st.sampled_from(Task),
)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    total_bytes = draw(st.integers(0, 2**63 - 1))
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


def test_routers_advert_comes_back_through_the_wire() -> None:
    body = unpack_strictly(pack(router_to_body(ROUTER)), max_array_items=1024)
    assert isinstance(body, dict)
    assert router_from_body(body, PEER, SEQUENCE) == ROUTER


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


def missing(path: tuple[str | int, ...]) -> dict[str, Any]:
    body = copy.deepcopy(BODY)
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return body


DEVICE = ("devices", 0)
MODEL = ("models", 0)
INPUT = ("models", 0, "inputs", 0)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("devices",), {}, "devices is a table of 0 keys, expected a list of at most 64 entries"),
        (("devices",), [{}] * 65, "devices is a list of 65, expected a list of at most 64 entries"),
        (("devices",), [1], "devices[0] is 1, expected a table with index, kind, name,"),
        (("devices",), BODY["devices"] * 2, "devices[1].index is 0"),
        ((*DEVICE, "index"), True, "devices[0].index is true, expected a whole number from 0 to 65535"),
        ((*DEVICE, "index"), -1, "devices[0].index is -1, expected a whole number from 0 to 65535"),
        ((*DEVICE, "index"), 0.0, "devices[0].index is 0.0"),
        ((*DEVICE, "kind"), "", "devices[0].kind is ''"),
        ((*DEVICE, "name"), "x" * 257, "devices[0].name"),
        ((*DEVICE, "name"), "\x1b[2J", "devices[0].name is '\\x1b[2J', expected printable text of at most 256 characters"),
        ((*DEVICE, "name"), b"H100", "devices[0].name"),
        ((*DEVICE, "provider"), None, "devices[0].provider is None"),
        ((*DEVICE, "memory_total"), 2**63, "devices[0].memory_total"),
        ((*DEVICE, "memory_free"), 80_001, "devices[0].memory_free is 80001, expected a whole number from 0 to 80000"),
        ((*DEVICE, "addresses"), ["a:1"] * 17, "devices[0].addresses is a list of 17, expected a list of at most 16 entries, each printable"),
        ((*DEVICE, "addresses"), ["a:0"], "devices[0].addresses is 'a:0', expected host:port"),
        ((*DEVICE, "addresses"), "a:1", "devices[0].addresses is 'a:1'"),
        (("models",), [{}] * 1025, "models is a list of 1025, expected a list of at most 1024 entries"),
        (("models",), BODY["models"] * 2, "models[1].name is 'iris 1', expected a model and version listed once"),
        ((*MODEL, "name"), "", "models[0].name"),
        ((*MODEL, "version"), "v1", "models[0].version is 'v1', expected 1 to 20 decimal digits"),
        ((*MODEL, "version"), "9" * 19, "models[0].version is '9999999999999999999'"),
        ((*MODEL, "version"), "01", "models[0].version is '01', expected 1 to 18 decimal digits without"),
        ((*MODEL, "signed"), b"x" * 95, "models[0].signed is 95 bytes, expected 96 bytes"),
        ((*MODEL, "signed"), b"x" * 97, "models[0].signed"),
        ((*MODEL, "also_signed"), b"x" * 97, "models[0].also_signed is 97, expected 96 bytes"),
        ((*MODEL, "also_signed"), b"x" * 384, "models[0].also_signed"),
        ((*MODEL, "task"), "x" * 33, "models[0].task"),
        ((*MODEL, "windows"), {"input": "X"}, "models[0].windows.samples is missing"),
        ((*MODEL, "windows"), {"input": "X", "samples": 0}, "models[0].windows.samples is 0"),
        ((*MODEL, "windows"), {"input": "X", "samples": 4, "constants": {"c": "1"}}, "models[0].windows.constants"),
        ((*MODEL, "windows"), {"input": "X", "samples": 4, "constants": {"c": 2**54}}, "models[0].windows.constants"),
        ((*MODEL, "labelled"), ["x" * 257], "models[0].labelled[0]"),
        ((*MODEL, "labelled"), ["\x1b[2J"], "models[0].labelled[0] is '\\x1b[2J', expected printable text"),
        ((*MODEL, "labelled"), ["y"] * 1025, "models[0].labelled is a list of 1025, expected a list of at most 1024"),
        ((*MODEL, "labelled"), "y", "models[0].labelled is 'y'"),
        ((*MODEL, "labelled"), [7], "models[0].labelled[0] is 7"),
        ((*MODEL, "labelled"), {"y": 1}, "models[0].labelled is a table"),
        ((*MODEL, "signed"), "x" * 96, "models[0].signed"),
        ((*MODEL, "signed"), "x" * 128, "models[0].signed"),  # base64 of 96 bytes is no bytes either
        ((*MODEL, "version"), "\u0661", "models[0].version"),
        ((*MODEL, "version"), 1, "models[0].version is 1"),
        ((*MODEL, "digest"), "", "models[0].digest is ''"),
        ((*MODEL, "digest"), DIGEST.upper(), "models[0].digest"),
        ((*MODEL, "digest"), DIGEST + "0", "models[0].digest"),
        ((*MODEL, "state"), 3, "models[0].state is 3"),
        ((*MODEL, "reason"), "x" * 513, "models[0].reason"),
        ((*DEVICE, "runtime"), "x" * 65, "devices[0].runtime"),
        ((*DEVICE, "driver"), None, "devices[0].driver is None"),
        ((*MODEL, "provider"), "x" * 65, "models[0].provider"),
        ((*MODEL, "precision"), "x" * 33, "models[0].precision"),
        ((*MODEL, "best_rows"), -1, "models[0].best_rows is -1, expected a whole number from 0 to 9223372036854775807"),
        ((*MODEL, "row_us"), 1.5, "models[0].row_us is 1.5"),
        ((*MODEL, "max_rows"), True, "models[0].max_rows is true"),
        ((*MODEL, "memory"), 2**63, "models[0].memory"),
        ((*MODEL, "once"), 2, "models[0].once"),
        ((*MODEL, "varies"), 2, "models[0].varies"),
        ((*INPUT, "datatype"), "", "models[0].inputs[0].datatype"),
        ((*INPUT, "shape"), [-2], "models[0].inputs[0].shape[0] is -2"),
        ((*INPUT, "shape"), [1] * 33, "models[0].inputs[0].shape is a list of 33, expected a list of at most 32 entries, each a whole number from -1 to"),
        ((*INPUT, "shape"), [True], "models[0].inputs[0].shape[0] is true"),
        (("region",), "x" * 65, "region"),
        (("price_per_million",), -0.1, "price_per_million is -0.1, expected a number from 0 to 1000000000000"),
        (("price_per_million",), float("nan"), "price_per_million is nan"),
        (("price_per_million",), float("inf"), "price_per_million is inf"),
        (("price_per_million",), True, "price_per_million is true"),
        (("price_per_million",), "1", "price_per_million is '1'"),
        (("agent_version",), 1, "agent_version is 1"),
        (("draining",), 0, "draining is 0, expected true or false"),
        (("interval_s",), 0, "interval_s is 0, expected a whole number from 1 to 600"),
        (("interval_s",), 601, "interval_s is 601, expected a whole number from 1 to 600"),
        (("interval_s",), 60.0, "interval_s is 60.0"),
        (("name",), "x" * 64, "name is 'x"),
        (("name",), "-x", "name is '-x'"),
        (("name",), "gpu 1", "name is 'gpu 1'"),
        (("name",), "gpu\n", "name is 'gpu\\n'"),
        (("name",), "\x1b[2J", "name is '\\x1b[2J'"),
        (("name",), "\u202egpu", "name is '\\u202egpu'"),
        (("name",), "\u0261pu", "name is '\u0261pu'"),  # a letter, but of no one's keyboard
        (("name",), b"gpu", "name is"),
        (("name",), None, "name is None"),
    ],
)  # fmt: skip
def test_field_that_does_not_fit_is_named_with_its_value_and_limit(
    path: tuple[str | int, ...], value: object, named: str
) -> None:
    with pytest.raises(AdvertRejected) as caught:
        advert_from_body(changed(path, value), PEER, SEQUENCE)
    assert caught.value.reason == "field"
    assert caught.value.message.startswith(f"field: {named}")
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("nodes", [-1, 2**63, 1e3, True, "9", None])
def test_number_of_nodes_that_is_none_refuses_the_router_s_advert(nodes: object) -> None:
    with pytest.raises(AdvertRejected, match=r"^field: nodes is .*, expected a whole number"):
        router_from_body({**router_to_body(ROUTER), "nodes": nodes}, PEER, SEQUENCE)


@pytest.mark.parametrize("name", ["x" * 64, "a b", ".x", "\x07", 7])
def test_name_that_is_none_refuses_the_router_s_advert(name: object) -> None:
    with pytest.raises(AdvertRejected, match=r"^field: name is "):
        router_from_body({**router_to_body(ROUTER), "name": name}, PEER, SEQUENCE)


WITH_DEFAULT: dict[tuple[str | int, ...], tuple[str, ...]] = {
    (): ("interval_s", "name"),
    DEVICE: ("runtime", "driver"),
    MODEL: (
        "provider",
        "precision",
        "best_rows",
        "row_us",
        "max_rows",
        "memory",
        "once",
        "varies",
        "windows",
    ),
}


@pytest.mark.parametrize(
    "path",
    [(key,) for key in BODY if key not in WITH_DEFAULT[()]]
    + [(*DEVICE, key) for key in BODY["devices"][0] if key not in WITH_DEFAULT[DEVICE]]
    + [(*MODEL, key) for key in BODY["models"][0] if key not in WITH_DEFAULT[MODEL]]
    + [(*INPUT, key) for key in BODY["models"][0]["inputs"][0]],
)
def test_every_field_without_a_default_is_required(path: tuple[str | int, ...]) -> None:
    with pytest.raises(AdvertRejected, match=r"^field: .* is missing; add it$"):
        advert_from_body(missing(path), PEER, SEQUENCE)


def test_older_nodes_advert_is_read_with_the_defaults_and_an_advert_of_defaults_is_as_it_was() -> (
    None
):
    body = copy.deepcopy(BODY)
    for path, keys in WITH_DEFAULT.items():
        place: Any = body
        for step in path:
            place = place[step]
        for key in keys:
            del place[key]
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
    assert advert_from_body(body, PEER, SEQUENCE) == older
    assert advert_to_body(older) == body


def test_older_router_s_advert_tells_of_no_nodes() -> None:
    older = replace(ROUTER, nodes=0, name="")
    body = router_to_body(older)
    assert sorted(body) == ["agent_version", "link_addresses", "region"]
    assert router_from_body(body, PEER, SEQUENCE) == older


@pytest.mark.parametrize("path", [(), DEVICE, MODEL, INPUT])
def test_unknown_fields_are_tolerated(path: tuple[str | int, ...]) -> None:
    body = changed((*path, "from_the_future"), {"a": [1, 2]})
    assert advert_from_body(body, PEER, SEQUENCE) == ADVERT


def test_whole_price_may_be_an_integer() -> None:
    price = advert_from_body(changed(("price_per_million",), 2), PEER, SEQUENCE).price_per_million
    assert (price, type(price)) == (2.0, float)


def test_unknown_state_is_not_ready_and_says_why() -> None:
    (offer,) = advert_from_body(changed((*MODEL, "state"), "paused"), PEER, SEQUENCE).models
    assert not offer.is_ready
    assert offer == replace(
        ADVERT.models[0],
        state=ModelState.FAILED,
        reason="its state 'paused' is not known to this version",
    )


def test_unknown_datatype_makes_its_model_not_ready_and_leaves_the_others() -> None:
    body = changed((*INPUT, "datatype"), "FP4")
    body["models"].append({**BODY["models"][0], "name": "other"})
    first, second = advert_from_body(body, PEER, SEQUENCE).models
    assert (first.state, first.inputs, first.outputs) == (ModelState.FAILED, (), ())
    assert first.reason == "it has a tensor of a datatype that is not known to this version"
    assert second.is_ready


def test_model_that_is_not_ready_needs_no_digest() -> None:
    body = changed((*MODEL, "digest"), "")
    body["models"][0]["state"] = "loading"
    assert advert_from_body(body, PEER, SEQUENCE).models[0].digest == ""


def test_publisher_learns_that_its_advert_would_be_refused() -> None:
    with pytest.raises(ConfigError, match=r"refuse this advert: field: region is 'x"):
        advert_to_body(replace(ADVERT, region="x" * 65))
    with pytest.raises(ConfigError, match=r"link_addresses is '7100', expected host:port"):
        router_to_body(replace(ROUTER, link_addresses=("7100",)))
    with pytest.raises(
        ConfigError, match=r"interval_s is 0, expected a whole number from 1 to 600"
    ):
        advert_to_body(replace(ADVERT, interval_s=0))


def test_long_reason_with_line_ends_and_undecodable_bytes_is_cut_and_cleaned_rather_than_refused() -> (
    None
):
    offer = replace(ADVERT.models[0], state=ModelState.FAILED, reason="bad\n\udcff" + "x" * 600)
    body = advert_to_body(replace(ADVERT, models=(offer,)))
    read = advert_from_body(body, PEER, SEQUENCE).models[0].reason
    assert read == "bad ?" + "x" * 507


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


def test_adverts_that_differ_in_sequence_and_interval_alone_say_the_same() -> None:
    assert ADVERT.says_the_same_as(replace(ADVERT, sequence=Sequence(2_000, 1), interval_s=10))
    assert not ADVERT.says_the_same_as(replace(ADVERT, is_draining=True))


OLD_DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize("state", ["ready", "unloaded", "loading", "paused"])
def test_model_named_by_the_digest_of_another_version_failed_and_says_why(state: str) -> None:
    body = changed((*MODEL, "digest"), OLD_DIGEST)
    body["models"][0]["state"] = state
    body["models"].append({**BODY["models"][0], "name": "other"})
    first, second = advert_from_body(body, PEER, SEQUENCE).models
    assert (first.state, first.digest) == (ModelState.FAILED, "")
    assert (first.inputs, first.outputs) == ((), ())
    if state != "paused":
        assert first.reason == (
            "sha256:0a0a0a0a0a0a is a digest of another version of Capamesh; this one names files by sha256-chunks:…"
        )
    assert second.is_ready


def test_model_that_failed_keeps_its_own_reason_whatever_its_digest() -> None:
    body = changed((*MODEL, "digest"), OLD_DIGEST)
    body["models"][0] |= {"state": "failed", "reason": "no memory"}
    (offer,) = advert_from_body(body, PEER, SEQUENCE).models
    assert (offer.state, offer.digest, offer.reason) == (ModelState.FAILED, "", "no memory")


def test_windows_that_do_not_fit_the_model_count_as_none() -> None:
    body = copy.deepcopy(BODY)
    model = body["models"][0]
    for windows in (
        {"input": "Y", "samples": 4},
        {"input": "X", "samples": 5},
        {"input": "X", "samples": 4, "constants": {"Z": 1}},
    ):
        model["windows"] = windows
        (offer,) = advert_from_body(body, PEER, SEQUENCE).models
        assert (offer.windows, offer.state) == (None, ModelState.READY)
    model["windows"] = {"input": "X", "samples": 4}
    (offer,) = advert_from_body(body, PEER, SEQUENCE).models
    assert offer.windows == Windows("X", 4)


def test_constants_of_windows_come_back() -> None:
    offer = replace(
        ADVERT.models[0],
        inputs=(*ADVERT.models[0].inputs, TensorSpec("sr", Datatype.INT64, ())),
        windows=Windows("X", 4, 0, 0, (("sr", 16_000.0),)),
    )
    advert = replace(ADVERT, models=(offer,))
    body = unpack_strictly(pack(advert_to_body(advert)), max_array_items=1024)
    assert isinstance(body, dict)
    assert advert_from_body(body, PEER, SEQUENCE) == advert
