"""The headers and query parameters that routes take, as they are described to clients. Pure."""

from __future__ import annotations

from typing import Annotated, Final

from capamesh.protocol.oip import HEADER_LENGTH_NAME
from capamesh.protocol.schema import Meta
from capamesh.router.http import options
from capamesh.router.http.route import Parameter

Text = Annotated[str, Meta(max_length=options.MAX_CHARS)]
Count = Annotated[int, Meta(ge=0)]

ROUTING: Final = (
    Parameter(
        options.POLICY, "The policy by which a node is chosen, instead of the model's.", Text
    ),
    Parameter(
        options.AFFINITY,
        "Requests with the same text go to the same node if it can take them.",
        Text,
    ),
    Parameter(
        options.TENANT, "The tenant whose share of the fleet is used; a key says it itself.", Text
    ),
    Parameter(options.MAX_PRICE, "Nodes that ask more for a million rows are not asked.", Text),
    Parameter(options.REGION, "Regions, with commas between: nodes elsewhere are not asked.", Text),
    Parameter(options.DEVICE, "Kinds of devices, such as `cuda`, with commas between.", Text),
    Parameter(options.NODES, "Peer ids of nodes, with commas between: no others are asked.", Text),
)
"""The headers that are about a request's way."""
EXPLAIN: Final = Parameter(
    options.EXPLAIN, "`1`: the answer says why it came from where it did.", Text
)
HEADER_LENGTH: Final = Parameter(
    HEADER_LENGTH_NAME, "The bytes of JSON at the body's start; left out: all of it is JSON.", Count
)
TRACEPARENT: Final = Parameter("traceparent", "The caller's trace (W3C Trace Context).")
AGAIN: Final = (
    Parameter(
        options.CACHE_CONTROL,
        "`no-cache`, `no-store`, `max-age=` and seconds: how old a kept answer may be.",
    ),
    Parameter(
        options.IDEMPOTENCY_KEY,
        "The request's own name: one that comes again with it is not run again.",
        Annotated[str, Meta(max_length=options.MAX_IDEMPOTENCY_CHARS)],
    ),
)
"""The headers about a request that comes again."""
GENERATION: Final = (*ROUTING, *AGAIN, TRACEPARENT)
"""The headers of a request of the generate extension, and of embeddings."""
CHAT: Final = (*ROUTING, *AGAIN, EXPLAIN, TRACEPARENT)
"""The headers of a request that a language model answers."""
INFERENCE: Final = (*ROUTING, *AGAIN, EXPLAIN, HEADER_LENGTH, TRACEPARENT)
"""The headers of an inference request."""
_WISHES: Final = {
    "policy": options.POLICY,
    "affinity": options.AFFINITY,
    "tenant": options.TENANT,
    "max_price": options.MAX_PRICE,
    "region": options.REGION,
    "device": options.DEVICE,
    "nodes": options.NODES,
}
STREAM: Final = (
    *(Parameter(name, f"As the header `{header}`.", Text) for name, header in _WISHES.items()),
    Parameter(
        "messages",
        "`samples` or `requests`: what binary messages are; left out: what suits the model.",
    ),
    Parameter("binary", "`1`: answers to samples have their tensors as raw bytes."),
    Parameter("timeout", "The microseconds that a window of samples may take.", Count),
    Parameter("priority", "The priority of windows of samples; 1 goes first.", Count),
)
"""The query of a stream: pages in browsers can set no headers."""
