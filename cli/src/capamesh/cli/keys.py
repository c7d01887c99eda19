"""`capamesh keys`: make, show and revoke the keys by which a router knows its clients. Arguments and printing only."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from capamesh.cli import options
from capamesh.cli.help_texts import examples, new_group, teach
from capamesh.cli.home import kept_member
from capamesh.cli.parsing import duration, names

if TYPE_CHECKING:
    from capamesh.router.access.key_store import KeptKey, KeyStore
    from capamesh.router.access.keys import Key, Scope

group = new_group(
    "Give out keys to a router's clients, and take them back.",
    examples(
        "capamesh keys create lab --data my-network/router > lab.key",
        "capamesh keys list --data my-network/router",
        "capamesh keys revoke Ab3dE6gH --data my-network/router",
    ),
)
group.callback(invoke_without_command=True)(teach)

_MIB = 2**20

Data: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="CAPAMESH_DATA",
        metavar="DIR",
        help="The router's data folder, which has the file keys.db.  [default: that of `capamesh up`]",
        show_default=False,
    ),
]


@group.command(
    epilog=examples(
        "capamesh keys create lab --data my-network/router > lab.key   runs all models",
        "capamesh keys create lab --model 'digits*' --expires 30d --data my-network/router",
        "capamesh keys create lab --region eu --max-price 5 --data my-network/router",
        "capamesh keys create prometheus --may metrics --data my-network/router",
        "CAPAMESH_KEY=$(cat lab.key) capamesh infer digits --data image.npy   as the client",
    )
)
def create(
    tenant: Annotated[
        str,
        typer.Argument(
            metavar="TENANT",
            help="Whose it is: requests with it count as this tenant's, in shares and in usage. Several keys may have one.",
        ),
    ],
    data: Data = None,
    keys: options.Keys = "",
    may: Annotated[
        str,
        typer.Option(
            "--may",
            metavar="VERB,...",
            help="What it may do: infer (run models), read (see the network and the page), metrics, jobs, admin.",
        ),
    ] = "infer",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="A model that it may run, or the beginning of names and a *; may be repeated.  [default: all]",
            show_default=False,
        ),
    ] = None,
    max_priority: Annotated[
        int,
        typer.Option(
            "--max-priority",
            metavar="N",
            min=1,
            max=255,
            help="The most urgent priority of its requests: 1 is the highest.",
        ),
    ] = 128,
    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region",
            metavar="NAME",
            help="A region whose nodes may run its requests; may be repeated.  [default: all]",
            show_default=False,
        ),
    ] = None,
    max_price: Annotated[
        float | None,
        typer.Option(
            "--max-price",
            metavar="N",
            min=0.0,
            help="The price of a million rows above which nodes do not run its requests.  [default: any]",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str,
        typer.Option(
            "--expires",
            metavar="DURATION",
            help="When it ends, counted from now, such as 12h, 30d or 8w.  [default: never]",
            show_default=False,
        ),
    ] = "",
    requests_per_s: Annotated[
        float,
        typer.Option(
            "--requests-per-s", metavar="N", min=0.0, rich_help_panel="Limits", help="0: no limit."
        ),
    ] = 0.0,
    rows_per_s: Annotated[
        float,
        typer.Option(
            "--rows-per-s", metavar="N", min=0.0, rich_help_panel="Limits", help="0: no limit."
        ),
    ] = 0.0,
    mib_per_s: Annotated[
        float,
        typer.Option(
            "--mib-per-s",
            metavar="N",
            min=0.0,
            rich_help_panel="Limits",
            help="Of tensors, in requests and answers together; 0: no limit.",
        ),
    ] = 0.0,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            metavar="N",
            min=0,
            rich_help_panel="Limits",
            help="Requests under way at a time, at each router; 0: no limit.",
        ),
    ] = 0,
    rows_per_month: Annotated[
        int,
        typer.Option(
            "--rows-per-month",
            metavar="N",
            min=0,
            rich_help_panel="Limits",
            help="In a month by UTC; 0: no limit.",
        ),
    ] = 0,
    as_json: options.Json = False,
) -> None:
    """Make a key and print it, this once: only its digest is kept. A router that runs takes it within 2 s.

    With the first key of its store a router asks every client for one, also when that key ends.
    """
    from capamesh.cli.printing import hint, print_json  # noqa: PLC0415 - help starts faster
    from capamesh.router.access.keys_made import mark_keys_made  # noqa: PLC0415 - the same

    lasts = duration(expires, "--expires") if expires else None
    scope = _scope(
        tenant,
        verbs=names(may),
        models=model or [],
        max_priority=max_priority,
        max_price=max_price,
        regions=region or [],
        requests_per_s=requests_per_s,
        rows_per_s=rows_per_s,
        bytes_per_s=mib_per_s * _MIB,
        concurrency=concurrency,
        rows_per_month=rows_per_month,
    )
    store = open_store(data, keys)
    is_first = store.stamp() == 0
    now_s = store.now_s()
    key, text = store.create(
        tenant, scope, now_s, None if lasts is None else now_s + lasts.total_seconds()
    )
    if data is not None:
        mark_keys_made(data)
    if as_json:
        print_json({"key": text, **_row(key, now_s)})
        return
    print(text)
    hint(
        f"key {key.id} of {tenant} is shown this once; take it back with: capamesh keys revoke {key.id}"
    )
    if is_first:
        hint("it is the first of its store: a router takes no request without a key any more")


@group.command(
    "list",
    epilog=examples(
        "capamesh keys list --data my-network/router",
        "capamesh keys list --keys /srv/capamesh/keys.db --json   for programs",
        "capamesh keys list --keys postgresql://capamesh@db.example/keys",
    ),
)
def show(data: Data = None, keys: options.Keys = "", as_json: options.Json = False) -> None:
    """Show all keys by their ids, also those that have ended; nobody can show a key itself.

    A row of a language model is a token.
    """
    from capamesh.cli.printing import print_json, print_table  # noqa: PLC0415 - help starts faster
    from capamesh.router.access.months import month_of  # noqa: PLC0415 - the same
    from capamesh.router.access.usage_batch import Amount  # noqa: PLC0415 - the same

    store = open_store(data, keys)
    now_s, kept = store.now_s(), store.all()
    used = store.month_of_keys(month_of(now_s))
    rows = {each.key.id: used.get(each.key.id, Amount()).rows for each in kept}
    if as_json:
        print_json(
            [{**_kept_row(each, now_s), "rows_this_month": rows[each.key.id]} for each in kept]
        )
        return
    print_table(
        ("ID", "TENANT", "STATE", "MAY", "MODELS", "ROWS THIS MONTH", "EXPIRES"),
        [
            (
                each.key.id,
                each.key.tenant,
                each.state(now_s),
                ",".join(each.key.scope.verbs),
                ",".join(each.key.scope.models) or "all",
                _of_limit(rows[each.key.id], each.key.scope.rows_per_month),
                _day(each.key.expires_s) or "never",
            )
            for each in kept
        ],
    )


@group.command(
    epilog=examples("capamesh keys revoke Ab3dE6gH --data my-network/router"),
)
def revoke(
    key_id: Annotated[
        str, typer.Argument(metavar="ID", help="The 8 characters that `capamesh keys list` shows.")
    ],
    data: Data = None,
    keys: options.Keys = "",
) -> None:
    """Revoke a key for ever. A router that runs refuses it within 2 s."""
    from capamesh.cli.printing import say  # noqa: PLC0415 - help starts faster

    store = open_store(data, keys)
    kept = store.revoke(key_id, store.now_s())
    say(f"key {kept.key.id} of {kept.key.tenant} is revoked")


def open_store(data: Path | None, keys: str) -> KeyStore:
    """Return the store that is meant: where none is named, that of the only router here."""
    from capamesh.router.access.engines.location import DatabaseLocation  # noqa: PLC0415 - help starts faster
    from capamesh.router.access.key_store import KeyStore  # noqa: PLC0415 - the same
    from capamesh.router.access.keys import KEYS_FILE  # noqa: PLC0415 - the same

    if keys:
        return KeyStore(DatabaseLocation.of(keys, "keys"))
    return KeyStore(DatabaseLocation((data or kept_member("router")) / KEYS_FILE))


def _scope(tenant: str, **given: object) -> Scope:
    """Return a scope as it was given; a usage error for what is none."""
    from capamesh.protocol.schema import Mismatch, read  # noqa: PLC0415 - help starts faster
    from capamesh.router.access.keys import MAX_TENANT_CHARS, Scope  # noqa: PLC0415 - the same

    if (
        not 0 < len(tenant) <= MAX_TENANT_CHARS
        or not tenant.isprintable()
        or tenant != tenant.strip()
    ):
        raise typer.BadParameter(
            f"{tenant[:80]!r} is no tenant: give 1 to {MAX_TENANT_CHARS} printable characters, without blanks around them",
            param_hint="TENANT",
        )
    try:
        return read(given, Scope)
    except Mismatch as exc:
        raise typer.BadParameter(str(exc)) from exc


def _kept_row(kept: KeptKey, now_s: float) -> dict[str, object]:
    return {
        **_row(kept.key, kept.created_s),
        "state": kept.state(now_s),
        "revoked_at": _iso(kept.revoked_s),
    }


def _row(key: Key, created_s: float) -> dict[str, object]:
    from capamesh.protocol.schema import plain_values  # noqa: PLC0415 - help starts faster

    return {
        "id": key.id,
        "tenant": key.tenant,
        **plain_values(key.scope),
        "created_at": _iso(created_s),
        "expires_at": _iso(key.expires_s),
    }


def _of_limit(rows: int, most: int) -> str:
    return f"{rows:,} of {most:,}" if most else f"{rows:,}"


def _iso(moment_s: float | None) -> str | None:
    return None if moment_s is None else datetime.fromtimestamp(moment_s, UTC).isoformat()


def _day(moment_s: float | None) -> str:
    return (_iso(moment_s) or "").replace("T", " ")[:16]
