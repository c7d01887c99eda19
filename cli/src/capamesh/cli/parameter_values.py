"""Turns `--parameter NAME=VALUE` into the parameters of a request. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NoReturn

import typer

_OPTIONS: Final = {
    "timeout": "give --timeout, in seconds, instead",
    "binary_data_output": "outputs are printed alike whichever way they travel; leave it out",
}
"""Parameters that this command sets by itself, and what to do instead."""


def parse_parameters(texts: Sequence[str]) -> dict[str, str | int | float | bool]:
    """Return the parameters by name: a JSON number, `true`, `false` or a text in quotes is that, all else is text.

    A usage error: no NAME=, a name twice, null, a list or an object, a parameter that has its own option.
    """
    parameters: dict[str, str | int | float | bool] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise _wrong(f"{text[:80]!r} is not NAME=VALUE, for example sequence_id=7")
        if name in parameters:
            raise _wrong(f"parameter {name!r} is given twice")
        if name in _OPTIONS:
            raise _wrong(f"{name!r}: {_OPTIONS[name]}")
        parameters[name] = _value(name, value)
    return parameters


def _value(name: str, text: str) -> str | int | float | bool:
    try:
        value: object = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, str | int | float):  # a bool is an int
        return value
    raise _wrong(
        f"{name!r} is {text[:80]!r}; a number, true, false or a text is expected, "
        f"with quotes if it looks like something else: '{name}=\"null\"'"
    )


def _no_constant(literal: str) -> NoReturn:
    raise ValueError(literal)


def _wrong(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--parameter")
