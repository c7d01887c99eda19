"""The layers of a router's work, and how sampled stacks are shared out among them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

FRONT = "socket and HTTP front"
DECODING = "decoding"
ADMISSION = "admission"
PIPELINE = "pipeline and attempts"
BALANCING = "balancing"
LINK = "link"
TLS = "TLS"
ENCODING = "encoding"
TELEMETRY = "telemetry"
LOOP = "loop"
OTHER = "other"
LAYERS = (
    FRONT,
    DECODING,
    ADMISSION,
    PIPELINE,
    BALANCING,
    LINK,
    TLS,
    ENCODING,
    TELEMETRY,
    LOOP,
    OTHER,
)
_PLACES = (
    ("capamesh/router/http/replies", ENCODING),
    ("capamesh/router/http/packing", ENCODING),
    ("capamesh/router/http/", FRONT),
    ("capamesh/protocol/oip/encoding", ENCODING),
    ("capamesh/protocol/oip/json_text", ENCODING),
    ("capamesh/protocol/oip/", DECODING),
    ("capamesh/protocol/tensors/", DECODING),
    ("capamesh/protocol/links/", LINK),
    ("capamesh/router/admission/", ADMISSION),
    ("capamesh/router/requests/", PIPELINE),
    ("capamesh/router/balancing/", BALANCING),
    ("capamesh/router/policies/", BALANCING),
    ("capamesh/router/resilience/", BALANCING),
    ("capamesh/router/fleet/", BALANCING),
    ("capamesh/router/telemetry/", TELEMETRY),
    ("capamesh/", OTHER),
    ("/ssl.py", TLS),
    ("/asyncio/", LOOP),
    ("/uvloop/", LOOP),
)
"""The layer of code by a part of its file's path; the first that fits holds."""
_THREAD = "/threading.py"
"""A part of the stacks of other threads than the loop's: next to all of theirs wait, and cost nothing."""
_FRAME = re.compile(r"\((?P<file>.*?)(?::\d+)?\)$")


def layer_of(stack: str) -> str:
    """Return the layer that a sampled stack was in: that of the innermost frame which has one.

    `stack` has the outermost frame first, each as `function (file:line)`, with semicolons between. A library
    works for the layer that called it. What C does between the frames counts for the innermost of them: a write to a socket
    for the one who writes, reads and waits for the loop.
    """
    for frame in reversed(stack.split(";")):
        found = _FRAME.search(frame)
        if found is None:
            continue
        for part, layer in _PLACES:
            if part in found["file"]:
                return layer
    return OTHER


def shares(lines: Iterable[str]) -> dict[str, float]:
    """Return the part of the loop's samples that each layer has, of lines that are a stack and a count."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if count.isdigit() and _THREAD not in stack:
            counts[layer_of(stack)] += int(count)
    total = sum(counts.values())
    return {layer: counts[layer] / total for layer in LAYERS if total}
