"""`capamesh nodes` and `capamesh models`: what a router knows. Arguments and printing only."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, access
from capamesh.cli.compact_table import Column
from capamesh.cli.fleet_rows import (
    MODEL_COLUMNS,
    NODE_COLUMNS,
    circuit_text,
    file_text,
    lost_since,
    node_name,
    node_names,
    node_notes,
    node_row,
    other_files,
    ready_counts,
    router_text,
    short_file,
    short_tensors,
    tensors_text,
)
from capamesh.cli.help_texts import examples
from capamesh.cli.short_text import short_reason
from capamesh.protocol.errors import Forbidden, ModelNotFound
from capamesh.protocol.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.cli.operator_client import OperatorClient
    from capamesh.client.answers import ModelEntry, ModelMetadata

NODES_EPILOG = examples(
    "capamesh nodes",
    "capamesh nodes --wide   all that is known of each, as wide as it is",
    "capamesh nodes --models   a line for each model at each address",
    "capamesh nodes --router http://10.0.0.5:8000 --json",
    "capamesh models   the next step: what they host",
    "capamesh explain MODEL   who would get a request, and why",
)
MODELS_EPILOG = examples(
    "capamesh models",
    "capamesh models --wide   with all inputs and outputs, whole reasons, and which file each is",
    "capamesh infer MODEL --help   the next step: run one",
    "capamesh chat   or talk with one that is for chat",
)


MODEL_AT_COLUMNS: Final = (
    Column("NODE", least=10, is_name=True),
    Column("MODEL", least=12, is_name=True),
    Column("CIRCUIT", least=9),
    Column("SHARE"),
    Column("IN FLIGHT"),
    Column("QUEUED"),
    Column("RUN"),
    Column("ADDRESS", is_optional=True),
)
"""The columns of `capamesh nodes --models`. IN FLIGHT is this router's / the node's / its limit."""
_WIDE_MODEL_AT: Final = (
    "NODE", "MODEL", "CIRCUIT", "SHARE", "IN FLIGHT own/node/limit", "QUEUED", "RUN", "ADDRESS", "PEER",
)  # fmt: skip
NO_NODES: Final = (
    "This router knows no node yet. One is added by: capamesh join TOKEN, or capamesh node run"
)
_MOST_CHATS: Final = 3
"""The most models for chat of which the command is told below the list."""
NO_MODELS: Final = "No node hosts a model yet. Put models into a node's --models folder, or see which nodes there are: capamesh nodes"


def nodes(
    by_model: Annotated[
        bool, typer.Option("--models", help="A line for each model at each address.")
    ] = False,
    router: options.Routers = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    is_wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """List the nodes as a router sees them: who they are, what they host, how busy they are, whether they are used.

    STATE says why no or fewer requests go to a node; a lost one vanished in the last day, without a goodbye. MODELS counts
    those that are ready. What is wrong stands below.
    """
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import hint, print_compact, print_json, print_wide, say  # noqa: PLC0415 - the same

    with OperatorClient(
        options.several(router), **access(header, ca, cert=cert, cert_key=cert_key, router=router)
    ) as client:
        here, lost = client.nodes_and_lost()
        routers = client.routers()
    if as_json:
        print_json({"nodes": here, "lost": lost, "routers": routers})
        return
    found = [*lost, *here]
    if not found:
        say(NO_NODES)
        return
    names = node_names(found)
    if by_model:
        rows = [row for node in found for row in _model_rows(node, names, is_wide=is_wide)]
        if is_wide:
            print_wide(_WIDE_MODEL_AT, rows)
        else:
            print_compact(MODEL_AT_COLUMNS, rows)
        return
    if is_wide:
        print_wide(
            (
                "NODE", "PEER", "STATE", "CIRCUIT", "DEVICES", "MODELS", "IN FLIGHT", "ANSWERED", "REGION", "PRICE",
                "MEMBER UNTIL",
            ),
            [_row(node, names) for node in found],
        )  # fmt: skip
        return
    now = dt.datetime.now(dt.UTC)
    print_compact(
        NODE_COLUMNS,
        [node_row(node, names) for node in found],
        [note for node in found for note in node_notes(node, names, now)],
    )
    if len(routers) > 1:
        hint(f"{len(routers)} routers: {', '.join(map(router_text, routers))}")
    if lost:
        hint("a lost node that is not to return: capamesh node forget NODE --data ROUTER_DIR")


def models(
    router: options.Routers = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    is_wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """List the models that the nodes host, on how many nodes each is ready, and what it takes and gives.

    FILE (--wide) is the digest that is served: pinned by the router's rules, signed by a publisher, or that of
    most invites. Nodes with other files under the same name are not asked; `capamesh model trust` says which file is right. A version on trial gets one in a hundred of the requests that name none.
    """
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import hint, print_compact, print_json, print_wide, say  # noqa: PLC0415 - the same

    with OperatorClient(
        options.several(router), **access(header, ca, cert=cert, cert_key=cert_key, router=router)
    ) as client:
        tasks = client.tasks()
        try:
            found = client.models()
            owned = {(one.get("name"), one.get("version")): one for one in client.owned_models()}
            ready: Mapping[tuple[str, str], int | None] = ready_counts(
                client.nodes() if found else []
            )
        except Forbidden:  # a key that may run models, and not read the network
            found, owned = client.usable_models(), {}
            ready = dict.fromkeys(((one.name, one.version) for one in found), None)
        known = {(one.name, one.version): _metadata(client, one) for one in found}
    if as_json:
        print_json(
            [
                {
                    "name": e.name,
                    "version": e.version,
                    "state": e.state,
                    "reason": e.reason,
                    "nodes_ready": ready[e.name, e.version],
                    "inputs": _specs(known[e.name, e.version], "inputs"),
                    "outputs": _specs(known[e.name, e.version], "outputs"),
                    "owner": owned.get((e.name, e.version)),
                    "task": tasks.get(e.name, ""),
                }
                for e in found
            ]
        )
        return
    if not found:
        say(NO_MODELS)
        return
    rows: list[tuple[object, ...]] = []
    notes: list[str] = []
    for entry in found:
        key = entry.name, entry.version
        metadata = known[key]
        tensors, file = (tensors_text, file_text) if is_wide else (short_tensors, short_file)
        rows.append(
            (
                entry.name,
                entry.version or "-",
                entry.state + (f": {entry.reason}" if is_wide and entry.reason else ""),
                "-" if ready[key] is None else ready[key],
                tensors(metadata.inputs) if metadata else "-",
                tensors(metadata.outputs) if metadata else "-",
                file(owned.get(key)),
            )
        )
        named = f"{entry.name}/{entry.version}".removesuffix("/")
        if entry.reason:
            notes.append(f"{named}: {short_reason(entry.reason)}")
        notes += [f"{named}: {other}" for other in other_files(owned.get(key))]
    if is_wide:
        print_wide([column.title for column in MODEL_COLUMNS], rows)
    else:
        print_compact(MODEL_COLUMNS, rows, notes)
    chatting = [
        name for name in dict.fromkeys(e.name for e in found) if tasks.get(name) == Task.CHAT
    ]
    if chatting:
        hint(f"for chat: {', '.join(f'capamesh chat {name}' for name in chatting[:_MOST_CHATS])}")


def _metadata(client: OperatorClient, entry: ModelEntry) -> ModelMetadata | None:
    """Return the tensors of this very version, None where it cannot be run or has just left."""
    if not entry.is_ready:
        return None
    try:
        return client.metadata(entry.name, entry.version)
    except ModelNotFound:
        return None


def _specs(metadata: ModelMetadata | None, which: str) -> list[dict[str, Any]] | None:
    """Return the inputs or outputs of a version as JSON, None where they are not known."""
    if metadata is None:
        return None
    return [
        {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}
        for spec in getattr(metadata, which)
    ]


def _row(node: dict[str, Any], names: dict[str, str]) -> tuple[object, ...]:
    from capamesh.cli.printing import amount, day_text  # noqa: PLC0415 - help starts faster

    links: list[dict[str, Any]] = node.get("links", [])
    devices = "\n".join(
        f"{d.get('name') or d.get('kind')} ({amount(d.get('memory_free_bytes', 0))} free)"
        for d in node.get("devices", [])
    )
    offered = "\n".join(_model(model) for model in node.get("models", []))
    return (
        names.get(str(node.get("peer_id")), "-"),
        node.get("peer_id", "?"),
        _state(node, links),
        _circuits(links),
        devices or "-",
        offered or "-",
        sum(link.get("requests_in_flight", 0) for link in links),
        sum(link.get("answered", 0) for link in links),
        node.get("region") or "-",
        f"{node.get('price_per_million', 0.0):g}",
        day_text(node.get("member_until")),
    )


def _circuits(links: list[dict[str, Any]]) -> str:
    """Return each way's circuit, and below it those of its models that are otherwise."""
    lines: list[str] = []
    for link in links:
        at = f"{link.get('address')} " if len(links) > 1 else ""
        lines.append(at + circuit_text(link))
        if not link.get("is_usable", True):
            continue  # what holds for the node holds for all its models
        lines += [
            f"  {model.get('name')}/{model.get('version')} {circuit_text(model)}"
            for model in link.get("models", [])
            if model.get("state", "closed") != "closed"
        ]
    return "\n".join(lines) or "-"


def _model_rows(
    node: dict[str, Any], names: dict[str, str], *, is_wide: bool
) -> list[tuple[object, ...]]:
    from capamesh.cli.printing import time_text  # noqa: PLC0415 - help starts faster

    rows: list[tuple[object, ...]] = []
    for link in node.get("links", []):
        for model in link.get("models", []):
            # what holds for the node holds for all its models
            is_own = link.get("state") == "closed" and link.get("is_usable", True)
            circuit = circuit_text(model if is_own else link)
            row = (
                node_name(node, names),
                f"{model.get('name')}/{model.get('version')}",
                circuit if is_wide else short_reason(circuit),
                f"{model.get('share', 0.0) if link.get('is_usable', True) else 0.0:.0%}",
                f"{model.get('requests_in_flight', 0)}/{model.get('node_in_flight', 0)}/"
                f"{model.get('node_limit') or '-'}",
                time_text(model.get("queue_us", 0) / 1e6),
                time_text(model.get("run_us", 0) / 1e6),
                link.get("address", "?"),
            )
            rows.append((*row, node.get("peer_id", "?")) if is_wide else row)
    return rows


def _model(model: dict[str, Any]) -> str:
    """Return a model with what runs it, or with why it cannot be used, or what is wrong with it although it can."""
    named = f"{model.get('name')}/{model.get('version')}".removesuffix("/")
    reason = model.get("reason", "")
    why = f": {reason}" if reason else ""
    if model.get("state") != "ready":
        return f"{named} {model.get('state')}{why}"
    provider = str(model.get("provider", "")).removesuffix("ExecutionProvider")
    how = ", ".join(filter(None, (provider, model.get("precision", ""))))
    return (f"{named} ({how})" if how else named) + why


def _state(node: dict[str, Any], links: list[dict[str, Any]]) -> str:
    from capamesh.cli.printing import day_text  # noqa: PLC0415 - help starts faster

    if node.get("lost_at"):
        return f"lost since {lost_since(node)}"
    if node.get("is_draining"):
        return "draining"
    if node.get("drained_until"):
        return f"drained until {day_text(node['drained_until'])} UTC"
    states = Counter("usable" if link.get("is_usable") else "not usable" for link in links)
    if not links:
        return "no link"
    if set(states) == {"usable"}:
        return "usable"
    why = next((str(link["last_error"]) for link in links if link.get("last_error")), "")
    many = "" if len(links) == 1 else f" {states['usable']} of {len(links)} devices"
    return ("usable" if states["usable"] else "not usable") + many + (f": {why}" if why else "")
