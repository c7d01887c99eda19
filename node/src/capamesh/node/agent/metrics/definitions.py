"""The metrics of a node: the one place that names and describes them. Pure.

Models are those of the node's own folder. `device` is the device's number at this node.
"""

from __future__ import annotations

from typing import Final

from capamesh.protocol.metrics import counter, gauge, histogram

_MODEL: Final = ("model", "version", "device")

# workers and devices

WORKER_UP: Final = gauge(
    "capamesh_node_worker_up",
    "The value is 1 while the worker process of the device runs, and else 0.",
    "device",
)
WORKER_STARTS: Final = counter(
    "capamesh_node_worker_starts",
    "Starts of the device's worker process; all but the first are restarts.",
    "device",
)
LINKS: Final = gauge(
    "capamesh_node_links", "Links of routers that can send requests to the device now.", "device"
)
DEVICE_MEMORY: Final = gauge(
    "capamesh_node_device_memory_bytes", "The memory of the device.", "device"
)
DEVICE_MEMORY_FREE: Final = gauge(
    "capamesh_node_device_memory_free_bytes",
    "The memory of the device that was free when its worker last looked.",
    "device",
)
MODELS: Final = gauge(
    "capamesh_node_models",
    "Models at the device by state: `ready`, `loading`, `unloading`, `unloaded` (away for want of memory) or `failed`.",
    "device",
    "state",
)

# models

READY: Final = gauge(
    "capamesh_node_model_ready",
    "The value is 1 while the model can be asked at the device, and else 0.",
    *_MODEL,
)
REQUESTS: Final = counter(
    "capamesh_node_requests",
    "Requests answered; `code` is `ok`, or the code of the error.",
    *_MODEL,
    "code",
)
DROPPED: Final = counter(
    "capamesh_node_dropped", "Requests that were taken and not run, by reason.", *_MODEL, "reason"
)
ROWS: Final = counter("capamesh_node_rows", "Rows that were run.", *_MODEL)
BATCH_ROWS: Final = histogram(
    "capamesh_node_batch_rows", "The rows of a batch that was run.", *_MODEL
)
QUEUE: Final = histogram(
    "capamesh_node_queue_seconds", "The time from a request's arrival to its run.", *_MODEL
)
RUN: Final = histogram("capamesh_node_run_seconds", "The time for which a batch ran.", *_MODEL)
MEMORY: Final = gauge(
    "capamesh_node_model_memory_bytes",
    "The memory that the model occupies on its device; 0 if it is unknown or the model is not loaded.",
    *_MODEL,
)
IN_FLIGHT: Final = gauge("capamesh_node_in_flight", "Requests that wait or run.", *_MODEL)
LIMIT: Final = gauge("capamesh_node_limit", "The number of requests that may wait or run.", *_MODEL)

# language models

FIRST_TOKEN: Final = histogram(
    "capamesh_node_first_token_seconds",
    "The time from a request to the first token of its answer, at the node.",
    *_MODEL,
)
TOKEN_GAP: Final = histogram(
    "capamesh_node_token_gap_seconds", "The time between two tokens of one answer.", *_MODEL
)
TOKENS: Final = counter("capamesh_node_tokens", "Tokens of answers.", *_MODEL)
PROMPT_TOKENS: Final = counter(
    "capamesh_node_prompt_tokens", "Tokens of prompts whose answers have ended.", *_MODEL
)
CACHED_TOKENS: Final = counter(
    "capamesh_node_cached_tokens",
    "Tokens of these prompts that did not have to run, for their state was kept.",
    *_MODEL,
)
PREEMPTIONS: Final = counter(
    "capamesh_node_preemptions",
    "Answers that gave way to others, and were computed again.",
    *_MODEL,
)
DRAFTED_TOKENS: Final = counter(
    "capamesh_node_drafted_tokens", "Tokens of answers that were guessed and run.", *_MODEL
)
ACCEPTED_TOKENS: Final = counter(
    "capamesh_node_accepted_tokens", "Tokens of these that were drawn, too.", *_MODEL
)
HELD_TOKENS: Final = gauge(
    "capamesh_node_held_tokens", "Tokens whose state the model's slots hold.", *_MODEL
)
MOST_HELD_TOKENS: Final = gauge(
    "capamesh_node_most_held_tokens", "Tokens whose state the model's slots can hold.", *_MODEL
)
