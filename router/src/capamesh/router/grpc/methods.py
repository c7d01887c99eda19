"""The methods of the services, each by its path: what makes of a message a reply. IO: asyncio, for what takes long to list."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from google.protobuf.json_format import ParseDict

from capamesh.protocol.errors import ModelNotFound, PeerError, Unsupported
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.access.keys import Verb
from capamesh.router.grpc.exchange import GrpcExchange, OnReply
from capamesh.router.grpc.health import HEALTH, Health
from capamesh.router.grpc.infer_answer import field
from capamesh.router.grpc.lookups import (
    Answer,
    ListLookup,
    Lookup,
    Make,
    Method,
    Refusal,
    Running,
)
from capamesh.router.grpc.messages import CLASSES, Message
from capamesh.router.grpc.reflection import REFLECTION_METHOD, REFLECTIONS, Reflection
from capamesh.router.grpc.repository import RepositoryCalls
from capamesh.router.grpc.status import Status, status_trailers
from capamesh.router.http.cached_page import CachedPage
from capamesh.router.requests.model_descriptions import ModelDescriptions
from capamesh.router.requests.unsupported import LOGGING, SHARED_MEMORY, TRACES

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.access.audience import Audience
    from capamesh.router.access.keys import Key
    from capamesh.router.grpc.exchange import GrpcInference
    from capamesh.router.grpc.heads import CallHead
    from capamesh.router.http.front_context import FrontContext
    from capamesh.router.requests.repository import RepositoryControl

SERVICE: Final = "inference.GRPCInferenceService"
_UNSUPPORTED: Final = {
    "TraceSetting": TRACES,
    "LogSettings": LOGGING,
    **dict.fromkeys(
        (
            f"{kind}SharedMemory{what}"
            for kind in ("System", "Cuda")
            for what in ("Status", "Register", "Unregister")
        ),
        SHARED_MEMORY,
    ),
}
"""Methods of Triton's that are refused by their names."""


class Methods:
    """The methods of one router."""

    def __init__(
        self,
        grpc: GrpcInference,
        descriptions: ModelDescriptions,
        front: FrontContext,
        repository: RepositoryControl,
        log: FilteringBoundLogger,
        audience: Audience,
    ) -> None:
        """Take whom they are for: others are refused."""
        self._health = Health(grpc, descriptions, front, (SERVICE, *REFLECTIONS))
        self._descriptions = descriptions
        self._log = log
        self._index = CachedPage(partial(self._index_pieces, is_ready_only=False))
        self._index_ready = CachedPage(partial(self._index_pieces, is_ready_only=True))
        self._statistics = CachedPage(self._statistics_pieces)
        changes = RepositoryCalls(repository, front.keys, log)
        of_models = (Verb.INFER, Verb.READ)
        lookups: dict[str, tuple[tuple[Verb, ...], Answer]] = {
            "ServerLive": ((), self._server_live),
            "ServerReady": ((), self._server_ready),
            "ServerMetadata": (tuple(Verb), self._server_metadata),
            "ModelReady": (of_models, self._model_ready),
            "ModelMetadata": (of_models, self._model_metadata),
            "ModelConfig": (of_models, self._model_config),
        }
        methods = [
            (SERVICE, Method("ModelInfer", (Verb.INFER,), partial(GrpcExchange, grpc))),
            (
                SERVICE,
                Method(
                    "ModelStreamInfer",
                    (Verb.INFER,),
                    partial(GrpcExchange, grpc, is_streamed=True),
                    is_streamed=True,
                    is_tritons=True,
                ),
            ),
            *(
                (SERVICE, Method(name, verbs, self._looks_up(answer, name)))
                for name, (verbs, answer) in lookups.items()
            ),
            (
                SERVICE,
                Method(
                    "ModelStatistics",
                    (Verb.READ,),
                    self._lists(self._statistics_page, "ModelStatistics"),
                ),
            ),
            (
                SERVICE,
                Method(
                    "RepositoryIndex",
                    (Verb.READ,),
                    self._lists(self._index_page, "RepositoryIndex"),
                ),
            ),
            (SERVICE, Method("RepositoryModelLoad", (Verb.ADMIN,), changes.load)),
            (SERVICE, Method("RepositoryModelUnload", (Verb.ADMIN,), changes.unload)),
            *(
                (SERVICE, Method(name, tuple(Verb), partial(Refusal, Unsupported(text))))
                for name, text in _UNSUPPORTED.items()
            ),
            (HEALTH, Method("Check", (), self._looks_up(self._health.check, "HealthCheck"))),
            (HEALTH, Method("Watch", (), self._watch, is_lasting=True)),
            *(
                (
                    service,
                    Method(
                        REFLECTION_METHOD,
                        tuple(Verb),
                        self._looks_up(Reflection().answer, "ServerReflection"),
                        is_streamed=True,
                    ),
                )
                for service in REFLECTIONS
            ),
        ]
        refused = partial(Refusal, audience.refusal())
        self._by_path = {
            f"/{service}/{each.name}".encode(): each
            if audience.is_served(each.verbs)
            else replace(each, make=refused)
            for service, each in methods
        }

    def find(self, path: bytes) -> Method | None:
        """Return the method at a path."""
        return self._by_path.get(path)

    def missing(self, path: bytes) -> list[tuple[bytes, bytes]]:
        """Return the trailers for a path that leads to no method."""
        shown = path[:200].decode("latin-1")
        text = f"there is no method {shown!r}; reflection tells which there are"
        return status_trailers(Status.UNIMPLEMENTED, text)

    def _watch(
        self, _: CallHead, __: Key | None, ___: float, ____: str, on_reply: OnReply
    ) -> Running:
        return self._health.watch(on_reply)

    # what the router knows

    def _looks_up(self, answer: Answer, name: str) -> Make:
        return lambda _, key, __, ___, on_reply: Lookup(
            answer, f"{name}Request", self._log, key, on_reply
        )

    def _lists(self, page_of: Callable[[Message], Awaitable[bytes]], name: str) -> Make:
        return lambda _, key, __, ___, on_reply: ListLookup(
            page_of, f"{name}Request", self._log, key, on_reply
        )

    def _server_live(self, _: Message) -> Message:
        return CLASSES["ServerLiveResponse"](live=True)

    def _server_ready(self, _: Message) -> Message:
        return CLASSES["ServerReadyResponse"](ready=self._descriptions.is_ready())

    def _model_ready(self, request: Message) -> Message:
        try:
            is_ready = self._descriptions.is_model_ready(*_named(request))
        except (ModelNotFound, PeerError):  # Triton answers, too; its clients raise errors
            is_ready = False
        return CLASSES["ModelReadyResponse"](ready=is_ready)

    def _server_metadata(self, _: Message) -> Message:
        return _of(self._descriptions.server(), "ServerMetadataResponse")

    def _model_metadata(self, request: Message) -> Message:
        return _of(self._descriptions.metadata(*_named(request)), "ModelMetadataResponse")

    def _model_config(self, request: Message) -> Message:
        return _of({"config": self._descriptions.config(*_named(request))}, "ModelConfigResponse")

    async def _statistics_page(self, request: Message) -> bytes:
        if not request.name:
            return await self._statistics.body()
        found = self._descriptions.statistics(*_named(request))
        return b"".join(_entry(each, "ModelStatistics") for each in found)

    def _statistics_pieces(self) -> Iterator[bytes]:
        for each in self._descriptions.all_statistics():
            yield _entry(each, "ModelStatistics")

    async def _index_page(self, request: Message) -> bytes:
        return await (self._index_ready if request.ready else self._index).body()

    def _index_pieces(self, *, is_ready_only: bool) -> Iterator[bytes]:
        for each in self._descriptions.index(is_ready_only=is_ready_only):
            yield b"" if each is None else _entry(each, "ModelIndex")


def _of(body: dict[str, object], name: str) -> Message:
    """Return as a message what HTTP answers as JSON."""
    return ParseDict(body, CLASSES[name]())


def _entry(body: dict[str, object], name: str) -> bytes:
    """Return one entry of a list that is the first field of its message."""
    return field(1, _of(body, name).SerializeToString())


def _named(request: Message) -> tuple[ModelName, ModelVersion]:
    return ModelName(request.name), ModelVersion(request.version)
