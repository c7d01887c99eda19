"""A progress bar on standard error; none where that is no terminal. IO: prints."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)


@contextlib.contextmanager
def steps(total: int | None = None) -> Generator[Callable[[str], None]]:
    """Yield a function that says what begins now; of `total` steps, None where nobody knows how many."""
    bar = Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("", total=total)
        begun = 0

        def begin(what: str) -> None:
            nonlocal begun
            bar.update(task, description=what, completed=begun)
            begun += 1

        yield begin


@contextlib.contextmanager
def parts(what: str) -> Generator[Callable[[float], None]]:
    """Yield a function that is told which part of `what` is done, from 0 to 1."""
    bar = _bar_of_parts()
    with bar:
        task = bar.add_task(what, total=1.0)

        def done(part: float) -> None:
            bar.update(task, completed=part)

        yield done


@contextlib.contextmanager
def stages(total: int) -> Generator[Callable[[str, float], None]]:
    """Yield a function that is told which of `total` stages goes on, and which part of it is done, from 0 to 1."""
    bar = _bar_of_parts()
    with bar:
        task = bar.add_task("", total=float(total))
        begun: list[str] = []

        def tell(what: str, part: float) -> None:
            if what not in begun:
                begun.append(what)
            bar.update(task, description=what, completed=begun.index(what) + part)

        yield tell


def _bar_of_parts() -> Progress:
    """Return a bar that says which part is done."""
    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
