"""Parts of Triton's protocol that this network has not: each is refused by its name, with what to do instead. IO: aiohttp."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import Unsupported
from capamesh.router.access.keys import Verb
from capamesh.router.http.route import ANY_KEY, Pages, Route
from capamesh.router.requests.unsupported import LOGGING, SHARED_MEMORY, TRACES

_SHARED_MEMORY_ROUTES: Final = tuple(
    (method, f"/v2/{kind}sharedmemory{place}")
    for kind in ("system", "cuda")
    for method, place in (
        ("GET", "/status"),
        ("GET", "/region/{region}/status"),
        ("POST", "/region/{region}/register"),
        ("POST", "/region/{region}/unregister"),
        ("POST", "/unregister"),
    )
)


class UnsupportedApi(Pages):
    """The routes of Triton's extensions `trace`, `logging`, `system_shared_memory` and `cuda_shared_memory`."""

    @override
    def routes(self) -> list[Route]:
        return [
            *(
                Route(method, path, self.traces, verbs, errors=(501,))
                for path, verbs in (
                    ("/v2/trace/setting", ANY_KEY),
                    ("/v2/models/{model}/trace/setting", (Verb.INFER, Verb.READ)),
                )
                for method in ("GET", "POST")
            ),
            *(
                Route(method, "/v2/logging", self.logging, ANY_KEY, errors=(501,))
                for method in ("GET", "POST")
            ),
            *(
                Route(method, path, self.shared_memory, ANY_KEY, errors=(501,))
                for method, path in _SHARED_MEMORY_ROUTES
            ),
        ]

    async def traces(self, _: web.Request) -> web.Response:
        """Refuse trace settings: each request says by its `traceparent` whether it is traced."""
        raise Unsupported(TRACES)

    async def logging(self, _: web.Request) -> web.Response:
        """Refuse settings of the log, which are those of the router's start."""
        raise Unsupported(LOGGING)

    async def shared_memory(self, _: web.Request) -> web.Response:
        """Refuse shared memory, which the peers of a network do not share."""
        raise Unsupported(SHARED_MEMORY)
