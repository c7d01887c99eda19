"""Turns adverts into envelope bodies and back, checking every field of a stranger's. Pure.

The fields and their limits are in `wire_fields`. A state or a datatype that this program does not know makes that model
`FAILED` with the cause as its reason, so that a newer node's other models stay usable; everything else that does not
fit refuses the whole advert.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn, TypeVar

from capamesh.protocol.adverts.addresses import parse_address
from capamesh.protocol.adverts.advert import (
    Device,
    ImageFormat,
    ModelOffer,
    ModelState,
    NodeAdvert,
    RouterAdvert,
    Scheduling,
)
from capamesh.protocol.adverts.interval import MIN_INTERVAL_S
from capamesh.protocol.adverts.reasons import RejectReason
from capamesh.protocol.adverts.wire_fields import (
    MAX_REASON_CHARS,
    WireAdvert,
    WireDevice,
    WireModel,
    WireModels,
    WireRouter,
    WireTensor,
    WireWindows,
)
from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import AdvertRejected, ConfigError
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.model_digest import EXPECTED, is_digest, other_form
from capamesh.protocol.plain_text import plain
from capamesh.protocol.publishing import SIGNED_BYTES
from capamesh.protocol.schema import Mismatch, read, shown
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.protocol.windows import Windows, windows_problem

if TYPE_CHECKING:
    from capamesh.protocol.adverts.sequence import Sequence
    from capamesh.protocol.ids import PeerId

_Schema = TypeVar("_Schema")

_VERSION = re.compile(r"[0-9]{1,20}\Z")
# Of what can be asked for: it fits a signed 64-bit number, as a node's folders do, and is written in one way.
_READY_VERSION = re.compile(r"(?:0|[1-9][0-9]{0,17})\Z")
_SCHEDULINGS = {scheduling.value: scheduling for scheduling in Scheduling}
_FORMATS = {each.value: each for each in ImageFormat if each}
_TASKS = {task.value: task for task in Task}
_STATES = {state.value: state for state in ModelState}
_DATATYPES = {datatype.value: datatype for datatype in Datatype}


def advert_to_body(advert: NodeAdvert) -> dict[str, object]:
    """Return the body to seal as "advert"; a reason is cut and cleaned to what the wire allows.

    Raises `ConfigError` naming the field that receivers would refuse.
    """
    body: dict[str, object] = {
        "devices": [_device_to_map(device) for device in advert.devices],
        "models": [_offer_to_map(offer) for offer in advert.models],
        "region": advert.region,
        "price_per_million": advert.price_per_million,
        "agent_version": advert.agent_version,
        "draining": advert.is_draining,
    }
    if advert.interval_s != MIN_INTERVAL_S:
        body["interval_s"] = advert.interval_s
    if advert.name:
        body["name"] = advert.name
    try:
        advert_from_body(body, advert.peer, advert.sequence)
    except AdvertRejected as exc:
        raise ConfigError(f"every receiver would refuse this advert: {exc.message}") from exc
    return body


def advert_from_body(body: Mapping[str, object], peer: PeerId, sequence: Sequence) -> NodeAdvert:
    """Return the advert in the body of an opened envelope that `peer` sent as `sequence`.

    Raises `AdvertRejected` with the reason "field", naming the field's path, its value and the limit.
    """
    wire = _read(body, WireAdvert)
    return NodeAdvert(
        peer=peer,
        sequence=sequence,
        devices=_read_devices(wire.devices),
        models=_read_models(wire.models),
        region=wire.region,
        price_per_million=wire.price_per_million,
        agent_version=wire.agent_version,
        is_draining=wire.draining,
        interval_s=wire.interval_s,
        name=wire.name,
    )


def router_to_body(advert: RouterAdvert) -> dict[str, object]:
    """Return the body to seal as "router". Raises `ConfigError` as `advert_to_body` does."""
    body: dict[str, object] = {
        "link_addresses": list(advert.link_addresses),
        "region": advert.region,
        "agent_version": advert.agent_version,
        **_reported({"nodes": advert.nodes, "name": advert.name}),
    }
    try:
        router_from_body(body, advert.peer, advert.sequence)
    except AdvertRejected as exc:
        raise ConfigError(f"every receiver would refuse this advert: {exc.message}") from exc
    return body


def router_from_body(body: Mapping[str, object], peer: PeerId, sequence: Sequence) -> RouterAdvert:
    """Return the router's advert in a body. Raises `AdvertRejected` as `advert_from_body` does."""
    wire = _read(body, WireRouter)
    return RouterAdvert(
        peer=peer,
        sequence=sequence,
        link_addresses=_checked_addresses(wire.link_addresses, "link_addresses"),
        region=wire.region,
        agent_version=wire.agent_version,
        nodes=wire.nodes,
        name=wire.name,
    )


def offer_problem(offer: ModelOffer) -> str:
    """Return why no advert can carry `offer`, for people; "" when one can."""
    try:
        _read_models(_read({"models": [_offer_to_map(offer)]}, WireModels).models)
    except AdvertRejected as exc:
        return exc.message
    return ""


def _device_to_map(device: Device) -> dict[str, object]:
    return {
        "index": device.index,
        "kind": device.kind,
        "name": device.name,
        "provider": device.provider,
        "memory_total": device.memory_total_bytes,
        "memory_free": device.memory_free_bytes,
        "addresses": list(device.data_addresses),
        **_reported({"runtime": device.runtime, "driver": device.driver}),
    }


def _offer_to_map(offer: ModelOffer) -> dict[str, object]:
    return {
        "name": offer.name,
        "version": offer.version,
        "digest": offer.digest,
        "state": offer.state.value,
        "reason": _clean_reason(offer.reason),
        "inputs": [_spec_to_map(spec) for spec in offer.inputs],
        "outputs": [_spec_to_map(spec) for spec in offer.outputs],
        **_reported(
            {
                "provider": offer.provider,
                "precision": offer.precision,
                "scheduling": offer.scheduling.value,
                "best_rows": offer.best_rows,
                "row_us": offer.row_us,
                "max_rows": offer.max_rows,
                "batch": offer.max_batch_size,
                "memory": offer.memory_bytes,
                "once": int(not offer.is_idempotent),
                "varies": int(not offer.is_deterministic),
                "signed": offer.signed,
                "also_signed": b"".join(offer.also_signed),
                "labelled": list(offer.labelled),
                "formats": {name: each.value for name, each in offer.formats},
                "task": offer.task.value,
                "parts": offer.max_parts,
                "windows": _windows_to_map(offer.windows),
            }
        ),
    }


def _windows_to_map(windows: Windows | None) -> dict[str, object]:
    if windows is None:
        return {}
    return {
        "input": windows.input,
        "samples": windows.samples,
        **_reported({"context": windows.context, "rate_hz": windows.rate_hz}),
        **_reported({"constants": dict(windows.constants)}),
    }


def _reported(fields: Mapping[str, object]) -> dict[str, object]:
    """Return those of the fields with a default that say something else: an envelope has a limit."""
    return {key: value for key, value in fields.items() if value}


def _clean_reason(reason: str) -> str:
    """Return what the wire allows of an error's text: it often has line ends or undecodable bytes."""
    text = reason.encode("utf-8", "replace").decode("utf-8")
    return plain(text)[:MAX_REASON_CHARS]


def _spec_to_map(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}


def _read(body: Mapping[str, object], schema: type[_Schema]) -> _Schema:
    try:
        return read(body, schema)
    except Mismatch as exc:
        raise AdvertRejected(RejectReason.FIELD, str(exc)) from exc


def _refuse(path: str, value: object, limit: str) -> NoReturn:
    """Raise for the field at `path`: its `value` breaks `limit`."""
    raise AdvertRejected(RejectReason.FIELD, f"{path} is {shown(value)}, expected {limit}")


def _read_devices(wires: tuple[WireDevice, ...]) -> tuple[Device, ...]:
    devices: dict[int, Device] = {}
    for at, one in enumerate(wires):
        path = f"devices[{at}]"
        if one.index in devices:
            _refuse(f"{path}.index", one.index, "another than the devices before it have")
        if one.memory_free > one.memory_total:
            limit = f'a whole number from 0 to {one.memory_total}, "memory_total"'
            _refuse(f"{path}.memory_free", one.memory_free, limit)
        devices[one.index] = Device(
            index=one.index,
            kind=one.kind,
            name=one.name,
            provider=one.provider,
            memory_total_bytes=one.memory_total,
            memory_free_bytes=one.memory_free,
            data_addresses=_checked_addresses(one.addresses, f"{path}.addresses"),
            runtime=one.runtime,
            driver=one.driver,
        )
    return tuple(devices.values())


def _checked_addresses(addresses: tuple[str, ...], path: str) -> tuple[str, ...]:
    for address in addresses:
        try:
            parse_address(address)
        except ValueError as exc:
            _refuse(path, address, f"host:port ({exc})")
    return addresses


def _read_models(wires: tuple[WireModel, ...]) -> tuple[ModelOffer, ...]:
    offers: dict[tuple[str, str], ModelOffer] = {}
    for at, one in enumerate(wires):
        key = one.name, one.version
        if key in offers:
            path = f"models[{at}].name"
            _refuse(path, f"{one.name} {one.version}", "a model and version listed once")
        offers[key] = _read_offer(one, at)
    return tuple(offers.values())


def _read_offer(one: WireModel, at: int) -> ModelOffer:
    """Return the model `one`, which is the advert's number `at`."""
    state = _STATES.get(one.state, ModelState.FAILED)
    is_ready = state is ModelState.READY
    if _VERSION.match(one.version) is None:
        _refuse(f"models[{at}].version", one.version, "1 to 20 decimal digits")
    if is_ready and _READY_VERSION.match(one.version) is None:
        limit = "1 to 18 decimal digits without a leading zero to be ready"
        _refuse(f"models[{at}].version", one.version, limit)
    digest, reason, other = one.digest, one.reason, other_form(one.digest)
    if not is_digest(digest) and not other and (digest or is_ready):
        _refuse(f"models[{at}].digest", digest, EXPECTED)
    if one.state not in _STATES:
        reason = f"its state {one.state!r} is not known to this version"
    inputs, outputs = _read_specs(one.inputs), _read_specs(one.outputs)
    if inputs is None or outputs is None:
        state, inputs, outputs = ModelState.FAILED, (), ()
        reason = "it has a tensor of a datatype that is not known to this version"
    if other:  # its files cannot be told from others, so that it is not asked
        reason = other if state is not ModelState.FAILED else reason
        digest, state, inputs, outputs = "", ModelState.FAILED, (), ()
    others = one.also_signed
    if len(others) % SIGNED_BYTES:
        _refuse(f"models[{at}].also_signed", len(others), f"{SIGNED_BYTES} bytes for each")
    return ModelOffer(
        name=ModelName(one.name),
        version=ModelVersion(one.version),
        digest=digest,
        state=state,
        reason=reason,
        inputs=inputs,
        outputs=outputs,
        provider=one.provider,
        precision=one.precision,
        best_rows=one.best_rows,
        row_us=one.row_us,
        max_rows=one.max_rows,
        max_batch_size=one.batch,
        memory_bytes=one.memory,
        is_idempotent=one.once == 0,
        is_deterministic=one.varies == 0,
        signed=one.signed,
        also_signed=tuple(
            others[start : start + SIGNED_BYTES] for start in range(0, len(others), SIGNED_BYTES)
        ),
        scheduling=_SCHEDULINGS.get(one.scheduling, Scheduling.PLAIN),
        labelled=one.labelled,
        formats=tuple(
            (name, _FORMATS[each]) for name, each in one.formats.items() if each in _FORMATS
        ),
        task=_TASKS.get(one.task, Task.NONE),
        max_parts=one.parts,
        windows=_read_windows(one.windows, inputs),
    )


def _read_windows(wire: WireWindows | None, inputs: tuple[TensorSpec, ...]) -> Windows | None:
    """Return the windows of a model with these inputs; None: it has none, or such as do not fit."""
    if wire is None:
        return None
    constants = tuple(wire.constants.items())
    windows = Windows(wire.input, wire.samples, wire.context, wire.rate_hz, constants)
    return None if windows_problem(windows, inputs) else windows


def _read_specs(wires: tuple[WireTensor, ...]) -> tuple[TensorSpec, ...] | None:
    """Return the tensors, or None when a datatype is unknown."""
    specs: list[TensorSpec] = []
    for one in wires:
        datatype = _DATATYPES.get(one.datatype)
        if datatype is None:
            return None
        specs.append(TensorSpec(name=one.name, datatype=datatype, shape=one.shape))
    return tuple(specs)
