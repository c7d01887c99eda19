"""The look of help pages: groups that explain themselves, examples that keep their lines. Pure."""

from __future__ import annotations

import typer


def examples(*lines: str) -> str:
    """Return an epilog of example lines, each `command`, or `command` and what it does after three blanks."""
    shown: list[str] = []
    for line in lines:
        command, _, meaning = line.partition("   ")
        note = f" [dim]# {_plain(meaning.strip())}[/dim]" if meaning.strip() else ""
        shown.append(f"[bold]{_plain(command)}[/bold]{note}")
    # Typer joins single line ends; empty lines between keep each example on its own.
    return "\n\n".join(["Examples:", *shown])


def new_group(about: str, epilog: str, *, has_completion: bool = False) -> typer.Typer:
    """Return a group of commands; the caller gives it a callback that shows its help when it stands alone.

    With `has_completion` it has the options that set up and show the completion of a shell, which is the whole command's.
    """
    return typer.Typer(
        help=about,
        epilog=epilog,
        add_completion=has_completion,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )


def teach(context: typer.Context) -> None:
    """Show a group's help when no command follows."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
