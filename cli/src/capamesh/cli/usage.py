"""`capamesh usage`: what a router's clients have used, by tenant and model. Arguments and printing only."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from capamesh.cli import options
from capamesh.cli.help_texts import examples
from capamesh.cli.keys import Data, open_store

EPILOG = examples(
    "capamesh usage --data my-network/router   this month, by tenant and model",
    "capamesh usage --month 2026-10 --tenant lab --data my-network/router",
    "capamesh usage --hourly --json --data my-network/router   for programs",
)
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])", re.ASCII)


def usage(
    data: Data = None,
    keys: options.Keys = "",
    month: Annotated[
        str,
        typer.Option(
            "--month",
            metavar="YYYY-MM",
            help="By UTC.  [default: this month]",
            show_default=False,
        ),
    ] = "",
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="NAME", help="Of this tenant alone.")
    ] = "",
    hourly: Annotated[
        bool, typer.Option("--hourly", help="A row for each hour, tenant and model.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show what requests with keys have used in a month: requests that were answered, their rows, and the bytes of their tensors.

    Routers write it down once a second, by the hour, and keep it for 400 days.
    """
    from capamesh.cli.printing import amount, print_json, print_table  # noqa: PLC0415 - help starts faster
    from capamesh.router.access.months import HOUR_S  # noqa: PLC0415 - the same
    from capamesh.router.access.usage_batch import Amount  # noqa: PLC0415 - the same

    store = open_store(data, keys)
    first = _first_day(month, store.now_s)
    after = (first + timedelta(days=32)).replace(day=1)
    hours = [int(day.timestamp()) // HOUR_S for day in (first, after)]
    used: dict[tuple[str, str, str], Amount] = {}
    for row, part in store.usage(*hours).items():
        if tenant and row.tenant != tenant:
            continue
        hour = datetime.fromtimestamp(row.hour * HOUR_S, UTC).isoformat() if hourly else ""
        place = (hour, row.tenant, row.model)
        used[place] = used.get(place, Amount()).plus(part)
    if as_json:
        print_json(
            [
                {
                    **({"hour": hour} if hourly else {"month": f"{first:%Y-%m}"}),
                    "tenant": name,
                    "model": model,
                    **part._asdict(),
                }
                for (hour, name, model), part in sorted(used.items())
            ]
        )
        return
    columns = ("TENANT", "MODEL", "REQUESTS", "ROWS", "TENSORS")
    print_table(
        ("HOUR (UTC)", *columns) if hourly else columns,
        [
            (
                *((hour[:16].replace("T", " "),) if hourly else ()),
                *(name, model, f"{part.requests:,}", f"{part.rows:,}", amount(part.bytes)),
            )
            for (hour, name, model), part in sorted(used.items())
        ],
    )


def _first_day(month: str, now_s: Callable[[], float]) -> datetime:
    """Return when a month begins; empty: this month, by the store's clock. A usage error for what is none."""
    if not month:
        return datetime.fromtimestamp(now_s(), UTC).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
    if _MONTH.fullmatch(month) is None or not 1970 <= int(month[:4]) <= 9000:
        raise typer.BadParameter(
            f"{month[:80]!r} is no month such as 2026-11", param_hint="--month"
        )
    return datetime(int(month[:4]), int(month[5:]), 1, tzinfo=UTC)
