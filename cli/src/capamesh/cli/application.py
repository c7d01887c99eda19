"""The command's tree. Importing it imports no service, no client and no model: the commands do."""

from __future__ import annotations

from importlib.metadata import version as package_version
from typing import Annotated

import typer

from capamesh.cli import (
    bench_llm,
    chat,
    circuit,
    dev,
    doctor,
    explain,
    fleet,
    infer,
    jobs,
    keys,
    model,
    network,
    node,
    router,
    simulate,
    stream,
    top,
    up,
    usage,
    version,
)
from capamesh.cli.help_texts import examples, new_group

application = new_group(
    "A decentralized inference network: nodes host ONNX models, routers find them by gossip.",
    examples(
        "capamesh up                          a network of your own, on this machine",
        "capamesh join TOKEN                  on another machine: the line that it prints",
        "capamesh models                      what can be run, in another terminal",
        "capamesh doctor                      is this machine ready for it?",
        "capamesh --install-completion        have the shell complete commands and options",
    ),
    has_completion=True,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"capamesh {package_version('capamesh')}")
        raise typer.Exit


@application.callback(invoke_without_command=True)
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


application.add_typer(dev.group, name="dev", rich_help_panel="Try it")
application.add_typer(simulate.group, name="sim", rich_help_panel="Try it")
application.command("doctor", rich_help_panel="Try it", epilog=doctor.EPILOG)(doctor.doctor)
application.command("infer", rich_help_panel="Use a network", epilog=infer.EPILOG)(infer.infer)
application.command("stream", rich_help_panel="Use a network", epilog=stream.EPILOG)(stream.stream)
application.command("chat", rich_help_panel="Use a network", epilog=chat.EPILOG)(chat.chat)
application.command("bench-llm", rich_help_panel="Use a network", epilog=bench_llm.EPILOG)(
    bench_llm.bench_llm
)
application.add_typer(jobs.group, name="jobs", rich_help_panel="Use a network")
application.command("models", rich_help_panel="Use a network", epilog=fleet.MODELS_EPILOG)(
    fleet.models
)
application.command("nodes", rich_help_panel="Use a network", epilog=fleet.NODES_EPILOG)(
    fleet.nodes
)
application.command("top", rich_help_panel="Use a network", epilog=top.EPILOG)(top.top)
application.command("explain", rich_help_panel="Use a network", epilog=explain.EPILOG)(
    explain.explain
)
application.command("up", rich_help_panel="Run a network", epilog=up.UP_EPILOG)(up.up)
application.command("join", rich_help_panel="Run a network", epilog=up.JOIN_EPILOG)(up.join)
application.add_typer(network.group, name="network", rich_help_panel="Run a network")
application.add_typer(router.group, name="router", rich_help_panel="Run a network")
application.add_typer(node.group, name="node", rich_help_panel="Run a network")
application.add_typer(keys.group, name="keys", rich_help_panel="Run a network")
application.command("usage", rich_help_panel="Run a network", epilog=usage.EPILOG)(usage.usage)
application.add_typer(model.group, name="model", rich_help_panel="Run a network")
application.command("circuit", rich_help_panel="Run a network", epilog=circuit.EPILOG)(
    circuit.circuit
)
application.command("version", rich_help_panel="Run a network", epilog=version.EPILOG)(
    version.version
)
