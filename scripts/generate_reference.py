"""Writes the pages of `docs/reference/` that say what the code says, from HTTP routes to settings, and schemas of files.

`make reference` runs it. With `--check` it writes nothing, and its exit status says whether the pages are as they should be.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

import msgspec
import openapi_reference
import typer
from error_reference import errors_page
from reference_markdown import NOTE, code, sentence, table
from schema_reference import schemas
from sdk_reference import class_of, fields_of, sdk_page
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

import capamesh.node.agent.metrics.definitions
import capamesh.protocol.metrics
import capamesh.router.http
import capamesh.router.telemetry.metrics
from capamesh.cli.application import application
from capamesh.node.agent.settings import NodeSettings
from capamesh.node.contract.settings import WorkerSettings
from capamesh.protocol.metrics import defined_in
from capamesh.router.http.route import ANY_KEY, Pages, Route
from capamesh.router.requests.generation import bodies
from capamesh.router.requests.generation.foreign_fields import REFUSED, SKIPPED
from capamesh.router.settings import RouterSettings
from capamesh.router.telemetry import MOST_MODELS, MOST_NODES
from capamesh.router.telemetry.totals import MOST_TENANTS, OTHERS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
TRITON = ("/config", "/repository/index", "/stats")
"""Routes of the `/v2` tree that end so are Triton's extensions of the Open Inference Protocol."""

# HTTP


def routes() -> list[Route]:
    """Return the routes that a router serves."""
    found: list[Route] = []
    package = capamesh.router.http
    for module_info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(module_info.name)
        for kind in vars(module).values():
            is_page = inspect.isclass(kind) and kind.__module__ == module.__name__
            if not is_page or Pages not in kind.__mro__[1:]:
                continue
            # a route's handler is a bound method: it needs nothing of what a page is given
            found += kind.__new__(kind).routes()
    return sorted(found, key=lambda route: (route.path, route.method))


def origin(route: Route) -> str:
    """Return who has specified a route."""
    path = route.path
    if route.is_openai:
        return "OpenAI"
    if path.startswith("/api/"):
        return "Ollama"
    if path.startswith("/v2"):
        is_tritons = path.endswith(TRITON)
        return "Triton's extensions" if is_tritons else "Open Inference Protocol v2"
    return "Prometheus" if path == "/metrics" else "Capamesh"


def key_of(route: Route) -> str:
    """Return what a key must be for to be taken by a route."""
    if not route.verbs:
        return "none"
    return "any" if route.verbs == ANY_KEY else " or ".join(map(code, route.verbs))


def http_page() -> str:
    """Return the page on HTTP."""
    rows = [
        (
            code(f"{route.method} {route.path}"),
            origin(route),
            key_of(route),
            sentence(route.does),
        )
        for route in routes()
    ]
    return f"""{NOTE}
# HTTP routes of a router

What a request may ask by headers and parameters, and what an answer's headers tell: [requests](requests.md). Whatever fails
is answered with an [error](errors.md): its code in the header `X-Capamesh-Error`, and in the body: `{{"error": "...", "code": "..."}}`. On routes
that OpenAI has specified the body is `{{"error": {{"message": "...", "type": "...", "param": "...", "code": "..."}}}}`, as its clients read it.

`GET /openapi.json` says the same to programs, with the types of all bodies: generators of clients take it, and so do tools that try out a server.

A router of which [keys](../how-to/give-out-keys.md) were made takes a request whose key may do what *key* says, or has the operator's key.

{table(("route", "specified by", "key", "does"), rows)}
"""


# fields of requests for generation

BODIES = {
    "chat": bodies.ChatRequest,
    "completions": bodies.CompletionRequest,
    "responses": bodies.ResponseRequest,
    "Ollama": bodies.OllamaTextRequest,
    "Ollama's options": bodies.OllamaOptions,
    "Triton": bodies.TextInputRequest,
}
"""The bodies by the routes that take them; a chat of Ollama's has `messages` beside the fields of its texts."""


def generation_fields_page() -> str:
    """Return the page on the fields of requests for generation."""
    texts = {
        field.name: field.text
        for kind in [*BODIES.values()][::-1]
        for base in _classes_of(kind)
        for field in fields_of(class_of(base))
    }
    names = dict.fromkeys(name for kind in BODIES.values() for name in kind.__annotations__)
    done = [
        (
            code(name),
            ", ".join(where for where, kind in BODIES.items() if name in kind.__annotations__),
            bounds(name),
            texts[name],
        )
        for name in names
    ]
    refused = [
        (code(name), ", ".join(code(json.dumps(each)) for each in harmless), instead)
        for name, (harmless, instead) in sorted(REFUSED.items())
    ]
    skipped = [
        (", ".join(code(name) for name in SKIPPED if SKIPPED[name] == why), why)
        for why in dict.fromkeys(SKIPPED.values())
    ]
    return f"""{NOTE}
# Fields of requests for generation

What the routes for [chats and texts](../how-to/chat.md) take: *chat* is `/v1/chat/completions`, *completions* `/v1/completions`, *responses* `/v1/responses`,
*Ollama* `/api/chat` and `/api/generate`, *Triton* `generate` and `generate_stream` of a model for chat. `null` stands for a field that is left out.
`GET /openapi.json` has the same for programs.

A field that could change the answer is done, or refused with 400, with its name in `param` and what to do instead. So is a field that is not known, on
all of these routes. Lines of a [data set](../how-to/run-a-data-set.md) may have columns of any other name.

## Done

{table(("field", "of", "bounds", "is"), done)}

## Refused

A value of the second column asks for nothing, and is taken.

{table(("field", "taken", "instead"), refused)}

## Skipped

{table(("fields", "are"), skipped)}
"""


def _classes_of(kind: type[Any]) -> list[type[Any]]:
    """Return a body's type behind those whose fields it has; at run time each is a plain dict."""
    names = [ast.unparse(base) for base in class_of(kind).bases]
    bases = [vars(bodies)[name] for name in names if name != "TypedDict"]
    return [each for base in bases for each in _classes_of(base)] + [kind]


def bounds(name: str) -> str:
    """Return the bounds of the field's numbers, and of its lists."""
    hints = [get_type_hints(kind, include_extras=True).get(name) for kind in BODIES.values()]
    schemas_of = [
        msgspec.json.schema(get_args(hint)[0] if get_origin(hint) is NotRequired else hint)
        for hint in hints
        if hint is not None
    ]
    told = [
        text
        for schema in schemas_of
        for kind in schema.get("anyOf", [schema])
        for text in (
            _between(kind, "minimum", "maximum", ""),
            _between(kind, "minItems", "maxItems", " entries"),
            _between(kind, "minLength", "maxLength", " characters"),
        )
        if text
    ]
    return ", ".join(dict.fromkeys(told))


def _between(kind: dict[str, Any], least: str, most: str, unit: str) -> str:
    if most not in kind:
        return ""
    low = f"{kind[least]:,} to " if least in kind else "up to "
    return f"{low}{kind[most]:,}{unit}"


# metrics


def metrics_table(module: ModuleType) -> str:
    """Return the table of the metrics that a module defines."""
    rows = [
        (
            code(metric.series),
            metric.kind.value,
            ", ".join(map(code, metric.labels)),
            metric.unit,
            metric.help_text,
        )
        for metric in defined_in(module)
    ]
    return table(("metric", "kind", "labels", "unit", "is"), rows)


def metrics_page() -> str:
    """Return the page on metrics."""
    return f"""{NOTE}
# Metrics

In Prometheus' text form. A router serves them at `GET /metrics` of its HTTP port; a node at `GET /metrics` of the address
that `capamesh node run --metrics` names, and nowhere without it. Both add what `prometheus_client` tells of a process
(`process_*`, `python_info`). [Monitor a network](../how-to/monitor.md) says how to see them and to be told.

A name ends in the unit of what it measures. A counter begins at 0 with its process. The series of a histogram end in
`_bucket`, `_sum` and `_count`.

## Of a router

At most {MOST_MODELS} models, {MOST_NODES} nodes and {MOST_TENANTS} tenants have series of their own; all others share the label `{OTHERS}`. `model` is empty for
requests that name a model that no node hosts. `node` is the node's peer id.

{metrics_table(capamesh.router.telemetry.metrics)}

## Of a node

`device` is the device's number at this node.

{metrics_table(capamesh.node.agent.metrics.definitions)}

## Of both

At a node, those of the event loop have the labels `process` (`agent` or `worker`) and `device`.

{metrics_table(capamesh.protocol.metrics)}
"""


# the command


def plain(markup: str) -> str:
    """Return what `capamesh.cli.help_texts` made without its colours."""
    return re.sub(r"(?<!\\)\[/?(bold|dim)\]", "", markup).replace("\\[", "[")


def examples(epilog: str | None) -> str:
    """Return the examples below a help page as a block of code, or nothing."""
    lines = [line for line in plain(epilog or "").split("\n\n") if line and line != "Examples:"]
    return "\n\n```\n" + "\n".join(lines) + "\n```" if lines else ""


def default_of(parameter: TyperOption | TyperArgument) -> str:
    """Return the default of an option as it is written on a command line; nothing where there is none."""
    default = parameter.default
    if parameter.required:
        return "required"
    if default is None or default is False or default in ("", (), []) or callable(default):
        return ""
    if default is True:
        return code(parameter.opts[0])
    return code(str(default))


def parameters(command: TyperCommand | TyperGroup) -> list[tuple[str, ...]]:
    """Return a row for each argument and option that help pages show."""
    rows: list[tuple[str, ...]] = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        is_option = parameter.opts[0].startswith("-")
        names = [*parameter.opts, *parameter.secondary_opts] if is_option else []
        metavar = parameter.metavar or ""
        if is_option and not metavar and not parameter.is_flag:
            metavar = "VALUE"
        shown = " ".join(part for part in (" / ".join(names), metavar) if part)
        shown = shown or parameter.name.upper()
        variable = parameter.envvar if isinstance(parameter.envvar, str) else ""
        help_text = plain(getattr(parameter, "help", None) or "")
        rows.append((code(shown), code(variable), default_of(parameter), sentence(help_text)))
    return rows


def commands() -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """Yield each command with its whole name, in the order of the help pages."""

    def below(
        command: TyperCommand | TyperGroup, path: str
    ) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
        yield path, command
        for name, child in getattr(command, "commands", {}).items():
            if not child.hidden:
                yield from below(child, f"{path} {name}")

    yield from below(typer.main.get_command(application()), "capamesh")


def command_page() -> str:
    """Return the page on the command."""
    head = ("option", "variable", "default", "is")
    sections: list[str] = []
    variables: dict[str, set[str]] = {}
    for path, command in commands():
        rows = parameters(command)
        for option, variable, _, _ in rows:
            if variable:
                names = f"{code(path)} {code(option.strip('`').split()[0])}"
                variables.setdefault(variable, set()).add(names)
        shown = f"\n\n{table(head, rows)}" if rows else ""
        about = sentence(plain(command.help or ""))
        sections.append(f"## {path}\n\n{about}{shown}{examples(command.epilog)}\n")
    all_sections = "\n".join(sections)
    by_variable = [(name, ", ".join(sorted(of))) for name, of in sorted(variables.items())]
    return f"""{NOTE}
# The command `capamesh`

Every command has `--help`. An option that has a variable is taken from it where the command line does not name it. Exit
status: 0 where all is well, 1 where the command failed, 2 where its arguments are wrong, 3 where the answer is "no"
(`explain`, `status`), 130 after Ctrl-C.

{all_sections}
## Environment variables

{table(("variable", "sets"), by_variable)}
"""


# settings


def text_of(node: ast.expr) -> str | None:
    """Return a text that is written out, else None."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def meanings(kind: type[Any]) -> dict[str, tuple[str, str]]:
    """Return type and docstring of each field of a dataclass, as its source has them."""
    (statement,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(statement, ast.ClassDef)  # noqa: S101 - the source of a class is one
    found: dict[str, tuple[str, str]] = {}
    name = ""
    for line in statement.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name = line.target.id
            found[name] = (ast.unparse(line.annotation), "")
        elif isinstance(line, ast.Expr) and name and (text := text_of(line.value)) is not None:
            found[name] = (found[name][0], sentence(text))
            name = ""
    return found


def settings(kind: type[Any]) -> str:
    """Return the table of one dataclass of settings."""
    known = meanings(kind)
    rows: list[tuple[str, ...]] = []
    for field in dataclasses.fields(kind):
        annotation, text = known[field.name]
        default = "required"
        if field.default_factory is not dataclasses.MISSING:
            default = code(f"{type(field.default_factory()).__name__}()")
        elif field.default is not dataclasses.MISSING:
            default = code(repr(field.default))
        rows.append((code(field.name), code(annotation), default, text))
    return table(("field", "type", "default", "is"), rows)


def settings_page() -> str:
    """Return the page on settings."""
    return f"""{NOTE}
# Settings in Python

For programs that start a router or a node themselves, as the simulation, the local cluster and the tests do. From a
terminal each has an option: [the command](command.md). What an operator says of models' requests is in the
[rules](../how-to/route-traffic.md), what of one model in its [manifest](manifest.md).

## RouterSettings

{settings(RouterSettings)}

## NodeSettings

{settings(NodeSettings)}

## WorkerSettings

{settings(WorkerSettings)}
"""


def pages() -> dict[Path, str]:
    """Return the text of each page and schema."""
    return {
        FOLDER / "http.md": http_page(),
        FOLDER / "generation-fields.md": generation_fields_page(),
        FOLDER / "errors.md": errors_page(),
        FOLDER / "sdk.md": sdk_page(),
        FOLDER / "metrics.md": metrics_page(),
        FOLDER / "command.md": command_page(),
        FOLDER / "settings.md": settings_page(),
        **schemas(),
        openapi_reference.FILE: openapi_reference.text(routes()),
    }


def main() -> int:
    """Write the pages, or say which are not up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is old")
    is_check = parser.parse_args().check
    old = [page for page, text in pages().items() if not page.exists() or page.read_text() != text]
    for page in old:
        if is_check:
            print(f"{page.relative_to(ROOT)} is not what the code says; run: make reference")
        else:
            page.write_text(pages()[page])
            print(f"wrote {page.relative_to(ROOT)}")
    return int(is_check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
