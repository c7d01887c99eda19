"""`capamesh nodes` and `capamesh models`: what a router knows. Arguments and printing only."""

from __future__ import annotations

from collections import Counter
from typing import Any

from capamesh.cli import options
from capamesh.cli.teaching import examples

NODES_EPILOG = examples(
    "capamesh nodes",
    "capamesh nodes --router http://10.0.0.5:8000 --json",
    "capamesh models   the next step: what they host",
)
MODELS_EPILOG = examples(
    "capamesh models",
    "capamesh infer MODEL --help   the next step: run one",
)


def nodes(router: options.Router = options.DEFAULT_ROUTER, as_json: options.Json = False) -> None:
    """List the nodes as a router sees them: who they are, what they host, how busy they are."""
    from capamesh.cli.printing import print_json, print_table  # noqa: PLC0415 - help starts faster
    from capamesh.client import Client  # noqa: PLC0415 - the same

    with Client(router) as client:
        found = client.nodes()
    if as_json:
        print_json({"nodes": found})
        return
    print_table(
        ("PEER", "STATE", "DEVICES", "MODELS", "IN FLIGHT", "ANSWERED", "REGION", "PRICE"),
        [_row(node) for node in found],
    )


def models(router: options.Router = options.DEFAULT_ROUTER, as_json: options.Json = False) -> None:
    """List the models that the nodes host."""
    from capamesh.cli.printing import print_json, print_table  # noqa: PLC0415 - help starts faster
    from capamesh.client import Client  # noqa: PLC0415 - the same

    with Client(router) as client:
        found = client.models()
        known = {entry.name: client.metadata(entry.name) for entry in found if entry.is_ready}
    if as_json:
        print_json(
            [
                {"name": e.name, "version": e.version, "state": e.state, "reason": e.reason}
                for e in found
            ]
        )
        return
    rows: list[tuple[object, ...]] = []
    for entry in found:
        metadata = known.get(entry.name)
        rows.append(
            (
                entry.name,
                entry.version,
                entry.state + (f": {entry.reason}" if entry.reason else ""),
                _tensors(metadata.inputs) if metadata else "-",
                _tensors(metadata.outputs) if metadata else "-",
            )
        )
    print_table(("MODEL", "VERSION", "STATE", "INPUTS", "OUTPUTS"), rows)


def _row(node: dict[str, Any]) -> tuple[object, ...]:
    from capamesh.cli.printing import amount  # noqa: PLC0415 - help starts faster

    links: list[dict[str, Any]] = node.get("links", [])
    devices = "\n".join(
        f"{d.get('name') or d.get('kind')} ({amount(d.get('memory_free_bytes', 0))} free)"
        for d in node.get("devices", [])
    )
    offered = "\n".join(_model(model) for model in node.get("models", []))
    return (
        node.get("peer_id", "?"),
        _state(node, links),
        devices or "-",
        offered or "-",
        sum(link.get("requests_in_flight", 0) for link in links),
        sum(link.get("answered", 0) for link in links),
        node.get("region") or "-",
        f"{node.get('price_per_million', 0.0):g}",
    )


def _model(model: dict[str, Any]) -> str:
    """Return a model with what runs it, or with why it cannot be used."""
    named = f"{model.get('name')}/{model.get('version')}"
    if model.get("state") != "ready":
        reason = model.get("reason", "")
        return f"{named} {model.get('state')}" + (f": {reason}" if reason else "")
    provider = str(model.get("provider", "")).removesuffix("ExecutionProvider")
    how = ", ".join(filter(None, (provider, model.get("precision", ""))))
    return f"{named} ({how})" if how else named


def _state(node: dict[str, Any], links: list[dict[str, Any]]) -> str:
    if node.get("is_draining"):
        return "draining"
    states = Counter("usable" if link.get("is_usable") else "not usable" for link in links)
    if not links:
        return "no link"
    if set(states) == {"usable"}:
        return "usable"
    why = next((str(link["last_error"]) for link in links if link.get("last_error")), "")
    many = "" if len(links) == 1 else f" {states['usable']} of {len(links)} devices"
    return ("usable" if states["usable"] else "not usable") + many + (f": {why}" if why else "")


def _tensors(specs: tuple[Any, ...]) -> str:
    shapes = (f"{s.name} {s.datatype.value}[{','.join(map(str, s.shape))}]" for s in specs)
    return "\n".join(shapes)
