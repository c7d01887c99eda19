"""`capamesh circuit`: take a node, or one of its models, out of use by hand, or force it in. Arguments and printing only."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, access
from capamesh.cli.help_texts import examples

EPILOG = examples(
    "capamesh nodes   shows names, peer ids and circuits",
    "capamesh circuit gpu-1 open --data my-network/router   no new requests",
    "capamesh circuit 9xKq open --data my-network/router   an end of the peer id is enough",
    "capamesh circuit 9xKq open --model digits --data my-network/router   of this model only",
    "capamesh circuit 9xKq auto --data my-network/router   takes all of that back",
)


class Position(StrEnum):
    """A position of a circuit, in an electrician's words."""

    OPEN = "open"
    CLOSED = "closed"
    AUTO = "auto"


_STATES = {
    Position.OPEN: "forced_open",
    Position.CLOSED: "forced_closed",
    Position.AUTO: "automatic",
}
_SAID = {
    Position.OPEN: "gets no new requests from this router; those under way are still answered",
    Position.CLOSED: "gets requests whatever is known against it",
    Position.AUTO: "is used as it goes",
}


def circuit(
    peer: Annotated[
        str, typer.Argument(metavar="NODE", help="A node's name, its peer id, or the end of it.")
    ],
    position: Annotated[
        Position,
        typer.Argument(
            metavar="open|closed|auto",
            help="open: never send there. closed: always. auto: as it goes.",
            show_default=False,
        ),
    ],
    data: options.RouterData,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Of this model there alone.")
    ] = "",
    version: Annotated[
        str, typer.Option("--version", help="Of this version of the model alone.")
    ] = "",
    router: options.Router = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Hold a node's circuit open or closed at one router until it is let go of, or the router restarts.

    The key that this takes is in the data folder of the router: only who can read that can do it.
    """
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import hint, print_json, say  # noqa: PLC0415 - the same
    from capamesh.router.access.operator_key import authorization_from  # noqa: PLC0415 - the same

    if version and not model:
        raise typer.BadParameter("a version needs its --model", param_hint="--version")
    authorization = authorization_from(data)
    peer = peer.removeprefix("…")  # as narrow tables show it
    with OperatorClient(router, **access(header, ca, cert=cert, cert_key=cert_key)) as client:
        found = client.hold(
            peer, _STATES[position], model=model, version=version, authorization=authorization
        )
    if as_json:
        print_json(found)
        return
    whole = str(found.get("peer_id", peer))
    name = str(found.get("name") or "")
    node = f"{name} ({whole})" if name else whole
    what = f"{model}/{version}".rstrip("/") + " at " if model else ""
    say(f"{what}{node} {_SAID[position]}")
    if position is not Position.AUTO:
        of = "".join(
            f" --{name} {value}"
            for name, value in (("model", model), ("version", version))
            if value
        )
        if router != options.DEFAULT_ROUTER:
            of += f" --router {router}"
        hint(f"take it back with: capamesh circuit {whole} auto{of} --data {data}")
