"""Makes the description of a router's routes for programs (OpenAPI 3.1) of the routes and of the types of their bodies."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
from reference_markdown import sentence
from sdk_reference import class_of, fields_of

import capamesh.router.http
from capamesh.router.access.keys import Verb
from capamesh.router.http.errors import STATUS, status_of
from capamesh.router.http.replies import JSON
from capamesh.router.http.route import ANY_KEY, Content, Parameter, Route
from capamesh.router.http.schemas.oip import Error
from capamesh.router.http.schemas.openai import OpenAIError
from capamesh.router.requests.generation import bodies

FILE: Final = Path(capamesh.router.http.__file__ or "").with_name("openapi.json")
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REF: Final = "#/components/schemas/{name}"
PATH_PARAMETERS: Final = {
    "model": "The name of a model.",
    "version": "The version of a model.",
    "peer": "The peer id of a node.",
    "region": "The name of a region of shared memory.",
    "job": "The id of a job.",
    "file": "The id of an uploaded file.",
    "batch": "The id of a batch.",
    "upload": "The id of an upload in parts.",
    "digest": "The digest of all files of the page.",
    "name": "The name of a file.",
}
TAGS: Final = {
    "inference": "The Open Inference Protocol v2, and Triton's extensions of it.",
    "jobs": "Batch jobs: a model is run over a whole data set; and the files that they read.",
    "fleet": "Nodes, models and requests, as this router sees them.",
    "metrics": "What is counted.",
    "page": "The page at the router's address, and what describes the routes.",
}
SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key, or the operator's key."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key."},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "A key as the password, whatever the name: for reading alone, as browsers do.",
    },
}
WITH_KEY: Final = (401, 403, 503)
"""The statuses of errors that the check of keys may come to."""
WITH_BODY: Final = (408, 413, 503)
"""The statuses of errors that reading a body may come to."""
RETRIED: Final = frozenset({429, 503})
"""The statuses of errors that may say when to come again."""
PLAIN_TEXTS: Final = {
    304: "It is as it was.",
    308: "It is at another path.",
    404: "There is nothing at this path.",
    408: "The request did not arrive in time.",
}
"""The meanings of statuses that are no error of the router's classes, or not only."""


def tag_of(path: str) -> str:
    """Return the group that a route is shown in."""
    if path.startswith(
        ("/v2", "/v1/embeddings", "/v1/chat", "/v1/completions", "/v1/responses", "/api/")
    ):
        return "inference"
    if path == "/metrics":
        return "metrics"
    if path.startswith(("/v1/jobs", "/v1/files", "/v1/batches")):
        return "jobs"
    is_page = path.startswith(("/page", "/v1/page")) or path.count("/") == 1
    return "page" if is_page else "fleet"


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the whole description."""
    contents = [
        each.kind
        for route in routes
        for group in (route.answer, route.body, *route.others.values())
        for each in group
    ]
    kinds = list(dict.fromkeys([*contents, *_parameter_kinds(routes), Error, OpenAIError]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    schema_of = dict(zip(kinds, schemas, strict=True))
    _explain(components)
    paths: dict[str, dict[str, Any]] = {}
    names = _operation_names(routes)
    for route in routes:
        operation = _operation(route, names[route.method, route.path], schema_of)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "Capamesh router",
            "version": version("capamesh"),
            "description": "The HTTP routes of a router. Whatever fails is answered with an `Error`, or on routes of OpenAI's"
            " with an `OpenAIError`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This router"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": _error_responses(routes, schema_of[Error]),
            "securitySchemes": SCHEMES,
        },
    }


def text(routes: Sequence[Route]) -> str:
    """Return the whole description as it stands in its file."""
    return json.dumps(document(routes), indent=1, ensure_ascii=False) + "\n"


def _parameter_kinds(routes: Iterable[Route]) -> list[object]:
    return [each.kind for route in routes for each in (*route.query, *route.headers)]


def _operation_names(routes: Iterable[Route]) -> dict[tuple[str, str], str]:
    """Return a name for each route: its handler's, with what differs in the path where several have the same."""
    handlers = {(route.method, route.path): route.handler.__name__ for route in routes}
    counted = Counter(handlers.values())
    names = {
        place: f"{name}_of_version" if counted[name] > 1 and "{version}" in place[1] else name
        for place, name in handlers.items()
    }
    again = Counter(names.values())
    return {
        (method, path): name
        if again[name] == 1
        else "_".join((name, method.lower(), *re.findall(r"[a-z]\w+", path)))
        for (method, path), name in names.items()
    }


def _operation(route: Route, name: str, schema_of: Mapping[object, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": [tag_of(route.path)],
        "summary": sentence(route.summary),
        **({} if route.does == route.summary else {"description": sentence(route.does)}),
        "security": _security(route),
        "x-key": [str(verb) for verb in route.verbs],
    }
    parameters = [
        {
            "name": each,
            "in": "path",
            "required": True,
            "description": PATH_PARAMETERS[each],
            "schema": {"type": "string", "minLength": 1},
        }
        for each in re.findall(r"{(\w+)}", route.path)
    ]
    parameters += [_parameter(each, "query", schema_of) for each in route.query]
    parameters += [_parameter(each, "header", schema_of) for each in route.headers]
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        operation["requestBody"] = {"content": _contents(route.body, schema_of)}
    responses: dict[str, Any] = {}
    if route.answer:
        content = _contents(route.answer, schema_of)
        responses["200"] = {"description": "All is well.", "content": content}
    failed = _errors(route)
    for status in sorted({*failed, *route.others}):
        others = route.others.get(status)
        if route.is_openai:
            responses[str(status)] = _openai_response(_means(status), _headers(status), schema_of)
            continue
        if others is None:
            responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
            continue
        kinds = (*others, *([Content(Error)] if status in failed else []))
        content = {"content": _any_of(kinds, schema_of)} if kinds else {}
        responses[str(status)] = {"description": _means(status), **content}
    responses["default"] = {"$ref": "#/components/responses/default"}
    if route.is_openai:
        responses["default"] = _openai_response("Any other error.", {}, schema_of)
    operation["responses"] = responses
    return operation


def _openai_response(
    means: str, headers: dict[str, Any], schema_of: Mapping[object, Any]
) -> dict[str, Any]:
    content = {JSON: {"schema": schema_of[OpenAIError]}}
    return {"description": means, **({"headers": headers} if headers else {}), "content": content}


def _security(route: Route) -> list[dict[str, list[str]]]:
    if not route.verbs:
        return []
    schemes = ["bearer", "apiKey", *(["basic"] if route.method == "GET" else [])]
    return [*({scheme: []} for scheme in schemes), {}]  # the last: a router without keys


def _errors(route: Route) -> set[int]:
    found = set(route.errors)
    if route.verbs:
        found.update(WITH_KEY)
    if route.body:
        found.update(WITH_BODY)
    if route.takes_json:
        found.add(415)
    if "{" in route.path:
        found.add(404)
    if Verb.INFER in route.verbs and route.verbs != ANY_KEY and "{model}" in route.path:
        found.add(503)
    return found


def _error_responses(routes: Iterable[Route], error: object) -> dict[str, Any]:
    """Return the answer of each status of an error."""
    content = {JSON: {"schema": error}}
    statuses = sorted({status for route in routes for status in _errors(route)})
    return {
        **{
            str(status): {
                "description": _means(status),
                "headers": _headers(status),
                "content": content,
            }
            for status in statuses
        },
        "default": {"description": "Any other error.", "content": content},
    }


def _headers(status: int) -> dict[str, Any]:
    headers = {"X-Capamesh-Error": "The error in one word, as `code` in the body."}
    if status in RETRIED:
        headers["Retry-After"] = "The whole seconds after which to come again, where waiting helps."
    return {
        name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
    }


def _means(status: int) -> str:
    """Return what a status means: the errors that come to it."""
    kinds = [kind for kind in STATUS if status_of(kind.__new__(kind)) == status]
    told = [f"`{kind.code}`: {sentence(kind.__doc__)}" for kind in kinds]
    return " ".join([*told, *([PLAIN_TEXTS[status]] if status in PLAIN_TEXTS else [])])


def _parameter(each: Parameter, where: str, schema_of: Mapping[object, Any]) -> dict[str, Any]:
    return {
        "name": each.name,
        "in": where,
        "description": each.means,
        "schema": schema_of[each.kind],
    }


def _contents(contents: Iterable[Content], schema_of: Mapping[object, Any]) -> dict[str, Any]:
    return {
        each.media_type: {} if each.kind is bytes else {"schema": schema_of[each.kind]}
        for each in contents
    }


def _any_of(contents: Sequence[Content], schema_of: Mapping[object, Any]) -> dict[str, Any]:
    if len(contents) == 1:
        return _contents(contents, schema_of)
    return {JSON: {"schema": {"anyOf": [schema_of[each.kind] for each in contents]}}}


def _explain(components: dict[str, Any]) -> None:
    """Say of each field what the docstring below it says."""
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith(("capamesh.router.http.schemas.", bodies.__name__))
    ]
    for name, schema in components.items():
        kind = next((vars(each)[name] for each in modules if name in vars(each)), None)
        properties = schema.get("properties")
        if kind is None or properties is None:
            continue
        texts = {each.name: each.text for each in fields_of(class_of(kind))}
        for key, described in properties.items():
            if texts.get(key):
                properties[key] = {"description": texts[key], **described}
