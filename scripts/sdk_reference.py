"""Writes the page on the Python client: each public class of `capamesh.client`, as its source has it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from itertools import zip_longest
from types import ModuleType
from typing import Any, NamedTuple

from reference_markdown import NOTE, code, sentence, table

import capamesh.client
from capamesh.client import AsyncClient, Client
from capamesh.client import arrays as arrays_module
from capamesh.client.generation import asks as asks_module
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.oip import messages as messages_module

CLIENTS = (Client, AsyncClient)
"""The classes that the page begins with."""
SECTIONS = re.compile(r"^(Args|Raises):$", re.MULTILINE)
TITLES = {"Args": "Arguments", "Raises": "Errors"}
MAX_LINE = 100
"""Signatures that are longer have a line for each argument."""


class Field(NamedTuple):
    """One attribute of a class."""

    name: str
    kind: str
    default: str
    text: str


def class_of(kind: type[Any]) -> ast.ClassDef:
    """Return the statement that defines a class."""
    (statement,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(statement, ast.ClassDef)  # noqa: S101 - the source of a class is one
    return statement


def text_of(statement: ast.stmt | None) -> str:
    """Return a text that stands as a statement of its own; empty where there is none."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return sentence(str(statement.value.value))
    return ""


def followed(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    """Yield each statement with the one that follows it."""
    yield from zip_longest(body, body[1:])


def fields_of(statement: ast.ClassDef) -> list[Field]:
    """Return the attributes that a class declares, and those that its constructor sets and explains."""
    found: list[Field] = []
    for each, after in followed(statement.body):
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            default = ast.unparse(each.value) if each.value is not None else ""
            found.append(
                Field(each.target.id, ast.unparse(each.annotation), default, text_of(after))
            )
    constructor = method_of(statement, "__init__")
    kinds = {} if constructor is None else arguments_of(constructor)
    for each, after in followed([] if constructor is None else constructor.body):
        target = each.targets[0] if isinstance(each, ast.Assign) else None
        if isinstance(target, ast.Attribute) and text_of(after):
            found.append(Field(target.attr, kinds.get(target.attr, ""), "", text_of(after)))
    return [field for field in found if not field.name.startswith("_")]


def method_of(statement: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """Return the method of a class that is called `name`."""
    found = [each for each in statement.body if isinstance(each, ast.FunctionDef)]
    return next((each for each in found if each.name == name), None)


def arguments_of(function: ast.FunctionDef) -> dict[str, str]:
    """Return the types of a function's arguments by name."""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return {each.arg: ast.unparse(each.annotation) for each in arguments if each.annotation}


def signature(name: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return how a function is called: its arguments with types and defaults, and what it returns."""
    arguments = function.args
    parts = list(split_arguments(arguments))[0 if is_static(function) else 1 :]
    is_generator = any(isinstance(each, ast.Yield) for each in ast.walk(function))
    is_awaited = isinstance(function, ast.AsyncFunctionDef) and not is_generator
    start = "await " if is_awaited else ""
    is_constructor = function.name == "__init__"
    end = "" if is_constructor or not function.returns else f" -> {ast.unparse(function.returns)}"
    line = f"{start}{name}({', '.join(parts)}){end}"
    if len(line) <= MAX_LINE:
        return line
    return "\n".join([f"{start}{name}(", *(f"    {part}," for part in parts), f"){end}"])


def is_static(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a method is one of its class, which is called without an instance."""
    return any(getattr(each, "id", "") == "staticmethod" for each in function.decorator_list)


def split_arguments(arguments: ast.arguments) -> Iterator[str]:
    """Yield each argument of a signature, the star that stands before those by name included."""
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
    yield from map(argument, arguments.args, defaults)
    if arguments.kwonlyargs:
        yield "*"
        yield from map(argument, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg is not None:
        yield f"**{argument(arguments.kwarg, None)}"


def argument(each: ast.arg, default: ast.expr | None) -> str:
    """Return one argument with its type and default."""
    kind = f": {ast.unparse(each.annotation)}" if each.annotation else ""
    return f"{each.arg}{kind}" + (f" = {ast.unparse(default)}" if default is not None else "")


def prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: paragraphs as they are, arguments and errors as lists."""
    head, *sections = SECTIONS.split(docstring or "")
    paragraphs = [sentence(each) for each in head.strip().split("\n\n") if each.strip()]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        items = re.split(r"\n(?=\S)", textwrap.dedent(body).strip())
        lines = [listed(sentence(item)) for item in items]
        paragraphs.append(f"{TITLES[title]}:\n\n" + "\n".join(lines))
    return "\n\n".join(paragraphs)


def listed(item: str) -> str:
    """Return `name: meaning` or `name, name: meaning` as an item of a list, the names as code."""
    names, _, meaning = item.partition(": ")
    return f"- {', '.join(map(code, names.split(', ')))}: {meaning}"


def method(owner: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return what is said of one method or property."""
    is_property = any(
        getattr(each, "id", "") in {"property", "cached_property"}
        for each in function.decorator_list
    )
    text = prose(ast.get_docstring(function))
    if is_property:
        kind = ast.unparse(function.returns) if function.returns else ""
        return f"### {owner}.{function.name}\n\nA property, {code(kind)}. {text}"
    if function.name == "__init__":
        return f"### {owner}()\n\n```python\n{signature(owner, function)}\n```\n\n{text}"
    called_on = owner if is_static(function) else instance(owner)
    line = signature(f"{called_on}.{function.name}", function)
    return f"### {owner}.{function.name}\n\n```python\n{line}\n```\n\n{text}"


def instance(owner: str) -> str:
    """Return the name that an instance of a class has in an example: `client` for `AsyncClient` too."""
    words = re.findall("[A-Z][a-z]+", owner.removeprefix("Async"))
    return "_".join(words).lower()


def methods_of(statement: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the public methods of a class; of its constructor only one that says something of its own."""
    for each in statement.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            is_told = not each.name.startswith("_") or each.name == "__init__"
            if is_told and ast.get_docstring(each):
                yield each


def all_methods_of(
    kind: type[Any],
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the public methods of a class, and behind them those that it takes over from the project's other classes."""
    told: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("capamesh."):
            for each in methods_of(class_of(base)):
                if each.name not in told:
                    told.add(each.name)
                    yield each


def class_section(kind: type[Any]) -> str:
    """Return what is said of one class."""
    statement = class_of(kind)
    parts = [f"## {kind.__name__}", prose(ast.get_docstring(statement))]
    if issubclass(kind, Enum):
        parts.append(", ".join(code(str(member.value)) for member in kind) + ".")
    elif rows := [
        (code(field.name), code(field.kind), code(field.default), field.text)
        for field in fields_of(statement)
    ]:
        parts.append(table(("attribute", "type", "default", "is"), rows))
    parts += [method(kind.__name__, each) for each in all_methods_of(kind)]
    return "\n\n".join(parts)


def alias(module: ModuleType, name: str) -> str:
    """Return what a module says of a type that it names."""
    for each, after in followed(ast.parse(inspect.getsource(module)).body):
        target = each.target if isinstance(each, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == name:
            assert isinstance(each, ast.AnnAssign)  # noqa: S101 - its target was found
            assert each.value is not None  # noqa: S101 - an alias has a value
            kind = ast.unparse(each.value).strip("'\"")
            return f"## {name}\n\n```python\n{kind}\n```\n\n{text_of(after)}"
    raise LookupError(f"{module.__name__} names no type {name}")


def sdk_page() -> str:
    """Return the page on the Python client."""
    public = [getattr(capamesh.client, name) for name in capamesh.client.__all__]
    others = [
        each
        for each in public
        if inspect.isclass(each) and each not in CLIENTS and not issubclass(each, CapameshError)
    ]
    sections = [class_section(each) for each in (*CLIENTS, *others)]
    sections += [
        alias(arrays_module, "InputValue"),
        alias(asks_module, "Messages"),
        alias(messages_module, "Parameters"),
        alias(asks_module, "Prompt"),
    ]
    return f"""{NOTE}
# The Python client

All of this is imported from `capamesh.client`, the errors too: all are `CapameshError`, the network's own, and
[errors](errors.md) tells what each means. `Unreachable` and `CutOff` are `LinkLost` between client and router: the router could not be connected to, so that
nothing was sent, or the connection ended before the answer was complete. [Use the Python client](../tutorial/python-client.md) shows how it is used.

{chr(10).join(f"{section}{chr(10)}" for section in sections)}"""
