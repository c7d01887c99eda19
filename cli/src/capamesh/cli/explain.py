"""`capamesh explain`: where a request would go, among whom and why. Arguments and printing only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, cast

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, access
from capamesh.cli.compact_table import Column
from capamesh.cli.fleet_rows import file_text, node_name, node_names
from capamesh.cli.help_texts import examples
from capamesh.cli.parsing import seconds
from capamesh.cli.short_text import short_reason

EPILOG = examples(
    "capamesh explain digits",
    "capamesh explain digits --region eu --max-price 2   as if a request asked for that",
    "capamesh explain digits --tenant acme --priority 200   would that be refused?",
    "capamesh explain digits --policy round-robin --json",
    "capamesh explain digits > /dev/null   exit status 0 if it would be sent, 3 if not",
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
    "prefix": "its prompt has its first token there soonest, by what was run there before and by what waits",
}
"""Said of the chosen one; by policy."""
NO_WAY = frozenset(
    {
        "it hosts the model no more", "it left the fleet", "no link", "draining",
        "its link takes no new requests",
    }
)  # fmt: skip
"""The refusals that say that nothing can be sent there, whoever asks: a healthy circuit is of no use then."""
COLUMNS: Final = (
    Column(""),
    Column("NODE", least=10, is_name=True),
    Column("CIRCUIT", least=9),
    Column("SHARE"),
    Column("IN FLIGHT"),
    Column("LATENCY"),
    Column("REFUSAL", least=16),
    Column("RTT", is_optional=True),
    Column("PRICE", is_optional=True),
    Column("REGION", is_optional=True),
    Column("ADDRESS", is_optional=True),
)
"""The columns of replicas. IN FLIGHT is this router's / the node's / its limit."""
_WIDE_COLUMNS: Final = (
    "", "NODE", "CIRCUIT", "SHARE", "IN FLIGHT own/node/limit", "LATENCY", "REFUSAL", "RTT", "PRICE", "REGION", "ADDRESS",
    "PEER",
)  # fmt: skip
_REFUSAL_CELLS: Final = 60
NOWHERE = 3
"""The exit status when the request would be refused, or no node may have it."""


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
    priority: Annotated[
        int | None,
        typer.Option(
            "--priority",
            min=1,
            max=255,
            help="As a request of this class: 1 is the first, 128 usual.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="TIME",
            parser=seconds(0.001),
            help="The deadline; the router's by default.",
        ),
    ] = None,
    router: options.Router = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    is_wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Show whether a request for MODEL would be let in now, where it would go, and why. No node is asked.

    Exit status 3 when it would be refused, or no node may have it.
    """
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import print_compact, print_json, print_wide, say, wrapped  # noqa: PLC0415 - the same

    options = {
        "X-Capamesh-Policy": policy,
        "X-Capamesh-Region": region,
        "X-Capamesh-Max-Price": "" if max_price is None else repr(max_price),
        "X-Capamesh-Device": device,
        "X-Capamesh-Affinity": affinity,
    }
    asked = {
        "version": version,
        "tenant": tenant,
        "priority": "" if priority is None else str(priority),
        "timeout": "" if timeout is None else str(max(1, round(timeout * 1e6))),
    }
    with OperatorClient(
        router, **access(header, ca, cert=cert, cert_key=cert_key, router=router)
    ) as client:
        found = client.explain(model, query=_given(asked), headers=_given(options))
    replicas: list[dict[str, Any]] = found.get("replicas", [])
    is_sent = found.get("admission", {}).get("is_admitted", True) and any(
        replica.get("is_chosen") for replica in replicas
    )
    status = 0 if is_sent else NOWHERE
    if as_json:
        print_json(found)
        raise typer.Exit(status)
    names = node_names(replicas)
    why = sentence(found, None if is_wide else names)
    say(why if is_wide else wrapped(why))
    owned = found.get("owner")
    if isinstance(owned, dict):
        say(f"Its file: {file_text(cast('dict[str, Any]', owned)).replace(chr(10), ', ')}.")
    if not replicas:
        raise typer.Exit(status)
    print()
    if is_wide:
        print_wide(
            _WIDE_COLUMNS, [(*_row(one, names), one.get("peer_id", "?")) for one in replicas]
        )
    else:
        print_compact(COLUMNS, [_row(one, names, most=_REFUSAL_CELLS) for one in replicas])
    raise typer.Exit(status)


def sentence(found: dict[str, Any], names: Mapping[str, str] | None = None) -> str:
    """Return in plain words why the chosen one was, or why nobody could be.

    The node is called by what `names` has for it, where that is given, else by its name and peer id.
    """
    replicas: list[dict[str, Any]] = found.get("replicas", [])
    what = f"{found.get('model')}/{found.get('version')}"
    fit = [replica for replica in replicas if not replica.get("refusal")]
    chosen = next((replica for replica in replicas if replica.get("is_chosen")), None)
    admission: dict[str, Any] = found.get("admission", {})
    if not admission.get("is_admitted", True):
        return f"A request for {what} would be refused now ({admission.get('status')}): {admission.get('error')}."
    of = f"{len(replicas)} that {'hosts' if len(replicas) == 1 else 'host'} it"
    if chosen is None:
        if not replicas:
            return f"A request for {what} can go nowhere: none of its nodes can be reached."
        return (
            f"A request for {what} can go nowhere: none of the {of} may have it, for these reasons."
        )
    peer, name = chosen.get("peer_id"), chosen.get("name")
    node = f"{name} ({peer})" if name else peer
    if names is not None:
        node = node_name(chosen, names)
    to = f"A request for {what} would go to {node} at {chosen.get('address')}: "
    if chosen.get("refusal"):
        return f"{to}none of the {of} is fit for it, and this one is the least unfit ({chosen['refusal']})."
    if len(fit) == 1:
        others = f"it is the only one of the {of} that may have it"
        return f"{to}{'no other node hosts the model' if len(replicas) == 1 else others}."
    policy = str(found.get("policy"))
    why = _WHY.get(policy, "it was the policy's choice")
    return f"{to}{why} ({policy}; {len(fit)} of the {of} may have it)."


def _given(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _row(
    replica: dict[str, Any], names: Mapping[str, str], *, most: int | None = None
) -> tuple[object, ...]:
    """Return the row of a replica; its refusal in so many cells at most."""
    from capamesh.cli.printing import time_text  # noqa: PLC0415 - help starts faster

    state, share = replica.get("state", "?"), replica.get("share", 0.0)
    if replica.get("refusal") in NO_WAY:
        state, share = ("-" if state in {"closed", "ramping"} else state), 0.0
    latency_us, rtt_us = replica.get("latency_us"), replica.get("rtt_us")
    refusal = str(replica.get("refusal") or "-")
    return (
        "→" if replica.get("is_chosen") else "",
        node_name(replica, names),
        state,
        f"{share:.0%}",
        f"{replica.get('requests_in_flight', 0)}/{replica.get('node_in_flight', 0)}/{replica.get('node_limit') or '-'}",
        time_text(latency_us / 1e6 if latency_us else None),
        refusal if most is None else short_reason(refusal, most),
        time_text(rtt_us / 1e6 if rtt_us else None),
        f"{replica.get('price_per_million', 0.0):g}",
        replica.get("region") or "-",
        replica.get("address", "?"),
    )
