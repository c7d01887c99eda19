"""The dashboards of `deploy/observability`: what each panel asks for. Pure."""

from __future__ import annotations

from observability_panels import Dashboard, Panel
from observability_panels import line as _line
from observability_queries import FAULTS, Query, named, or_zero, quantile, rate
from observability_queries import mean as _mean
from observability_texts import TEXTS

from capamesh.node.agent.metrics import definitions as node
from capamesh.protocol import metrics as both
from capamesh.router.telemetry import metrics as router

USABLE = 'state="usable"'
OF_MODEL = 'model=~"$model"'


def _number(title: str, unit: str, text: str) -> Panel:
    return Panel(title, unit, (Query(text),), width=4, is_number=True)


_ALL_RATE = f"sum(rate({named(router.REQUESTS)}[$__rate_interval]))"
_ALL_FAULTS = f"(sum(rate({named(router.REQUESTS, FAULTS)}[$__rate_interval])) or vector(0))"

FLEET = Dashboard(
    "capamesh-fleet",
    "Capamesh: fleet",
    (
        _number("Requests", "reqps", _ALL_RATE),
        _number("Failed by no fault of the caller", "percentunit", f"{_ALL_FAULTS} / {_ALL_RATE}"),
        _number("99th percentile", "s", quantile(0.99, router.LATENCY, "")),
        _number("Usable nodes", "none", f"max({named(router.NODES, USABLE)})"),
        _number(
            "Models without a node",
            "none",
            f"count(max by (model) ({named(router.MODEL_NODES_USABLE)}) == 0) or vector(0)",
        ),
        _number("Next membership to end", "s", f"min({named(both.MEMBERSHIP_LEFT)})"),
        _line("Requests by model", "reqps", rate(router.REQUESTS, "model", OF_MODEL), "{{model}}"),
        _line("Requests by code", "reqps", rate(router.REQUESTS, "code", OF_MODEL), "{{code}}"),
        Panel(
            "Latency of answers",
            "s",
            tuple(
                Query(
                    quantile(part, router.LATENCY, "model", OF_MODEL),
                    f"{{{{model}}}} p{part * 100:.0f}",
                )
                for part in (0.5, 0.99)
            ),
        ),
        _line(
            "Refused before a node was asked",
            "reqps",
            or_zero(rate(router.NOT_ADMITTED, "model, reason", OF_MODEL)),
            "{{model}} {{reason}}",
        ),
        Panel(
            "Second attempts",
            "reqps",
            (
                Query(
                    or_zero(f"sum(rate({named(router.RETRIES, OF_MODEL)}[$__rate_interval]))"),
                    "retries",
                ),
                Query(
                    or_zero(f"sum(rate({named(router.HEDGES, OF_MODEL)}[$__rate_interval]))"),
                    "hedges",
                ),
                Query(
                    or_zero(
                        f"sum(rate({named(router.ATTEMPTS_EXTRA, OF_MODEL)}[$__rate_interval]))"
                    ),
                    "all",
                ),
            ),
        ),
        _line(
            "Failed attempts",
            "reqps",
            or_zero(rate(router.ATTEMPTS_FAILED, "model, code", OF_MODEL)),
            "{{model}} {{code}}",
        ),
        _line("Nodes by state", "none", f"max by (state) ({named(router.NODES)})", "{{state}}"),
        _line(
            "Nodes that can be asked, by model",
            "none",
            f"max by (model) ({named(router.MODEL_NODES_USABLE, OF_MODEL)})",
            "{{model}}",
        ),
    ),
    models=True,
)
NODES = Dashboard(
    "capamesh-nodes",
    "Capamesh: nodes, as routers see them",
    (
        _line(
            "Usable",
            "none",
            f"max by (node, name) ({named(router.NODE_USABLE)})",
            "{{name}} {{node}}",
        ),
        _line(
            "Links that are up", "none", f"sum by (node) ({named(router.NODE_LINKS)})", "{{node}}"
        ),
        _line("Attempts answered", "reqps", rate(router.NODE_ANSWERED, "node"), "{{node}}"),
        _line(
            "Attempts failed",
            "reqps",
            or_zero(rate(router.NODE_FAILED, "node, code")),
            "{{node}} {{code}}",
        ),
        _line("In flight", "none", f"sum by (node) ({named(router.NODE_IN_FLIGHT)})", "{{node}}"),
        _line("Round trip", "s", f"max by (node) ({named(router.NODE_ROUND_TRIP)})", "{{node}}"),
        _line("Circuits", "none", f"sum by (state) ({named(router.NODE_CIRCUITS)})", "{{state}}"),
        Panel(
            "Probes",
            "reqps",
            (
                Query(f"sum(rate({named(router.PROBES_SENT)}[$__rate_interval]))", "sent"),
                Query(f"sum(rate({named(router.PROBES_LOST)}[$__rate_interval]))", "lost"),
            ),
        ),
    ),
)
DEVICES = Dashboard(
    "capamesh-devices",
    "Capamesh: models on devices, as nodes see them",
    (
        _line(
            "Rows run",
            "rowsps",
            rate(node.ROWS, "instance, model", OF_MODEL),
            "{{instance}} {{model}}",
        ),
        _line(
            "Requests",
            "reqps",
            rate(node.REQUESTS, "instance, model, code", OF_MODEL),
            "{{instance}} {{model}} {{code}}",
        ),
        _line(
            "Rows of a batch",
            "none",
            _mean(node.BATCH_ROWS.name, "instance, model"),
            "{{instance}} {{model}}",
        ),
        _line(
            "Run time of a batch, 99th percentile",
            "s",
            quantile(0.99, node.RUN, "instance, model", OF_MODEL),
            "{{instance}} {{model}}",
        ),
        _line(
            "Time in the queue, 99th percentile",
            "s",
            quantile(0.99, node.QUEUE, "instance, model", OF_MODEL),
            "{{instance}} {{model}}",
        ),
        _line(
            "In flight, of what is allowed",
            "percentunit",
            f"sum by (instance, model) ({named(node.IN_FLIGHT, OF_MODEL)}) / (sum by (instance, model) ({named(node.LIMIT, OF_MODEL)}) > 0)",
            "{{instance}} {{model}}",
        ),
        _line(
            "Not run",
            "reqps",
            or_zero(rate(node.DROPPED, "instance, model, reason", OF_MODEL)),
            "{{instance}} {{model}} {{reason}}",
        ),
        Panel(
            "Memory of devices",
            "bytes",
            (
                Query(named(node.DEVICE_MEMORY), "{{instance}} {{device}}"),
                Query(named(node.DEVICE_MEMORY_FREE), "{{instance}} {{device}} free"),
            ),
        ),
        _line(
            "Memory of models",
            "bytes",
            f"sum by (instance, model) ({named(node.MEMORY, OF_MODEL)})",
            "{{instance}} {{model}}",
        ),
        _line("Models by state", "none", f"sum by (state) ({named(node.MODELS)})", "{{state}}"),
        _line("Workers that run", "none", named(node.WORKER_UP), "{{instance}} {{device}}"),
        _line(
            "Restarts of workers in an hour",
            "none",
            f"increase({named(node.WORKER_STARTS)}[1h])",
            "{{instance}} {{device}}",
        ),
    ),
    models=True,
)
PROCESSES = Dashboard(
    "capamesh-processes",
    "Capamesh: processes",
    (
        _line("Versions", "none", f"count by (version) ({named(both.BUILD)})", "{{version}}"),
        _line(
            "Memory of processes",
            "bytes",
            'process_resident_memory_bytes{job=~"capamesh-.*"}',
            "{{instance}}",
        ),
        _line(
            "Processors used",
            "none",
            'rate(process_cpu_seconds_total{job=~"capamesh-.*"}[$__rate_interval])',
            "{{instance}}",
        ),
        _line(
            "Delay of event loops, 99th percentile",
            "s",
            quantile(0.99, both.LOOP_DELAY, "instance, process, device"),
            "{{instance}} {{process}} {{device}}",
        ),
        _line(
            "Work of event loops, a second",
            "percentunit",
            f"sum by (instance, process, device) (rate({both.LOOP_BUSY.name}_sum[$__rate_interval]))",
            "{{instance}} {{process}} {{device}}",
        ),
        _line(
            "Free disk",
            "percentunit",
            f"{named(both.DISK_FREE)} / {named(both.DISK)}",
            "{{instance}}",
        ),
        _line("Until the membership ends", "s", named(both.MEMBERSHIP_LEFT), "{{instance}}"),
        _line("Clock behind most others", "s", named(both.CLOCK_BEHIND), "{{instance}}"),
        _line(
            "HTTP connections, of what is allowed",
            "percentunit",
            f"{named(router.HTTP_CONNECTIONS)} / {named(router.HTTP_CONNECTIONS_MOST)}",
            "{{instance}}",
        ),
        _line(
            "Bytes of bodies, of what is allowed",
            "percentunit",
            f"{named(router.BODY_BYTES)} / {named(router.BODY_BYTES_MOST)}",
            "{{instance}}",
        ),
        _line(
            "Turns ended by bugs",
            "none",
            or_zero(rate(router.TURNS_CRASHED, "instance, loop")),
            "{{instance}} {{loop}}",
        ),
    ),
)
_KEPT = 'result=~"hit|joined"'
_LOOKED_UP = 'result!="passed_by"'
CLIENTS = Dashboard(
    "capamesh-clients",
    "Capamesh: clients, as routers see them",
    (
        _line("Requests by wire", "reqps", rate(router.WIRE_REQUESTS, "wire"), "{{wire}}"),
        Panel(
            "Latency of answers by wire",
            "s",
            tuple(
                Query(
                    quantile(part, router.WIRE_LATENCY, "wire"), f"{{{{wire}}}} p{part * 100:.0f}"
                )
                for part in (0.5, 0.99)
            ),
        ),
        _line(
            "HTTP requests by status", "reqps", rate(router.HTTP_REQUESTS, "status"), "{{status}}"
        ),
        _line(
            "HTTP requests refused, by route",
            "reqps",
            or_zero(rate(router.HTTP_REQUESTS, "route, status", 'status=~"[45].."')),
            "{{route}} {{status}}",
        ),
        _line(
            "Requests by tenant",
            "reqps",
            or_zero(rate(router.TENANT_REQUESTS, "tenant")),
            "{{tenant}}",
        ),
        _line(
            "Refused at the limit of a key",
            "reqps",
            or_zero(rate(router.OVER_LIMIT, "limit")),
            "{{limit}}",
        ),
        _line(
            "Answered from the cache, of what was looked up",
            "percentunit",
            or_zero(
                f"{rate(router.CACHE_REQUESTS, 'model', _KEPT)} / {rate(router.CACHE_REQUESTS, 'model', _LOOKED_UP)}"
            ),
            "{{model}}",
        ),
        _line(
            "Cache by result",
            "reqps",
            or_zero(rate(router.CACHE_REQUESTS, "model, result")),
            "{{model}} {{result}}",
        ),
        Panel(
            "Bytes of kept answers",
            "bytes",
            (
                Query(named(router.CACHE_BYTES), "{{instance}}"),
                Query(named(router.CACHE_BYTES_MOST), "{{instance}} at most"),
                Query(named(router.REPEATED_BYTES), "{{instance}} of idempotency keys"),
            ),
        ),
        _line(
            "Requests with an idempotency key",
            "reqps",
            or_zero(rate(router.REPEATED_CALLS, "result")),
            "{{result}}",
        ),
        Panel(
            "Open",
            "none",
            (
                Query(f"sum({named(router.OPEN_REQUESTS)})", "requests over HTTP"),
                Query(f"sum({named(router.STREAMS)})", "streams over WebSocket"),
                Query(f"sum({named(router.HTTP_CONNECTIONS)})", "connections"),
                Query(f"sum({named(router.ANSWERS_WAITING)})", "answers that wait at nodes"),
            ),
        ),
        Panel(
            "Clients that were sent away, in an hour",
            "none",
            tuple(
                Query(f"sum(increase({named(metric)}[1h]))", legend)
                for metric, legend in (
                    (router.HTTP_TURNED_AWAY, "connections: too many"),
                    (router.HTTP_HUNG_UP, "idle connections, for others"),
                    (router.BODIES_REFUSED, "bodies: no room"),
                    (router.BODIES_ENDED, "slow bodies, for others"),
                    (router.GRPC_MISBEHAVED, "HTTP/2 that misbehaved"),
                    (router.STREAMS_MISBEHAVED, "streams that misbehaved"),
                )
            ),
        ),
        _line(
            "Lines of request logs",
            "none",
            or_zero(rate(router.LOG_LINES, "log, outcome")),
            "{{log}} {{outcome}}",
        ),
        _line(
            "Until the certificate expires",
            "s",
            or_zero(f"{named(router.CERTIFICATE_EXPIRY)} - time()"),
            "{{instance}}",
        ),
    ),
)
_UNDER_WAY = 'state=~"planning|running|blocked|paused"'
_REFUSED = 'outcome="refused"'
JOBS = Dashboard(
    "capamesh-jobs",
    "Capamesh: batch jobs",
    (
        _line(
            "Jobs that have not ended",
            "none",
            or_zero(f"max by (state) ({named(router.JOBS, _UNDER_WAY)})"),
            "{{state}}",
        ),
        _line("Rows committed", "rps", or_zero(rate(router.JOB_ROWS, "outcome")), "{{outcome}}"),
        _line("Calls", "cps", or_zero(rate(router.JOB_CALLS, "outcome")), "{{outcome}}"),
        _line(
            "Calls that found no room, of all",
            "percentunit",
            or_zero(
                f"sum(rate({named(router.JOB_CALLS, _REFUSED)}[$__rate_interval]))"
                f" / sum(rate({named(router.JOB_CALLS)}[$__rate_interval]))"
            ),
            "refused",
        ),
    ),
)
DASHBOARDS = (FLEET, CLIENTS, TEXTS, JOBS, NODES, DEVICES, PROCESSES)
