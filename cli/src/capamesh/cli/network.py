"""`capamesh network`: create a network, admit to it, shut out of it. Arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, access
from capamesh.cli.help_texts import examples, new_group, teach
from capamesh.cli.parsing import duration

group = new_group(
    "Own a network: create it, admit members with join tokens, shut members out.",
    examples(
        "capamesh network create home   makes ./network with the owner's key: keep it safe",
        "capamesh network token --role router > router.token",
        "capamesh router run --data my-network/router --token-file router.token   prints its mesh address",
        "capamesh network token --role node --bootstrap MULTIADDR > node.token",
        "capamesh node run --data my-network/node --models models --token-file node.token",
    ),
)
group.callback(invoke_without_command=True)(teach)


@group.command(
    epilog=examples(
        "capamesh network create home",
        "capamesh network token --role router   the next step: admit a router",
    )
)
def create(
    name: Annotated[str, typer.Argument(help="What people call the network.")],
    folder: options.NewOwnerFolder = Path("network"),
    as_json: options.Json = False,
) -> None:
    """Create a network: its owner's key, which admits all members, goes to DIR."""
    from capamesh.cli import ownership  # noqa: PLC0415 - help and other commands start faster

    ownership.create(name, folder, as_json=as_json)


@group.command(
    epilog=examples(
        "capamesh network token --role router --expires 90d > router.token",
        "capamesh network token --role node --bootstrap /ip4/10.0.0.5/tcp/4001/p2p/12D3... > node.token",
        "capamesh network token --role node --router-key my-network/router --router-address 10.0.0.5:4001 > node.token   before it runs",
        "capamesh node run --data my-network/node --models models --token-file node.token   the next step",
        "capamesh network token --renew node.token   later: the node that runs with this file stays a member",
    )
)
def token(
    folder: options.OwnerFolder,
    role: Annotated[
        str, typer.Option("--role", metavar="node|router", help="What it admits as.")
    ] = "",
    expires: Annotated[
        str,
        typer.Option(
            "--expires",
            metavar="DURATION",
            help="When token and the memberships it gave end: 12h, 30d, 8w.  [default: 30d, or as the renewed one]",
            show_default=False,
        ),
    ] = "",
    members: Annotated[
        int,
        typer.Option(
            "--members",
            metavar="COUNT",
            min=1,
            max=20_000,
            help="How many members it admits: routers keep to the first that they hear of, until those leave.",
        ),
    ] = 64,
    label: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="WORDS",
            help="For whom it is, in your words: `capamesh network show` tells it again. Nobody else sees it.",
        ),
    ] = "",
    bootstrap: options.Bootstrap = None,
    router_address: Annotated[
        str,
        typer.Option(
            "--router-address",
            metavar="HOST:PORT",
            help="Besides --bootstrap, the mesh address at which a router will be: its --mesh, as others reach it. With "
            "--router-key.",
        ),
    ] = "",
    router_key: Annotated[
        str,
        typer.Option(
            "--router-key",
            metavar="DIR|PEER_ID",
            help="That router: its data folder, in which its key is made if there is none, or its peer id.",
        ),
    ] = "",
    publishers: Annotated[
        list[str] | None,
        typer.Option(
            "--publisher",
            metavar="PEER_ID",
            help="Who may sign models, as `capamesh model sign` tells; may be repeated. For routers.",
        ),
    ] = None,
    renew: Annotated[
        Path | None,
        typer.Option(
            "--renew",
            metavar="FILE",
            help="Put a new token in the place of the one in FILE, with its role, addresses and life: a member that was "
            "started with --token-file FILE takes it over as it runs. Print nothing.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print a join token, a secret that admits as many members as you say; only the token goes to standard output.

    Memberships end with the token that gave them: 30 days by default. Members warn in their status and log when half of
    that is left, and when a tenth is; so does `capamesh nodes`. They take a new token while they run, by --renew or by any other way into their --token-file.
    """
    from capamesh.cli import ownership  # noqa: PLC0415 - help and other commands start faster

    lasts = duration(expires, "--expires") if expires else None
    addresses = tuple(bootstrap or ())
    if router_address or router_key:
        addresses += (ownership.address_of_router(router_address, router_key),)
    if renew is not None:
        ownership.renew_token(folder, renew, role, lasts, addresses, as_json=as_json)
        return
    if role not in {"node", "router"}:
        raise typer.BadParameter(f"{role!r} is neither node nor router", param_hint="--role")
    if publishers and role != "router":
        raise typer.BadParameter("are for routers, which choose", param_hint="--publisher")
    ownership.issue_token(
        folder,
        role,
        lasts,
        addresses,
        members=members,
        publishers=tuple(publishers or ()),
        label=label,
        as_json=as_json,
    )


@group.command(
    epilog=examples(
        "capamesh network revoke 5f1d77a0 --router http://10.0.0.5:8000   all that an invite admitted, at once",
        "capamesh network revoke gpu-1 --router http://10.0.0.5:8000   one node",
        "capamesh network revoke 12D3KooW...   one member, by its peer id; told to a router later",
        "capamesh network revoke --router http://10.0.0.5:8000   hands over the saved list again",
    )
)
def revoke(
    folder: options.OwnerFolder,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NODE_OR_INVITE...",
            help="Peer ids, or invites; with --router nodes' names, too.",
        ),
    ] = None,
    router: Annotated[
        str | None,
        typer.Option(
            "--router",
            envvar="CAPAMESH_ROUTER",
            metavar="URL",
            help="Hand the list to this router, which spreads it.",
        ),
    ] = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Shut out members: sign and save the next revocation list, and hand it to a router."""
    from capamesh.cli import revocation  # noqa: PLC0415 - help and other commands start faster

    if not names and router is None:
        raise typer.BadParameter(
            "name a node or an invite to revoke, or a --router to hand the saved list to",
            param_hint="NODE_OR_INVITE",
        )
    revocation.revoke(
        folder,
        names or [],
        router,
        access=access(header, ca, cert=cert, cert_key=cert_key, router=router or ""),
        as_json=as_json,
    )


@group.command(
    epilog=examples(
        "capamesh network show",
        "capamesh network show --router http://10.0.0.5:8000   and who of them is here now",
        "capamesh network revoke 5f1d...   shuts out all that an invite admitted",
    )
)
def show(
    folder: options.OwnerFolder,
    router: Annotated[
        str,
        typer.Option(
            "--router",
            envvar="CAPAMESH_ROUTER",
            metavar="URL",
            help="Ask this router which nodes are members now.",
        ),
    ] = "",
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    is_wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Show the owner's book: the invites that were given out, what was revoked, and, of a --router, the members now."""
    from capamesh.cli.owner_book import show_book  # noqa: PLC0415 - help and other commands start faster

    show_book(
        folder,
        router,
        access=access(header, ca, cert=cert, cert_key=cert_key, router=router or ""),
        is_wide=is_wide,
        as_json=as_json,
    )


@group.command(
    "rotate-key",
    epilog=examples(
        "capamesh network rotate-key --router http://10.0.0.5:8000   a new key; members of the old one stay",
        "capamesh network token --renew node.token   the next step: for every member's token",
        "capamesh network rotate-key --retire --router http://10.0.0.5:8000   then: the old key admits nobody any more",
    ),
)
def rotate_key(
    folder: options.OwnerFolder,
    retire: Annotated[
        bool,
        typer.Option(
            "--retire",
            help="Make no new key: shut out all that an earlier key than the newest admitted.",
        ),
    ] = False,
    router: Annotated[
        str | None,
        typer.Option(
            "--router",
            envvar="CAPAMESH_ROUTER",
            metavar="URL",
            help="Tell this router, which spreads it.",
        ),
    ] = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Change the owner's key. The network keeps its id, and members of the old key stay until that is retired."""
    from capamesh.cli import ownership  # noqa: PLC0415 - help and other commands start faster

    ownership.rotate_key(
        folder,
        router,
        access=access(header, ca, cert=cert, cert_key=cert_key, router=router or ""),
        is_retiring=retire,
        as_json=as_json,
    )
