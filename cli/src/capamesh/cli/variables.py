"""The variables `CAPAMESH_*` of the environment: who goes by which, and which nobody does. Reads the environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import typer
from typer.core import TyperCommand, TyperGroup

from capamesh.cli.access import HEADERS_VARIABLE
from capamesh.cli.application import OVERVIEW, application, branch_of
from capamesh.cli.home import HOME_VARIABLE
from capamesh.protocol.implementation import PURE

PREFIX: Final = "CAPAMESH_"
_WITHOUT_OPTION: Final = frozenset({HEADERS_VARIABLE, HOME_VARIABLE, PURE})
"""The variables that any command goes by, and that belong to no option."""
_NOT_PASSED_ON: Final = frozenset(
    {
        *("CAPAMESH_DATA", "CAPAMESH_TOKEN", "CAPAMESH_TOKEN_FILE"),
        *(
            "CAPAMESH_TLS_CERT",
            "CAPAMESH_TLS_KEY",
            "CAPAMESH_TLS_CLIENT_CA",
            "CAPAMESH_METRICS_LISTEN",
        ),
    }
)
"""The variables that say who a member is, which its starter says by options; and those with which a router no longer answers its
starter at `--http`."""


def set_here() -> set[str]:
    """Return the names of those that this process has."""
    return {name for name in os.environ if name.startswith(PREFIX)}


def unknown(arguments: Sequence[str]) -> dict[str, str]:
    """Return the variables that no command goes by, with what to tell of each; most often only the command that was called is looked at."""
    left = set_here() - _WITHOUT_OPTION
    if not left or branch_of(arguments) == OVERVIEW:
        return {}
    for branch in dict.fromkeys(
        (branch_of(arguments), None)
    ):  # in this order: all take five times as long
        left -= {name for _, name in _declared(_tree(branch))}
        if not left:
            return {}
    known = {name for _, name in _declared(_tree(None))} | _WITHOUT_OPTION
    return {
        name: f"no command goes by the variable {name}{_meant(name, known)}"
        for name in sorted(left)
    }


def passed_on(arguments: Sequence[str]) -> set[str]:
    """Return the names of those that set an option of a member's command, and that its `arguments` leave to them."""
    declared = set(_declared(_command(*arguments[:2])))
    given = {name for option, name in declared if option in arguments}
    return ({name for _, name in declared} & set_here()) - given - _NOT_PASSED_ON


def ignored(command: str, *members: Sequence[str]) -> list[str]:
    """Return the names of those that set an option of a member, and reach neither that nor `command`, which starts it."""
    of_members = {name for each in members for _, name in _declared(_command(*each[:2]))}
    taken = {name for each in members for name in passed_on(each)}
    own = {name for _, name in _declared(_command(*command.split()))}
    return sorted((of_members & set_here()) - taken - own)


def _tree(branch: str | None) -> TyperCommand | TyperGroup:
    return typer.main.get_command(application(branch))  # type: ignore[return-value]


def _command(*words: str) -> TyperCommand | TyperGroup:
    found = _tree(words[0])
    for word in words:
        found = found.commands[word]  # type: ignore[union-attr,assignment]
    return found


def _declared(command: TyperCommand | TyperGroup) -> Iterator[tuple[str, str]]:
    """Yield each option of a command, and of those below it, that has a variable, with its name."""
    for parameter in command.params:
        names: str | Collection[str] | None = getattr(parameter, "envvar", None)
        for name in [names] if isinstance(names, str) else names or ():
            yield parameter.opts[0], name
    for inner in getattr(command, "commands", {}).values():
        yield from _declared(inner)


def _meant(name: str, known: Collection[str]) -> str:
    words = [each.removeprefix(PREFIX) for each in known]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), words, 1, 0.75)
    return f"; did you mean {PREFIX}{near[0]}?" if near else ""
