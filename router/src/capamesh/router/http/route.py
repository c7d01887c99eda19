"""The routes of a router's HTTP port: each is described once, beside its handler. IO: none but aiohttp's requests.

Who may ask a route, the list at `GET /`, the description for programs (OpenAPI) and the reference come from here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from capamesh.router.access.keys import Verb
from capamesh.router.http.replies import JSON

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
EVERYBODY: Final[tuple[Verb, ...]] = ()
"""The verbs of a route that needs no key."""
ANY_KEY: Final = tuple(Verb)
"""The verbs of a route that takes every key."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a request's or an answer's body."""

    kind: object
    """The type that describes what JSON it may be; `bytes` or `str` for what is no JSON."""
    media_type: str = JSON


def json_of(kind: object) -> tuple[Content]:
    """Return the content of a body that is JSON of this type."""
    return (Content(kind),)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in a route's query, or a header, which may each be left out."""

    name: str
    means: str
    """The meaning of it, in a sentence."""
    kind: object = str


@dataclass(frozen=True, slots=True)
class Route:
    """One route."""

    method: str
    path: str
    """The path, with the names of its parts in braces."""
    handler: Handler
    verbs: tuple[Verb, ...] = (Verb.ADMIN,)
    """The verbs, one of which a key must have; none: no key is needed. Where nothing is said, only an admin's key is taken."""
    answer: tuple[Content, ...] = ()
    """The answer that all is well with, in each form that it may have."""
    body: tuple[Content, ...] = ()
    """The body of a request, in each form that it may have; none: it takes none."""
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
    """The statuses of errors, beside those that its key, its path or its body may come to."""
    others: Mapping[int, tuple[Content, ...]] = field(
        default_factory=dict[int, tuple[Content, ...]]
    )
    """The answers with other statuses that are no errors."""
    is_openai: bool = False
    """True if it is OpenAI's: its errors have the form that OpenAI's clients read."""
    is_streamed: bool = False
    """True if its handler takes a body as it comes, within limits of its own: it may be larger than memory."""

    @property
    def takes_json(self) -> bool:
        """Return whether its body is JSON, or may be."""
        return any(content.media_type == JSON for content in self.body)

    @property
    def does(self) -> str:
        """Return what it does: its handler's docstring."""
        return inspect.getdoc(self.handler) or ""

    @property
    def summary(self) -> str:
        """Return the first paragraph of what it does, in one line."""
        return self.does.split("\n\n")[0].replace("\n", " ")


class Pages(Protocol):
    """A part of what is served."""

    __slots__ = ()

    def routes(self) -> list[Route]:
        """Return its routes."""
        ...


class RouteTable:
    """All routes of an application, which may each be asked for with a slash at the end if they are pages, as many clients write it."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: Final = tuple(routes)
        """The routes, in the order in which they are tried."""
        self._by_place: Mapping[tuple[str, str], Route] = {
            (route.method, route.path): route for route in self.routes
        }
        self._of_openai = {route.path for route in self.routes if route.is_openai}

    def of(self, request: web.Request) -> Route | None:
        """Return the route that a request has come to; None: there is none."""
        resource = request.match_info.route.resource
        if resource is None:
            return None
        method = "GET" if request.method == "HEAD" else request.method
        path = resource.canonical
        return self._by_place[method, path.rstrip("/") or path]

    def is_openai(self, request: web.Request) -> bool:
        """Return whether a request has come to a route of OpenAI's, or to its path by a method that it does not take."""
        route = self.of(request)
        return request.path in self._of_openai if route is None else route.is_openai

    def definitions(self) -> list[web.RouteDef]:
        """Return the routes as aiohttp has them, those with a slash at the end included."""
        found: list[web.RouteDef] = []
        for route in self.routes:
            found.append(web.RouteDef(route.method, route.path, route.handler, {}))
            if route.method == "GET" and not route.path.endswith("/"):
                found.append(web.RouteDef("GET", f"{route.path}/", route.handler, {}))
        return found


TABLE: Final = web.AppKey("routes", RouteTable)
"""The application's key for its routes."""
