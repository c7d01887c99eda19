"""Adverts, which members sign and tell the whole network: of nodes and of routers. Pure, no IO."""

from capamesh.protocol.adverts.addresses import parse_address
from capamesh.protocol.adverts.advert import (
    NO_VERSION,
    Device,
    ImageFormat,
    ModelOffer,
    ModelState,
    NodeAdvert,
    RouterAdvert,
    Scheduling,
    shown_version,
)
from capamesh.protocol.adverts.body import (
    advert_from_body,
    advert_to_body,
    offer_problem,
    router_from_body,
    router_to_body,
)
from capamesh.protocol.adverts.envelope import (
    KIND_ADVERT,
    KIND_GOODBYE,
    KIND_ROUTER,
    MAX_ENVELOPE_BYTES,
    TIME_LIMIT_MS,
    WIRE_VERSION,
    Envelope,
    check_time,
    open_envelope,
    seal,
)
from capamesh.protocol.adverts.interval import (
    FleetSize,
    advert_interval_s,
    newcomer_spread_s,
)
from capamesh.protocol.adverts.reader import AdvertReader
from capamesh.protocol.adverts.reasons import RejectReason, is_forwarder_to_blame
from capamesh.protocol.adverts.sequence import (
    Sequence,
    SequenceSource,
    boot_ns_after,
    is_acceptable,
)
from capamesh.protocol.adverts.wire_fields import MAX_MODELS, MAX_NAME_CHARS

__all__ = [
    "KIND_ADVERT",
    "KIND_GOODBYE",
    "KIND_ROUTER",
    "MAX_ENVELOPE_BYTES",
    "MAX_MODELS",
    "MAX_NAME_CHARS",
    "NO_VERSION",
    "TIME_LIMIT_MS",
    "WIRE_VERSION",
    "AdvertReader",
    "Device",
    "Envelope",
    "FleetSize",
    "ImageFormat",
    "ModelOffer",
    "ModelState",
    "NodeAdvert",
    "RejectReason",
    "RouterAdvert",
    "Scheduling",
    "Sequence",
    "SequenceSource",
    "advert_from_body",
    "advert_interval_s",
    "advert_to_body",
    "boot_ns_after",
    "check_time",
    "is_acceptable",
    "is_forwarder_to_blame",
    "newcomer_spread_s",
    "offer_problem",
    "open_envelope",
    "parse_address",
    "router_from_body",
    "router_to_body",
    "seal",
    "shown_version",
]
