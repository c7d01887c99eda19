"""`capamesh explain`: where a request would go, among whom and why. Arguments and printing only."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from capamesh.cli import options
from capamesh.cli.teaching import examples

EPILOG = examples(
    "capamesh explain digits",
    "capamesh explain digits --region eu --max-price 2   as if a request asked for that",
    "capamesh explain digits --policy round-robin --json",
    "capamesh circuit PEER open   takes a node out by hand",
)

_WHY = {
    "prequal": "of those it knows enough of, a request is expected to be done soonest there",
    "p2c": "it was the less busy of two drawn by chance",
    "peak-ewma": "of two drawn by chance, its latency x (requests in flight + 1) was the lesser",
    "least-request": "it has the fewest requests in flight of those that were compared",
    "round-robin": "it was its turn",
    "random": "it was drawn by chance",
    "cheapest": "it is the cheapest of those that are about as fast as the fastest",
    "affinity": "requests of this key belong there",
}
"""Said of the chosen one; by policy."""


def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")],
    version: Annotated[
        str, typer.Option("--version", help="Which version; the router's choice by default.")
    ] = "",
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="NAME",
            help=f"Another than the model's: {', '.join(options.POLICY_NAMES)}.",
        ),
    ] = "",
    region: Annotated[
        str,
        typer.Option("--region", metavar="NAME,...", help="Only nodes that say they are there."),
    ] = "",
    max_price: Annotated[
        float | None,
        typer.Option("--max-price", metavar="PRICE", min=0.0, help="No dearer nodes than this."),
    ] = None,
    device: Annotated[
        str,
        typer.Option("--device", metavar="KIND,...", help="Only these kinds of devices: cpu,cuda."),
    ] = "",
    affinity: Annotated[
        str, typer.Option("--affinity", metavar="KEY", help="As a request with this key.")
    ] = "",
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="As this tenant's.")] = "",
    router: options.Router = options.DEFAULT_ROUTER,
    as_json: options.Json = False,
) -> None:
    """Show where a request for MODEL would go now, and why. No node is asked, nothing is run."""
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import print_json, print_table  # noqa: PLC0415 - the same

    wishes = {
        "X-Capamesh-Policy": policy,
        "X-Capamesh-Region": region,
        "X-Capamesh-Max-Price": "" if max_price is None else repr(max_price),
        "X-Capamesh-Device": device,
        "X-Capamesh-Affinity": affinity,
    }
    headers = {name: value for name, value in wishes.items() if value}
    with OperatorClient(router) as client:
        found = client.explain(model, version=version, tenant=tenant, headers=headers)
    if as_json:
        print_json(found)
        return
    print(sentence(found))
    print()
    print_table(
        (
            "", "NODE", "ADDRESS", "CIRCUIT", "SHARE", "IN FLIGHT own/told/limit", "LATENCY", "RTT",
            "PRICE", "REGION", "REFUSAL",
        ),
        [_row(host) for host in found.get("candidates", [])],
    )  # fmt: skip


def sentence(found: dict[str, Any]) -> str:
    """Return in plain words why the chosen one was, or why nobody could be."""
    hosts: list[dict[str, Any]] = found.get("candidates", [])
    what = f"{found.get('model')}/{found.get('version')}"
    fit = [host for host in hosts if not host.get("refusal")]
    chosen = next((host for host in hosts if host.get("chosen")), None)
    of = f"{len(hosts)} that {'hosts' if len(hosts) == 1 else 'host'} it"
    if chosen is None:
        if not hosts:
            return f"A request for {what} can go nowhere: none of its nodes can be reached."
        return (
            f"A request for {what} can go nowhere: none of the {of} may have it, for these reasons."
        )
    to = f"A request for {what} would go to {chosen.get('peer')} at {chosen.get('address')}: "
    if chosen.get("refusal"):
        return f"{to}none of the {of} is fit for it, and this one is the least unfit ({chosen['refusal']})."
    if len(fit) == 1:
        return f"{to}it is the only one of the {of} that may have it."
    policy = str(found.get("policy"))
    why = _WHY.get(policy, "it was the policy's choice")
    return f"{to}{why} ({policy}; {len(fit)} of the {of} may have it)."


def _row(host: dict[str, Any]) -> tuple[object, ...]:
    from capamesh.cli.printing import time_text  # noqa: PLC0415 - help starts faster

    latency_ms, rtt_ms = host.get("latency_ms"), host.get("rtt_ms")
    return (
        "→" if host.get("chosen") else "",
        host.get("peer", "?"),
        host.get("address", "?"),
        host.get("state", "?"),
        f"{host.get('share', 0.0):.0%}",
        f"{host.get('rif', 0)} / {host.get('in_flight', 0)} / {host.get('limit') or '-'}",
        time_text(latency_ms / 1e3 if latency_ms else None),
        time_text(rtt_ms / 1e3 if rtt_ms else None),
        f"{host.get('price', 0.0):g}",
        host.get("region") or "-",
        host.get("refusal") or "-",
    )
