"""`capamesh nodes` and `capamesh models`: what a router knows. Arguments and printing only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Headers, access
from capamesh.cli.help_texts import examples
from capamesh.protocol.ids import PeerId
from capamesh.protocol.member_name import shown_names
from capamesh.protocol.model_digest import short_digest

NODES_EPILOG = examples(
    "capamesh nodes",
    "capamesh nodes --models   a line for each model at each address",
    "capamesh nodes --router http://10.0.0.5:8000 --json",
    "capamesh models   the next step: what they host",
    "capamesh explain MODEL   who would get a request, and why",
)
MODELS_EPILOG = examples(
    "capamesh models",
    "capamesh infer MODEL --help   the next step: run one",
)


def nodes(
    by_model: Annotated[
        bool, typer.Option("--models", help="A line for each model at each address.")
    ] = False,
    router: options.Routers = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    as_json: options.Json = False,
) -> None:
    """List the nodes as a router sees them: who they are, what they host, how busy they are, whether they are used.

    CIRCUIT is closed where requests go; else it says why they do not, or not all. It is - where STATE says so.
    """
    from capamesh.cli.printing import print_json, print_table  # noqa: PLC0415 - help starts faster
    from capamesh.client import Client  # noqa: PLC0415 - the same

    with Client(options.several(router), **access(header, ca)) as client:
        found = client.nodes()
    if as_json:
        print_json({"nodes": found})
        return
    names = node_names(found)
    if by_model:
        print_table(
            (
                "NODE", "PEER", "ADDRESS", "MODEL", "CIRCUIT", "SHARE", "IN FLIGHT own/node/limit", "QUEUED", "RUN",
            ),
            [row for node in found for row in _model_rows(node, names)],
        )  # fmt: skip
        return
    print_table(
        (
            "NODE",
            "PEER",
            "STATE",
            "CIRCUIT",
            "DEVICES",
            "MODELS",
            "IN FLIGHT",
            "ANSWERED",
            "REGION",
            "PRICE",
            "MEMBER UNTIL",
        ),
        [_row(node, names) for node in found],
    )


def models(
    router: options.Routers = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    as_json: options.Json = False,
) -> None:
    """List the models that the nodes host, and which file each version is.

    FILE is the digest that is served: pinned by the router's rules, signed by a publisher, or first seen. Nodes with
    other files under the same name are not asked. A version on trial gets one in a hundred of the requests that name none.
    """
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import print_json, print_table  # noqa: PLC0415 - the same

    with OperatorClient(options.several(router), **access(header, ca)) as client:
        found = client.models()
        owned = {(one.get("name"), one.get("version")): one for one in client.owned_models()}
        known = {entry.name: client.metadata(entry.name) for entry in found if entry.is_ready}
    if as_json:
        print_json(
            [
                {
                    "name": e.name,
                    "version": e.version,
                    "state": e.state,
                    "reason": e.reason,
                    "owner": owned.get((e.name, e.version)),
                }
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
                entry.version or "-",
                entry.state + (f": {entry.reason}" if entry.reason else ""),
                file_text(owned.get((entry.name, entry.version))),
                _tensors(metadata.inputs) if metadata else "-",
                _tensors(metadata.outputs) if metadata else "-",
            )
        )
    print_table(("MODEL", "VERSION", "STATE", "FILE", "INPUTS", "OUTPUTS"), rows)


def file_text(owned: dict[str, Any] | None) -> str:
    """Return which file a version is served as, why, and what else is hosted under its name."""
    if owned is None:
        return "-"
    digest = str(owned.get("digest", ""))
    lines = [short_digest(digest) or "none"]
    why = {"rules": "by the rules", "signed": f"signed by {str(owned.get('publisher'))[-8:]}"}
    lines.append(why.get(str(owned.get("reason")), "first seen"))
    if owned.get("standing") != "trusted":
        lines.append(str(owned.get("standing")))
    others: list[dict[str, Any]] = owned.get("others", [])
    lines += [
        f"not asked: {other.get('nodes')} with {short_digest(str(other.get('digest')))}"
        for other in others
    ]
    return "\n".join(lines)


def node_names(found: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return what people are shown of each node, by its peer id; nothing of one that has no name."""
    names = {PeerId(str(one.get("peer_id"))): str(one.get("name") or "") for one in found}
    return {str(peer): name for peer, name in shown_names(names).items()}


def _row(node: dict[str, Any], names: dict[str, str]) -> tuple[object, ...]:
    from capamesh.cli.printing import amount, day_text, peer_text  # noqa: PLC0415 - help starts faster

    links: list[dict[str, Any]] = node.get("links", [])
    devices = "\n".join(
        f"{d.get('name') or d.get('kind')} ({amount(d.get('memory_free_bytes', 0))} free)"
        for d in node.get("devices", [])
    )
    offered = "\n".join(_model(model) for model in node.get("models", []))
    return (
        names.get(str(node.get("peer_id")), "-"),
        peer_text(node.get("peer_id", "?")),
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


def circuit_text(part: dict[str, Any]) -> str:
    """Return the circuit of a node or model with what is known against it.

    Of a node that nothing can be sent to, it is what was done about it by hand or by failures, without their
    reason: the node's state has a newer one.
    """
    state = str(part.get("state", "?"))
    reason = part.get("reason", "")
    if not part.get("is_usable", True):
        if state in {"closed", "ramping"}:
            return "-"
        reason = ""
    if state in {"forced_open", "forced_closed"}:
        return f"{state}: by the operator"
    return f"{state}: {reason}" if reason and state != "closed" else state


def _model_rows(node: dict[str, Any], names: dict[str, str]) -> list[tuple[object, ...]]:
    from capamesh.cli.printing import peer_text, time_text  # noqa: PLC0415 - help starts faster

    return [
        (
            names.get(str(node.get("peer_id")), "-"),
            peer_text(node.get("peer_id", "?")),
            link.get("address", "?"),
            f"{model.get('name')}/{model.get('version')}",
            # what holds for the node holds for all its models
            circuit_text(
                model if link.get("state") == "closed" and link.get("is_usable", True) else link
            ),
            f"{model.get('share', 0.0) if link.get('is_usable', True) else 0.0:.0%}",
            f"{model.get('requests_in_flight', 0)} / {model.get('node_in_flight', 0)} / "
            f"{model.get('node_limit') or '-'}",
            time_text(model.get("queue_us", 0) / 1e6),
            time_text(model.get("run_us", 0) / 1e6),
        )
        for link in node.get("links", [])
        for model in link.get("models", [])
    ]


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
