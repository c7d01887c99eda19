"""The metrics of a router: the one place that names and describes them. Pure.

A label has a bounded number of values: at most `MOST_MODELS` models and `MOST_NODES` nodes have series of their
own, and the others share one. No histogram has a label for nodes.
"""

from __future__ import annotations

from typing import Final

from capamesh.protocol.metrics import counter, gauge, histogram

# requests, by model

REQUESTS: Final = counter(
    "capamesh_requests",
    "Inference requests that have ended: `code` is `ok`, the code of the error they were answered with, or `cancelled` where"
    " the client hung up before its answer was ready.",
    "model",
    "code",
)
LATENCY: Final = histogram(
    "capamesh_request_seconds",
    "The time of a request that was answered well, from the last byte read of it to the first byte written of its answer.",
    "model",
    bounds=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
"""The bounds go from a tiny model on this machine to the default deadline, in the usual 1-2-5 steps."""
WIRE_REQUESTS: Final = counter(
    "capamesh_wire_requests",
    "The same requests by the wire that brought them: `http`, `grpc` or another's name.",
    "wire",
    "code",
)
WIRE_LATENCY: Final = histogram(
    "capamesh_wire_request_seconds",
    "The time of a request that was answered well, by wire.",
    "wire",
    bounds=LATENCY.bounds,
)
VERSION_REQUESTS: Final = counter(
    "capamesh_version_requests",
    "Requests of a version of a model since a node hosts it: `outcome` is `answered`, or `failed` where nodes failed at it or none"
    " could take it.",
    "model",
    "version",
    "outcome",
)
VERSION_SECONDS: Final = counter(
    "capamesh_version_request_seconds",
    "The time of these requests, summed up.",
    "model",
    "version",
    "outcome",
)
TENANT_REQUESTS: Final = counter(
    "capamesh_tenant_requests",
    "Requests with a key that have ended, by its tenant and by code, as those by model.",
    "tenant",
    "code",
)
TENANT_SECONDS: Final = counter(
    "capamesh_tenant_request_seconds",
    "The time of a tenant's requests that were answered well, summed up.",
    "tenant",
)
OVER_LIMIT: Final = counter(
    "capamesh_requests_over_limit",
    "Requests refused because their key was at a limit: `requests`, `rows` or `bytes` a second, `concurrency`, or `rows_per_month`.",
    "limit",
)
HTTP_REQUESTS: Final = counter(
    "capamesh_http_requests",
    "HTTP requests that were answered, by route and status. `route` is empty where there is none, or the head was not read; a"
    " version in the path of an inference request is left out.",
    "method",
    "route",
    "status",
)
NOT_ADMITTED: Final = counter(
    "capamesh_requests_not_admitted",
    "Requests refused before a node was asked. `reason` is `late` (the deadline could not be kept), `share` (the tenant has its"
    " share already), `shed` (the model is overloaded and others are more urgent) or `full`.",
    "model",
    "version",
    "reason",
)
ATTEMPTS_FAILED: Final = counter(
    "capamesh_attempts_failed",
    "Attempts at a node that failed or were refused, by the code of the error; the request may still have been answered by"
    " another node.",
    "model",
    "code",
)
ATTEMPTS_EXTRA: Final = counter(
    "capamesh_attempts_extra",
    "Attempts beyond the first of a request: retries, hedges, and nodes that were asked after another one refused.",
    "model",
)
GENERATIONS_RESUMED: Final = counter(
    "capamesh_generations_resumed",
    "Times that another node went on with a generated answer, for the one before was lost after it had begun.",
    "model",
)
FIRST_TOKEN: Final = histogram(
    "capamesh_first_token_seconds",
    "The time from a request of a language model to the first token of its answer: vLLM's `time_to_first_token_seconds`, as callers see it.",
    "model",
    bounds=LATENCY.bounds,
)
TOKEN_GAP: Final = histogram(
    "capamesh_token_gap_seconds",
    "The mean time from one token of an answer to the next: vLLM's `request_time_per_output_token_seconds`.",
    "model",
    bounds=LATENCY.bounds,
)
TOKENS: Final = counter(
    "capamesh_tokens",
    "Tokens of answers that have ended: `kind` is `prompt`, `cached` (those of prompts that did not have to run) or `completion`.",
    "model",
    "kind",
)
TENANT_TOKENS: Final = counter(
    "capamesh_tenant_tokens", "The same of requests with a key, by its tenant.", "tenant", "kind"
)
HEDGES: Final = counter(
    "capamesh_hedges",
    "Requests that were sent to a second node because the first was slower than usual.",
    "model",
    "version",
)
RETRIES: Final = counter(
    "capamesh_retries",
    "Retries that the retry budget has paid for: the first node may have begun to run the request, or failed at it.",
    "model",
    "version",
)
IN_FLIGHT: Final = gauge(
    "capamesh_requests_in_flight", "Requests that nodes have not answered yet."
)
OPEN_REQUESTS: Final = gauge(
    "capamesh_open_requests",
    "HTTP requests between their head and their answer, the one that asks for the metrics included.",
)
PROBES_SENT: Final = counter("capamesh_probes_sent", "Probes of nodes' load that were sent.")
PROBES_LOST: Final = counter(
    "capamesh_probes_lost", "Probes of nodes' load that were not answered in time."
)
SPANS_SENT: Final = counter(
    "capamesh_spans_sent", "Spans of requests that the collector of traces has taken."
)
SPANS_LOST: Final = counter("capamesh_spans_lost", "Spans that the collector has not taken.")
TRACES_DROPPED: Final = counter(
    "capamesh_traces_dropped",
    "Requests of which no spans were made, for too many waited for the collector.",
)
LOG_LINES: Final = counter(
    "capamesh_log_lines",
    "Lines for the access log and the log of slow requests, by log: `outcome` is `written`, `dropped` where too many waited, `lost`"
    " where the file could not be written, or `left_out` where too many requests were slow.",
    "log",
    "outcome",
)
ANSWER_BYTES: Final = gauge(
    "capamesh_answer_bytes", "The bytes of large answers that are coming from nodes now."
)
ANSWERS_WAITING: Final = gauge(
    "capamesh_answers_waiting", "Large answers that wait at their nodes until there is room."
)

CACHE_REQUESTS: Final = counter(
    "capamesh_cache_requests",
    "Requests of models whose rules have a cache: `hit` (answered with a kept answer), `joined` (answered by the run of an equal"
    " one), `miss` (not kept by this router), `shared` (of the misses: answered with what another router has kept), or `passed_by` (run:"
    " the request or the model is not one whose answers are kept).",
    "model",
    "result",
)
CACHE_NOT_KEPT: Final = counter(
    "capamesh_cache_answers_not_kept",
    "Answers that were not kept though their requests were looked up: too large, from a node that has just come, was proved"
    " wrong or has changed its file, or of another version.",
    "model",
)
CACHE_EVICTED: Final = counter(
    "capamesh_cache_entries_evicted", "Kept answers that had to go for others before their time."
)
CACHE_ENTRIES: Final = gauge("capamesh_cache_entries", "Answers that are kept.")
CACHE_BYTES: Final = gauge("capamesh_cache_bytes", "The bytes of kept answers.")
CACHE_BYTES_MOST: Final = gauge(
    "capamesh_cache_bytes_most", "The bytes that kept answers may have."
)

SHARED_CACHE: Final = counter(
    "capamesh_shared_cache_lookups",
    "Look-ups in the store that routers share: `found` an answer, `missed`, were too `late`, were `refused` because what was there is no"
    " router's with the same secret, or were `skipped` because the store was away or slow.",
    "result",
)
REPEATED_CALLS: Final = counter(
    "capamesh_idempotency_keys",
    "Requests with an idempotency key: `first` (the key was new), `repeated` (answered with what the first got), `joined` (the"
    " first was under way), `elsewhere` (answered with what the first got, or gets, at another worker) or `mismatched` (refused: the"
    " key was used for another request).",
    "result",
)
REPEATED_BYTES: Final = gauge(
    "capamesh_idempotency_bytes", "The bytes of idempotency keys and their answers."
)

# models, as the fleet hosts them

MODEL_NODES: Final = gauge(
    "capamesh_model_nodes",
    "Nodes that have the model ready, whether they can be asked or not.",
    "model",
)
MODEL_NODES_USABLE: Final = gauge(
    "capamesh_model_nodes_usable",
    "Nodes that have the model ready and can be sent requests for it now.",
    "model",
)
MODEL_NODES_MISSING: Final = gauge(
    "capamesh_model_nodes_missing",
    "Nodes that the model has fewer than before some were lost; told while they are.",
    "model",
)
CONTESTED: Final = gauge(
    "capamesh_contested_models",
    "Model versions of which nodes host another file than the one that is served.",
)
ON_TRIAL: Final = gauge(
    "capamesh_models_on_trial", "Hosted model versions that are not trusted yet."
)

# nodes

NODES: Final = gauge(
    "capamesh_nodes",
    "Nodes in this router's view. `state` is `usable`, or else why none of a node's links takes a request now: `unlinked`,"
    " `draining`, `suspected` (it was not heard of for long) or `circuit_open` (it failed). Nodes that are not in view any more are `lost` where"
    " they vanished, see `capamesh_fleet_lost_timestamp_seconds`.",
    "state",
)
NODE_USABLE: Final = gauge(
    "capamesh_fleet_usable",
    "The value is 1 while requests can be sent to the node, and else 0. `name` is what the node calls itself.",
    "node",
    "name",
)
NODE_LOST: Final = gauge(
    "capamesh_fleet_lost_timestamp_seconds",
    "When a node that vanished was missed; told until it returns, is forgotten by `capamesh node forget`, or a day has passed.",
    "node",
    "name",
)
NODE_LINKS: Final = gauge(
    "capamesh_fleet_links_up",
    "Links to the node that are up; a node has one for each of its devices.",
    "node",
)
NODE_CIRCUITS: Final = gauge(
    "capamesh_fleet_circuits",
    "Circuits of the node and of its models by state: `closed` (requests are sent), `ramping` (ever more of them), `inhibited`,"
    " `ejected` (none for a while), `forced_open` or `forced_closed` (held by the operator).",
    "node",
    "state",
)
NODE_ROUND_TRIP: Final = gauge(
    "capamesh_fleet_round_trip_seconds",
    "The smoothed time of a round trip to the node, over its fastest link; 0 while it is not measured.",
    "node",
)
NODE_IN_FLIGHT: Final = gauge(
    "capamesh_fleet_in_flight", "This router's requests that the node has not answered yet.", "node"
)
NODE_BULK_ROWS: Final = gauge(
    "capamesh_fleet_bulk_rows",
    "Rows of batch jobs and other bulk requests at the node, of all routers, as it has said last.",
    "node",
)
NODE_ONLINE_QUEUE: Final = gauge(
    "capamesh_fleet_online_queue_seconds",
    "The time for which requests that people wait for have queued at the node of late, for the model where that is longest.",
    "node",
)
NODE_ANSWERED: Final = counter(
    "capamesh_fleet_attempts_answered", "Attempts that the node has answered well.", "node"
)
NODE_FAILED: Final = counter(
    "capamesh_fleet_attempts_failed",
    "Attempts that the node has refused or failed at, by the code of the error.",
    "node",
    "code",
)
CIRCUIT_CHANGES: Final = counter(
    "capamesh_circuit_changes",
    "Changes of a node's circuit, or of a model's at a node: `inhibited` and `ejected` (no requests for a while), `slowed` and"
    " `returned`.",
    "change",
)
DIALS_WAITING: Final = gauge(
    "capamesh_dials_waiting", "Addresses of nodes that wait for their turn to be dialled."
)
MEMBERS_REFUSED: Final = gauge(
    "capamesh_members_refused",
    "Identities without a place: as many members of their invite as it admits are here already.",
)

# batch jobs

JOBS: Final = gauge(
    "capamesh_jobs",
    "Batch jobs by state, as this router has seen them last: all routers of a store have the same.",
    "state",
)
JOB_ROWS: Final = counter(
    "capamesh_job_rows",
    "Rows of batch jobs whose shards this router has committed: `ok` has a result, `bad` has none and never will.",
    "outcome",
)
JOB_CALLS: Final = counter(
    "capamesh_job_calls",
    "Calls of batch jobs that have ended: `ok` was answered, `refused` found no room at any node and waits for it, `retried` failed"
    " for a reason that is not its rows' and is sent again, `failed` did for what it is, so that its rows are looked at one by one.",
    "outcome",
)

# the front and the process

HTTP_CONNECTIONS: Final = gauge("capamesh_http_connections", "HTTP connections of clients.")
HTTP_CONNECTIONS_MOST: Final = gauge(
    "capamesh_http_connections_most", "HTTP connections that clients may have."
)
HTTP_TURNED_AWAY: Final = gauge(
    "capamesh_http_connections_turned_away",
    "HTTP connections turned away since the start: there were too many, and none of them was idle.",
)
HTTP_HUNG_UP: Final = gauge(
    "capamesh_http_connections_hung_up",
    "Idle HTTP connections closed for new ones since the start.",
)
TLS_HANDSHAKES: Final = gauge(
    "capamesh_http_tls_handshakes", "TLS handshakes of clients that are under way."
)
TLS_FAILED: Final = gauge(
    "capamesh_http_tls_handshakes_failed",
    "TLS handshakes that failed since the start: the client left, was too slow, or one side did not take the other.",
)
TLS_TURNED_AWAY: Final = gauge(
    "capamesh_http_tls_handshakes_turned_away",
    "TLS handshakes refused since the start because their address had too many, or given up for others.",
)
CERTIFICATE_EXPIRY: Final = gauge(
    "capamesh_http_certificate_expiry_timestamp_seconds",
    "The time at which the certificate that clients see expires, in seconds since 1970.",
)
CERTIFICATE_REFUSED: Final = gauge(
    "capamesh_http_certificate_refused",
    "Set to 1 while the files of the certificate have changed and cannot be used: the one before them is still shown.",
)
GRPC_MISBEHAVED: Final = gauge(
    "capamesh_grpc_connections_ended",
    "HTTP/2 connections ended since the start for what their clients did: floods, broken frames, answers that nobody reads.",
)
STREAMS: Final = gauge("capamesh_streams", "Streams over WebSocket that are open.")
STREAMS_MISBEHAVED: Final = gauge(
    "capamesh_streams_ended",
    "Streams over WebSocket ended since the start for what their clients did: floods, broken frames.",
)
BODY_BYTES: Final = gauge(
    "capamesh_http_body_bytes", "The bytes of requests and unread answers that are held."
)
BODY_BYTES_MOST: Final = gauge(
    "capamesh_http_body_bytes_most", "The bytes of requests and unread answers that may be held."
)
BODY_BYTES_ARRIVING: Final = gauge(
    "capamesh_http_body_bytes_arriving", "The bytes held of bodies that are still arriving."
)
BODIES_REFUSED: Final = gauge(
    "capamesh_http_bodies_refused", "Bodies refused for lack of room since the start."
)
BODIES_ENDED: Final = gauge(
    "capamesh_http_bodies_ended",
    "Slow senders and readers that were ended since the start because others needed their room.",
)
TURNS_CRASHED: Final = counter(
    "capamesh_turns_crashed",
    "Turns of the router's own loops that a bug ended, by loop; the log has the traceback.",
    "loop",
)
