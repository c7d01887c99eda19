"""Starts the `capamesh` command and turns every error into one line and an exit status. IO: prints, exits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final, cast

import typer
from typer.core import TyperCommand, TyperGroup

from capamesh.cli import variables
from capamesh.cli.application import ELSEWHERE, application, branch_of
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.plain_text import plain

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells count."""

_UsageError: Final = cast("type[Exception]", typer.BadParameter.__mro__[1])
"""Typer before 0.29 has click's class, later ones their own; both name it alike but export it nowhere."""


@cache
def _command_of(branch: str | None) -> TyperCommand | TyperGroup:
    """Return the tree of commands, or a branch of it. Reading signatures takes longer than most commands: a process does so once."""
    command = cast("TyperCommand | TyperGroup", typer.main.get_command(application(branch)))
    _hide_types_of_flags(command)
    return command


def _hide_types_of_flags(command: TyperCommand | TyperGroup) -> None:
    """Have the help pages show no type of options that take no value: with `<bool>` they looked as if they took one."""
    help_option = command.get_help_option(typer.Context(command))
    for parameter in (*command.params, *([help_option] if help_option is not None else [])):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _hide_types_of_flags(inner)


def main() -> None:
    """Run the command line of this process and exit with its status."""
    try:
        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:  # while it reads in what it needs
        sys.exit(INTERRUPTED)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return 0, 1 for a failure, 2 for wrong usage, 130 when interrupted."""
    command = _command_of(branch_of(arguments))
    for name, warning in variables.unknown(arguments).items():
        print(f"capamesh: warning: {warning}", file=sys.stderr)
        del os.environ[name]  # the processes that this one starts do not say it again
    try:
        status = command.main(list(arguments), prog_name="capamesh", standalone_mode=False)
    except CapameshError as error:
        _complain(error.message)
        return FAILED
    except BaseExceptionGroup as group:
        # A service's tasks fail as a group; what is not a known error keeps its traceback.
        leaves = list(_leaves(group))
        if not all(isinstance(leaf, CapameshError) for leaf in leaves):
            raise
        for leaf in leaves:
            _complain(str(leaf))
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except _UsageError as error:
        name = arguments[0] if arguments else ""
        if name in ELSEWHERE:
            _complain(f"No such command '{name}': {ELSEWHERE[name]}; see: capamesh --help")
        else:
            _complain(_usage_text(error))
        return USAGE
    return status if isinstance(status, int) else 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", error))
        else:
            yield error


def _usage_text(error: BaseException) -> str:
    message = getattr(error, "format_message", error.__str__)()
    context: typer.Context | None = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "capamesh"
    return f"{message.rstrip('.')}; see: {path} --help"


def _complain(message: str) -> None:
    print(f"capamesh: error: {plain(' '.join(message.split()))}", file=sys.stderr)


if __name__ == "__main__":
    main()
