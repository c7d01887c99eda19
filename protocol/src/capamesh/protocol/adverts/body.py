"""Turns adverts into envelope bodies and back, checking every field of a stranger's. Pure.

The body of "advert" (text without control characters U+0000-1F and U+007F-9F; lengths in Unicode code points; every
field is required unless a default is given, which a field that is left out has; unknown fields are skipped, so a
field with a default can be added without a new wire version):

    "devices"           array, up to 64, of maps:
      "index"             integer 0..65,535, unique
      "kind"              text 1..32
      "name"              text 0..256
      "provider"          text 1..64
      "memory_total"      integer 0..2^63-1, bytes
      "memory_free"       integer 0.."memory_total", bytes
      "addresses"         array, up to 16, of "host:port" with port 1..65,535; IPv6 in brackets
      "runtime"           text 0..64, default ""
      "driver"            text 0..64, default ""
    "models"            array, up to 1,024, of maps, each name and version once:
      "name"              text 1..256
      "version"           text, 1..20 decimal digits; 1..18 without a leading zero where "ready"; "0" for a failed model
                          of which no version is known
      "digest"            text: "sha256:" and 64 lower-case hexadecimal digits; or "" unless "ready"
      "state"             text 1..32: "loading", "ready", "failed", "unloading", "unloaded"
      "reason"            text 0..512
      "inputs", "outputs" array, up to 1,024, of maps:
        "name"              text 0..256
        "datatype"          text 1..32: a datatype of the Open Inference Protocol
        "shape"             array, up to 32, of integers -1..2^53-1; -1 is any
      "provider"          text 0..64, default ""
      "precision"         text 0..32, default ""
      "scheduling"        text 0..32: "ensemble", "sequence", or "" for a model whose requests are independent, the
                          default; what a receiver does not know counts as ""
      "best_rows", "row_us", "max_rows", "memory"
                          integers 0..2^63-1, default 0: rows, microseconds, rows, bytes
      "signed"            96 bytes, default none: a publisher's public key and its Ed25519 signature, see `publishing`
      "also_signed"       1 to 3 times 96 bytes, default none: other publishers' likewise
    "region"            text 0..64
    "price_per_million" finite number 0..1e12 (an integer will do)
    "agent_version"     text 0..64
    "draining"          boolean
    "interval_s"        integer 1..600, default 10: the next advert comes after so many seconds, give or take a tenth;
                        after 2.2 times as long a receiver suspects the node, after 3.5 times it forgets it

The body of "router": "link_addresses" (array, up to 64, as "addresses"), "region", "agent_version", and "nodes"
(integer 0..2^63-1, default 0: how many are in the router's own view).
The body of "goodbye" has no fields.

A state or a datatype that this program does not know makes that model `FAILED` with the cause as its
reason, so that a newer node's other models stay usable; everything else that does not fit refuses the
whole advert.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from capamesh.protocol.adverts.addresses import MAX_ADDRESS_CHARS, parse_address
from capamesh.protocol.adverts.advert import (
    Device,
    ModelOffer,
    ModelState,
    NodeAdvert,
    RouterAdvert,
    Scheduling,
)
from capamesh.protocol.adverts.fields import Fields
from capamesh.protocol.adverts.interval import MIN_INTERVAL_S
from capamesh.protocol.adverts.sequence import MAX_COUNT
from capamesh.protocol.errors import AdvertRejected, ConfigError
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.plain_text import plain
from capamesh.protocol.publishing import MAX_OTHERS, SIGNED_BYTES
from capamesh.protocol.tensors import Datatype, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.adverts.sequence import Sequence
    from capamesh.protocol.ids import PeerId

# Where no source stands, a limit is a guess: generous for people, small against an envelope.
MAX_DEVICES: Final = 64  # four times the accelerators of the largest single machines
MAX_MODELS: Final = 1024
MAX_TENSORS: Final = 1024  # a decoder with a cache has two a layer and direction
MAX_ADDRESSES: Final = 16
MAX_LINK_ADDRESSES: Final = 64  # one for each API process
MAX_DIMS: Final = 32  # as in a request's tensors
MAX_DIM: Final = 2**53 - 1  # exact in JavaScript
MAX_NAME_CHARS: Final = 256
MAX_REASON_CHARS: Final = 512
MAX_WORD_CHARS: Final = 32
MAX_LABEL_CHARS: Final = 64
DIGEST_CHARS: Final = 71  # "sha256:" and 32 bytes in hexadecimal digits
MAX_DEVICE_INDEX: Final = 65_535
MAX_PRICE: Final = 1e12  # times any row count stays finite
MAX_REPORTED_INTERVAL_S: Final = (
    600  # five times what nodes choose, for later versions; a dead node stays 35 minutes
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_VERSION = re.compile(r"[0-9]{1,20}\Z")
# Of what can be asked for: it fits a signed 64-bit number, as a node's folders do, and is written in one way.
_READY_VERSION = re.compile(r"(?:0|[1-9][0-9]{0,17})\Z")
_SCHEDULINGS = {scheduling.value: scheduling for scheduling in Scheduling}
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
    try:
        advert_from_body(body, advert.peer, advert.sequence)
    except AdvertRejected as exc:
        raise ConfigError(f"every receiver would refuse this advert: {exc.message}") from exc
    return body


def advert_from_body(body: Mapping[str, object], peer: PeerId, sequence: Sequence) -> NodeAdvert:
    """Return the advert in the body of an opened envelope that `peer` sent as `sequence`.

    Raises `AdvertRejected` with the reason "field", naming the field's path, its value and the limit.
    """
    fields = Fields(body)
    return NodeAdvert(
        peer=peer,
        sequence=sequence,
        devices=_read_devices(fields),
        models=_read_models(fields),
        region=fields.text("region", MAX_LABEL_CHARS),
        price_per_million=fields.number("price_per_million", 0.0, MAX_PRICE),
        agent_version=fields.text("agent_version", MAX_LABEL_CHARS),
        is_draining=fields.flag("draining"),
        interval_s=fields.integer("interval_s", 1, MAX_REPORTED_INTERVAL_S)
        if "interval_s" in fields
        else MIN_INTERVAL_S,
    )


def router_to_body(advert: RouterAdvert) -> dict[str, object]:
    """Return the body to seal as "router". Raises `ConfigError` as `advert_to_body` does."""
    body: dict[str, object] = {
        "link_addresses": list(advert.link_addresses),
        "region": advert.region,
        "agent_version": advert.agent_version,
        **_reported({"nodes": advert.nodes}),
    }
    try:
        router_from_body(body, advert.peer, advert.sequence)
    except AdvertRejected as exc:
        raise ConfigError(f"every receiver would refuse this advert: {exc.message}") from exc
    return body


def router_from_body(body: Mapping[str, object], peer: PeerId, sequence: Sequence) -> RouterAdvert:
    """Return the router's advert in a body. Raises `AdvertRejected` as `advert_from_body` does."""
    fields = Fields(body)
    return RouterAdvert(
        peer=peer,
        sequence=sequence,
        link_addresses=_read_addresses(fields, "link_addresses", MAX_LINK_ADDRESSES),
        region=fields.text("region", MAX_LABEL_CHARS),
        agent_version=fields.text("agent_version", MAX_LABEL_CHARS),
        nodes=_count_or_0(fields, "nodes"),
    )


def offer_problem(offer: ModelOffer) -> str:
    """Return why no advert can carry `offer`, for people; "" when one can."""
    try:
        _read_models(Fields({"models": [_offer_to_map(offer)]}))
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
                "memory": offer.memory_bytes,
                "once": int(not offer.is_idempotent),
                "signed": offer.signed,
                "also_signed": b"".join(offer.also_signed),
            }
        ),
    }


def _reported(fields: Mapping[str, str | int | bytes]) -> dict[str, str | int | bytes]:
    """Return those of the fields with a default that say something else: an envelope has a limit."""
    return {key: value for key, value in fields.items() if value}


def _clean_reason(reason: str) -> str:
    """Return what the wire allows of an error's text: it often has line ends or undecodable bytes."""
    text = reason.encode("utf-8", "replace").decode("utf-8")
    return plain(text)[:MAX_REASON_CHARS]


def _spec_to_map(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}


def _read_devices(fields: Fields) -> tuple[Device, ...]:
    devices: dict[int, Device] = {}
    for one in fields.maps("devices", MAX_DEVICES):
        index = one.integer("index", 0, MAX_DEVICE_INDEX)
        if index in devices:
            one.refuse("index", index, "another than the devices before it have")
        total_bytes = one.integer("memory_total", 0, MAX_COUNT)
        devices[index] = Device(
            index=index,
            kind=one.text("kind", MAX_WORD_CHARS, min_chars=1),
            name=one.text("name", MAX_NAME_CHARS),
            provider=one.text("provider", MAX_LABEL_CHARS, min_chars=1),
            memory_total_bytes=total_bytes,
            memory_free_bytes=one.integer("memory_free", 0, total_bytes),
            data_addresses=_read_addresses(one, "addresses", MAX_ADDRESSES),
            runtime=_text_or_empty(one, "runtime", MAX_LABEL_CHARS),
            driver=_text_or_empty(one, "driver", MAX_LABEL_CHARS),
        )
    return tuple(devices.values())


def _read_addresses(fields: Fields, key: str, max_items: int) -> tuple[str, ...]:
    addresses = fields.texts(key, max_items, MAX_ADDRESS_CHARS)
    for address in addresses:
        try:
            parse_address(address)
        except ValueError as exc:
            fields.refuse(key, address, f"host:port ({exc})")
    return addresses


def _read_models(fields: Fields) -> tuple[ModelOffer, ...]:
    offers: dict[tuple[ModelName, ModelVersion], ModelOffer] = {}
    for one in fields.maps("models", MAX_MODELS):
        offer = _read_offer(one)
        if (offer.name, offer.version) in offers:
            one.refuse("name", f"{offer.name} {offer.version}", "a model and version listed once")
        offers[offer.name, offer.version] = offer
    return tuple(offers.values())


def _read_offer(one: Fields) -> ModelOffer:
    version = one.text("version", MAX_WORD_CHARS)
    if _VERSION.match(version) is None:
        one.refuse("version", version, "1 to 20 decimal digits")
    state_text = one.text("state", MAX_WORD_CHARS, min_chars=1)
    state = _STATES.get(state_text, ModelState.FAILED)
    if state is ModelState.READY and _READY_VERSION.match(version) is None:
        one.refuse("version", version, "1 to 18 decimal digits without a leading zero to be ready")
    digest = one.text("digest", DIGEST_CHARS)
    if _DIGEST.match(digest) is None and (digest or state is ModelState.READY):
        one.refuse("digest", digest, '"sha256:" and 64 lower-case hexadecimal digits')
    reason = one.text("reason", MAX_REASON_CHARS)
    if state_text not in _STATES:
        reason = f"its state {state_text!r} is not known to this version"
    inputs, outputs = _read_specs(one, "inputs"), _read_specs(one, "outputs")
    if inputs is None or outputs is None:
        state, inputs, outputs = ModelState.FAILED, (), ()
        reason = "it has a tensor of a datatype that is not known to this version"
    return ModelOffer(
        name=ModelName(one.text("name", MAX_NAME_CHARS, min_chars=1)),
        version=ModelVersion(version),
        digest=digest,
        state=state,
        reason=reason,
        inputs=inputs,
        outputs=outputs,
        provider=_text_or_empty(one, "provider", MAX_LABEL_CHARS),
        precision=_text_or_empty(one, "precision", MAX_WORD_CHARS),
        best_rows=_count_or_0(one, "best_rows"),
        row_us=_count_or_0(one, "row_us"),
        max_rows=_count_or_0(one, "max_rows"),
        memory_bytes=_count_or_0(one, "memory"),
        is_idempotent="once" not in one or one.integer("once", 0, 1) == 0,
        signed=_read_signed(one),
        also_signed=_read_also_signed(one),
        scheduling=_SCHEDULINGS.get(
            _text_or_empty(one, "scheduling", MAX_WORD_CHARS), Scheduling.PLAIN
        ),
    )


def _read_signed(one: Fields) -> bytes:
    if "signed" not in one:
        return b""
    signed = one.blob("signed", SIGNED_BYTES)
    if len(signed) != SIGNED_BYTES:
        one.refuse("signed", len(signed), f"{SIGNED_BYTES} bytes")
    return signed


def _read_also_signed(one: Fields) -> tuple[bytes, ...]:
    if "also_signed" not in one:
        return ()
    raw = one.blob("also_signed", MAX_OTHERS * SIGNED_BYTES)
    if len(raw) % SIGNED_BYTES:
        one.refuse("also_signed", len(raw), f"{SIGNED_BYTES} bytes for each")
    return tuple(raw[at : at + SIGNED_BYTES] for at in range(0, len(raw), SIGNED_BYTES))


def _text_or_empty(fields: Fields, key: str, max_chars: int) -> str:
    return fields.text(key, max_chars) if key in fields else ""


def _count_or_0(fields: Fields, key: str) -> int:
    return fields.integer(key, 0, MAX_COUNT) if key in fields else 0


def _read_specs(fields: Fields, key: str) -> tuple[TensorSpec, ...] | None:
    """Return the tensors under `key`, or None when a datatype is unknown."""
    specs: list[TensorSpec] = []
    is_known = True
    for one in fields.maps(key, MAX_TENSORS):
        datatype = _DATATYPES.get(one.text("datatype", MAX_WORD_CHARS, min_chars=1))
        name = one.text("name", MAX_NAME_CHARS)
        shape = one.integers("shape", MAX_DIMS, -1, MAX_DIM)
        if datatype is None:
            is_known = False
        else:
            specs.append(TensorSpec(name=name, datatype=datatype, shape=shape))
    return tuple(specs) if is_known else None
