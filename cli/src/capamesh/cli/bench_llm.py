"""`capamesh bench-llm`: measure a language model under load. Arguments and printing only."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Headers, Key, access
from capamesh.cli.help_texts import examples
from capamesh.cli.parsing import numbers, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.cli.llm_load.load import LoadPlan
    from capamesh.cli.llm_load.measures import Level
    from capamesh.client import AsyncClient

EPILOG = examples(
    "capamesh bench-llm   the only model for chat, with 1, 2, 4 and 8 callers",
    "capamesh bench-llm smollm2 --concurrency 1,4,16 --input-tokens 512 --output-tokens 128",
    "capamesh bench-llm smollm2 --plot smollm2.svg --json > smollm2.json",
    "capamesh bench-llm --router http://127.0.0.1:8080   another server of OpenAI's API, such as llama.cpp's or vLLM",
)
MOST_CALLERS: Final = 1024
MOST_LEVELS: Final = 16
MOST_TOKENS: Final = 131_072
MOST_REQUESTS: Final = 10_000
FAILED: Final = 3


def bench_llm(
    model: Annotated[
        str,
        typer.Argument(metavar="[MODEL]", help="Its name; not needed where only one is for chat."),
    ] = "",
    concurrency: Annotated[
        str,
        typer.Option(
            "--concurrency",
            metavar="COUNT,...",
            help="How many callers there are, one level after the other; each asks again when it is answered.",
        ),
    ] = "1,2,4,8",
    input_tokens: Annotated[
        int,
        typer.Option(
            "--input-tokens",
            metavar="COUNT",
            min=1,
            max=MOST_TOKENS,
            help="The tokens of a prompt, about, with what the chat's template adds.",
        ),
    ] = 128,
    output_tokens: Annotated[
        int,
        typer.Option(
            "--output-tokens",
            metavar="COUNT",
            min=1,
            max=MOST_TOKENS,
            help="The tokens of an answer.",
        ),
    ] = 64,
    requests: Annotated[
        int,
        typer.Option(
            "--requests",
            metavar="COUNT",
            min=1,
            max=MOST_REQUESTS,
            help="The requests of each caller at each level that are measured.",
        ),
    ] = 5,
    warm_up: Annotated[
        int,
        typer.Option(
            "--warm-up",
            metavar="COUNT",
            min=0,
            max=MOST_REQUESTS,
            help="The requests of each caller before them, which are not.",
        ),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="NUMBER", help="The same one, the same prompts."),
    ] = 1,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="NUMBER", min=0.0, max=2.0)
    ] = 0.0,
    is_completion: Annotated[
        bool,
        typer.Option("--completions", help="Ask /v1/completions, without a chat's template."),
    ] = False,
    may_end: Annotated[
        bool,
        typer.Option(
            "--may-end",
            help="Answers may end before they have all tokens: for servers that refuse ignore_eos.",
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="TIME",
            parser=seconds(0.001),
            help="After this a request has failed; ten minutes and more by default.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.svg", help="Draw the measurements into FILE too."),
    ] = None,
    router: options.Router = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    as_json: options.Json = False,
) -> None:
    """Measure how quick MODEL writes under load: TTFT, TPOT, gaps and tokens a second, by the number of callers.

    It works with every server of OpenAI's API. Exit status 3 when some requests failed; they are in no time. Ctrl-C ends it, and what
    was measured until then is told.
    """
    import asyncio  # noqa: PLC0415 - help starts faster

    from capamesh.cli.chat_session import model_for_chat  # noqa: PLC0415 - the same
    from capamesh.cli.llm_load.load import LoadPlan  # noqa: PLC0415 - the same
    from capamesh.cli.llm_load.report import COLUMNS, drawing, table_rows  # noqa: PLC0415 - the same
    from capamesh.cli.operator_client import AsyncOperatorClient  # noqa: PLC0415 - the same
    from capamesh.cli.printing import hint, print_json, print_wide, require_suffix, write_file  # noqa: PLC0415 - the same
    from capamesh.cli.progress import steps  # noqa: PLC0415 - the same
    from capamesh.protocol.errors import CapameshError  # noqa: PLC0415 - the same

    if plot is not None:
        require_suffix(plot, ".svg", "--plot")
    callers = _levels(concurrency)
    url = router.rstrip("/").removesuffix("/v1")  # as OpenAI's clients are given it
    found: list[Level] = []

    async def run() -> str:
        async with AsyncOperatorClient(
            url, max_connections=max(callers), retries=0, **access(header, ca, key, router=url)
        ) as client:
            tasks: dict[str, str] = {}
            try:
                tasks = await client.tasks()
            except CapameshError:
                if not model:  # else a server may do without that page
                    raise
            plan = LoadPlan(
                model_for_chat(model, tasks),
                input_tokens,
                output_tokens,
                requests,
                warm_up,
                seed,
                temperature,
                is_completion,
                not may_end,
                timeout,
            )
            with steps(sum(callers) * requests) as begin:
                await _measure(client, plan, callers, found, begin)
            return plan.model

    chosen = model
    is_broken_off = False
    try:
        chosen = asyncio.run(run())
    except KeyboardInterrupt:
        is_broken_off = True
    if as_json:
        print_json(
            {
                "url": url,
                "model": chosen,
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "requests": requests,
                "seed": seed,
                "levels": [level.as_json() for level in found],
            }
        )
    elif found:
        print_wide(COLUMNS, table_rows(found))
        for error, count in [each for level in found for each in level.errors.items()][:3]:
            hint(f"{count} times: {error}")
    if plot is not None and found:
        write_file(plot, drawing(f"{chosen or 'a language model'} at {url}", found))
        hint(f"drawn into {plot}")
    if is_broken_off:
        raise KeyboardInterrupt
    if any(level.errors for level in found):
        raise typer.Exit(FAILED)


async def _measure(
    client: AsyncClient,
    plan: LoadPlan,
    callers: list[int],
    found: list[Level],
    begin: Callable[[str], None],
) -> None:
    """Measure all levels, each of which is added to `found`."""
    from capamesh.cli.llm_load.load import Load  # noqa: PLC0415 - help starts faster

    load = Load(client, plan)
    await load.gauged()
    for count in callers:
        what = f"{plan.model}, {count} callers"
        found.append(await load.level(count, partial(begin, what)))


def _levels(text: str) -> list[int]:
    """Return the numbers of callers. A usage error: too many of them, or too large ones."""
    levels = numbers(text, "--concurrency")
    if not all(0 < level <= MOST_CALLERS for level in levels) or len(levels) > MOST_LEVELS:
        raise typer.BadParameter(
            f"{text[:80]!r}: give up to {MOST_LEVELS} numbers from 1 to {MOST_CALLERS}",
            param_hint="--concurrency",
        )
    return levels
