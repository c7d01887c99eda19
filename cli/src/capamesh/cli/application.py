"""The command's tree. A run reads in the branch that its words name: that is a fifth of the time that all of them take.

Importing it imports no service, no client and no model: the commands do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Final, NamedTuple

import typer

from capamesh.cli.help_texts import examples, new_group

TRY, USE, RUN = "Try it", "Use a network", "Run a network"
OVERVIEW: Final = ""
"""The name of the tree that shows all commands, and has none."""
COMPLETING: Final = "_CAPAMESH_COMPLETE"
"""The variable by which a shell asks for completions."""


class Entry(NamedTuple):
    """A command, or a group of commands, right below `capamesh`."""

    name: str
    panel: str
    """The panel of the overview that shows it."""
    module: str
    """The name of its module in this package."""
    about: str
    """The first paragraph of its help, which the overview shows."""
    function: str = ""
    """The name of its function; empty: it is the module's `group`."""
    epilog: str = "EPILOG"
    """The name of the module's text below its help."""


ENTRIES: Final = (
    Entry("dev", TRY, "dev", "Try it: a whole network on this machine."),
    Entry(
        "sim",
        TRY,
        "simulate",
        "Simulate a fleet: the routers' and nodes' own code in virtual time, with seeded chance.",
    ),
    Entry(
        "doctor",
        TRY,
        "doctor",
        "Look at what Capamesh needs of this machine, and say the one line to run for what is missing.",
        "doctor",
    ),
    Entry(
        "infer",
        USE,
        "infer",
        "Run MODEL once and print its outputs. In JSON, NaN and infinities are the texts NaN, Infinity, -Infinity.",
        "infer",
    ),
    Entry(
        "stream",
        USE,
        "stream",
        "Run MODEL on samples, a window at a time, and print the outputs of each as they come.",
        "stream",
    ),
    Entry(
        "chat",
        USE,
        "chat",
        "Talk with MODEL: type, and read its answers as they come; Ctrl-C ends an answer, Ctrl-D the chat.",
        "chat",
    ),
    Entry(
        "bench-llm",
        USE,
        "bench_llm",
        "Measure how quick MODEL writes under load: TTFT, TPOT, gaps and tokens a second, by the number of callers.",
        "bench_llm",
    ),
    Entry(
        "jobs",
        USE,
        "jobs",
        "Have a model run over a whole data set, with what the network's nodes have to spare.",
    ),
    Entry(
        "models",
        USE,
        "fleet",
        "List the models that the nodes host, on how many nodes each is ready, and what it takes and gives.",
        "models",
        "MODELS_EPILOG",
    ),
    Entry(
        "nodes",
        USE,
        "fleet",
        "List the nodes as a router sees them: who they are, what they host, how busy they are, whether they are used.",
        "nodes",
        "NODES_EPILOG",
    ),
    Entry(
        "top",
        USE,
        "top",
        "Show the models and nodes of a router as they are now, what is in trouble first, until q or Ctrl-C.",
        "top",
    ),
    Entry(
        "explain",
        USE,
        "explain",
        "Show whether a request for MODEL would be let in now, where it would go, and why. No node is asked.",
        "explain",
    ),
    Entry(
        "up",
        RUN,
        "up",
        "Make a network, or resume the one made here: a router and a node on this machine, until Ctrl-C.",
        "up",
        "UP_EPILOG",
    ),
    Entry(
        "join",
        RUN,
        "up",
        "Join a network with a node on this machine, until Ctrl-C. Run it again to resume, or to take a newer token.",
        "join",
        "JOIN_EPILOG",
    ),
    Entry(
        "token",
        RUN,
        "up",
        "Print the token by which other machines join the network that `capamesh up` runs here. It is a secret.",
        "token",
        "TOKEN_EPILOG",
    ),
    Entry(
        "network",
        RUN,
        "network",
        "Own a network: create it, admit members with join tokens, shut members out.",
    ),
    Entry(
        "router",
        RUN,
        "router",
        "Serve clients: find the nodes, send each request to a good one.",
    ),
    Entry(
        "node",
        RUN,
        "node",
        "Provide compute: host ONNX models on this machine's devices.",
    ),
    Entry("keys", RUN, "keys", "Give out keys to a router's clients, and take them back."),
    Entry(
        "usage",
        RUN,
        "usage",
        "Show what requests with keys have used in a month: requests that were answered, their rows, and the bytes of their tensors.",
        "usage",
    ),
    Entry(
        "model",
        RUN,
        "model",
        "Prepare models: look at them, check, time and shrink them before a node serves them.",
    ),
    Entry(
        "circuit",
        RUN,
        "circuit",
        "Hold a node's circuit open or closed at one router until it is let go of, or the router restarts.",
        "circuit",
    ),
    Entry(
        "version",
        RUN,
        "version",
        "Print the version, and whether the hot modules run compiled or as pure Python.",
        "version",
    ),
)
"""All that there are, in the order of the overview."""


ELSEWHERE: Final = {
    "status": "`capamesh nodes` shows all nodes, `capamesh node status` and `router status` this machine's",
    "ps": "`capamesh models` shows what is served, `capamesh nodes` by whom",
    "list": "`capamesh models` lists what is served",
    "logs": "the log is log.jsonl in a member's data folder, which `capamesh node status` and `router status` tell",
    "run": "`capamesh infer MODEL` and `capamesh chat MODEL` ask a model, `capamesh up` serves models",
    "serve": "`capamesh up --models DIR` serves models",
    "start": "`capamesh up` starts a network, `capamesh join TOKEN` a node of another one",
    "stop": "Ctrl-C ends `capamesh up` where it was started",
    "pull": "`capamesh model import-llm` makes a language model's folder, `capamesh up --models DIR` serves models",
}
"""Names that commands of other programs have, and what does the same here."""


def branch_of(words: Sequence[str]) -> str | None:
    """Return the tree that a command line needs: the name of an entry, or `OVERVIEW`; None: all, for what is wrong or to be completed."""
    if COMPLETING in os.environ:
        return None
    if not words or words[0] == "--help":
        return OVERVIEW
    return words[0] if any(entry.name == words[0] for entry in ENTRIES) else None


def application(branch: str | None = None) -> typer.Typer:
    """Return the tree that `branch_of` names."""
    made = new_group(
        "A decentralized inference network: nodes host ONNX models, routers find them by gossip.",
        examples(
            "capamesh up                          a network of your own, on this machine",
            "capamesh join TOKEN                  on another machine, with what `capamesh token` prints",
            "capamesh models                      what can be run, in another terminal",
            "capamesh doctor                      is this machine ready for it?",
            "capamesh --install-completion        have the shell complete commands and options",
        ),
        has_completion=True,
    )
    made.callback(invoke_without_command=True)(_teach)
    for entry in ENTRIES:
        if branch == OVERVIEW:
            _show(made, entry)
        elif branch is None or entry.name == branch:
            _add(made, entry)
    return made


def _add(made: typer.Typer, entry: Entry) -> None:
    """Read in a command and put it into the tree."""
    module = import_module(f"capamesh.cli.{entry.module}")
    if not entry.function:
        made.add_typer(module.group, name=entry.name, rich_help_panel=entry.panel)
        return
    made.command(entry.name, rich_help_panel=entry.panel, epilog=getattr(module, entry.epilog))(
        getattr(module, entry.function)
    )


def _show(made: typer.Typer, entry: Entry) -> None:
    """Put what the overview shows of a command into the tree."""
    if not entry.function:
        group = new_group(entry.about, "")
        made.add_typer(group, name=entry.name, rich_help_panel=entry.panel)
        return
    made.command(entry.name, rich_help_panel=entry.panel, help=entry.about)(_nothing)


def _nothing() -> None:
    """Stand for a command that is shown and not run."""


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version as package_version  # noqa: PLC0415 - help starts faster

        print(f"capamesh {package_version('capamesh')}")
        raise typer.Exit


def _teach(
    context: typer.Context,
    is_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    del is_version
    if context.invoked_subcommand is None:
        print(context.get_help())
