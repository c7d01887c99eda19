"""`capamesh sim`: a fleet in virtual time, to compare policies before real requests do. Arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capamesh.cli import options
from capamesh.cli.help_texts import examples, new_group, teach

group = new_group(
    "Simulate a fleet: the routers' and nodes' own code in virtual time, with seeded chance.",
    examples(
        "capamesh sim list   the scenarios that come with it",
        "capamesh sim run small-3",
        "capamesh sim compare small-5 --policies prequal,p2c,round-robin --plot p99.svg",
    ),
)
group.callback(invoke_without_command=True)(teach)

ScenarioName = Annotated[
    str,
    typer.Argument(
        metavar="SCENARIO",
        help="A name from `capamesh sim list`, or the path of a TOML file; NAME@3 has three routers.",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        metavar="SECONDS",
        min=1.0,
        help="Let requests come for so long, in virtual time, instead of what the scenario says; a tenth of it warms up.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE.svg", help="Draw p99, latency distributions and p99 over time, too."
    ),
]


@group.command(
    "list",
    epilog=examples("capamesh sim list", "capamesh sim run small-3   the next step: run one"),
)
def list_(as_json: options.Json = False) -> None:
    """List the scenarios that come with this version, with the time and requests that a run counts after its warm-up."""
    from capamesh.cli.simulation_runs import list_scenarios  # noqa: PLC0415 - help starts faster

    list_scenarios(as_json=as_json)


@group.command(
    epilog=examples(
        "capamesh sim run small-3",
        "capamesh sim run gray-errors --policy p2c --seed 7 --json",
        "capamesh sim run ./my-fleet.toml --seconds 20",
    )
)
def run(
    scenario: ScenarioName,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="NAME",
            help=f"How nodes are chosen: {', '.join(options.POLICY_NAMES)}.",
        ),
    ] = options.DEFAULT_POLICY,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="The same seed gives the same results.")
    ] = 1,
    seconds: Seconds = None,
    plot: Plot = None,
    as_json: options.Json = False,
) -> None:
    """Run one scenario once."""
    from capamesh.cli.simulation_runs import run_one  # noqa: PLC0415 - help starts faster

    run_one(scenario, policy, seed, seconds=seconds, plot=plot, as_json=as_json)


@group.command(
    epilog=examples(
        "capamesh sim compare small-5 --policies prequal,p2c,round-robin",
        "capamesh sim compare three-speeds-90 --policies prequal,p2c --seeds 1,2,3 --plot p99.svg",
    )
)
def compare(
    scenario: ScenarioName,
    policies: Annotated[
        str, typer.Option("--policies", metavar="NAME,...", help="Which to compare.")
    ] = "prequal,least-request,p2c,peak-ewma,round-robin,random",
    seeds: Annotated[
        str,
        typer.Option("--seeds", metavar="N,...", help="Each policy runs with each: 1,2,3 or 1-3."),
    ] = "1",
    processes: Annotated[
        int, typer.Option("--processes", min=0, help="Runs at a time; 0: one for each processor.")
    ] = 0,
    seconds: Seconds = None,
    plot: Plot = None,
    as_json: options.Json = False,
) -> None:
    """Run one scenario with several policies, each with the same requests and the same mishaps."""
    from capamesh.cli.parsing import numbers  # noqa: PLC0415 - help starts faster
    from capamesh.cli.simulation_runs import compare_policies  # noqa: PLC0415 - the same

    compare_policies(
        scenario,
        [name.strip() for name in policies.split(",") if name.strip()],
        numbers(seeds, "--seeds"),
        processes=processes,
        seconds=seconds,
        plot=plot,
        as_json=as_json,
    )
