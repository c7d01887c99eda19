"""The methods of the services, each by its path: what makes of a message a reply. IO: asyncio, for what takes long to list."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LocalError,
    ModelNotFound,
    TooLarge,
    Unauthenticated,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.access.keys import Verb, check_model
from capamesh.router.grpc.exchange import GrpcExchange, GrpcReply, OnReply, error_reply
from capamesh.router.grpc.infer_answer import field
from capamesh.router.grpc.messages import CLASSES, Message
from capamesh.router.grpc.status import Status, status_trailers
from capamesh.router.http.cached_page import CachedPage
from capamesh.router.requests.model_descriptions import ModelDescriptions

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.access.keys import Key
    from capamesh.router.grpc.exchange import GrpcInference
    from capamesh.router.grpc.heads import CallHead

SERVICE: Final = "inference.GRPCInferenceService"
HEALTH: Final = "grpc.health.v1.Health"
MAX_LOOKUP_BYTES: Final = 2**14
"""The largest message of a method that is no inference: it has a name and a version."""
_SERVING, _NOT_SERVING = 1, 2
_Answer = Callable[[Message], Message]


Make = Callable[["CallHead", "Key | None", float, OnReply], "Running"]
"""Makes what runs one request, by the head of its call, the caller's key, the call's deadline, and who takes the reply."""


class Running(Protocol):
    """A request under way."""

    __slots__ = ()

    def begin(self, message: memoryview) -> None:
        """Begin with a message, which stays as it is until there is a reply."""
        ...

    def cancel(self) -> None:
        """Withdraw it, for whoever asked has left. Nothing happens when it is over."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service."""

    name: str
    verbs: tuple[Verb, ...]
    """The verbs, one of which a caller's key must have where keys are asked for; none: it needs no key."""
    make: Make
    is_streamed: bool = False
    """Many messages come in one call, and are answered in their order."""


class Lookup(Running):
    """A request that is answered from what the router knows."""

    __slots__ = ("_answer", "_key", "_log", "_on_reply", "_request")

    def __init__(
        self,
        answer: _Answer,
        request: str,
        log: FilteringBoundLogger,
        key: Key | None,
        on_reply: OnReply,
    ) -> None:
        self._answer = answer
        self._key = key
        self._request = request
        self._log = log
        self._on_reply: OnReply | None = on_reply

    @override
    def begin(self, message: memoryview) -> None:
        try:
            self._tell(self._answer(self._read(message)).SerializeToString())
        except CapameshError as error:
            self._fail(error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self._crash(error)

    @override
    def cancel(self) -> None:
        self._on_reply = None

    def _read(self, message: memoryview) -> Message:
        """Return the request; raise what is wrong with it, or with the caller's key for the model that it names."""
        request, key = _read(self._request, message), self._key
        if (
            key is not None
            and not key.may(Verb.READ)
            and "name" in request.DESCRIPTOR.fields_by_name
        ):
            check_model(key, request.name)
        return request

    def _tell(self, message: bytes) -> None:
        on_reply, self._on_reply = self._on_reply, None
        if on_reply is not None:
            on_reply(GrpcReply((message,)))

    def _fail(self, error: CapameshError) -> None:
        on_reply, self._on_reply = self._on_reply, None
        if on_reply is not None:
            on_reply(error_reply(error))

    def _crash(self, error: Exception) -> None:
        self._log.error("request_crashed", request=self._request, exc_info=error)
        self._fail(LocalError("the router failed on this request; see its log"))


class ListLookup(Lookup):
    """A request for a list that may take long to make: other requests have their turns meanwhile."""

    __slots__ = ("_page_of", "_task")

    def __init__(
        self,
        page_of: Callable[[Message], Awaitable[bytes]],
        request: str,
        log: FilteringBoundLogger,
        key: Key | None,
        on_reply: OnReply,
    ) -> None:
        super().__init__(lambda message: message, request, log, key, on_reply)
        self._page_of = page_of
        self._task: asyncio.Task[None] | None = None

    @override
    def begin(self, message: memoryview) -> None:
        try:
            request = self._read(message)
        except CapameshError as error:
            self._fail(error.with_traceback(None))
            return
        self._task = asyncio.create_task(self._make(request))

    @override
    def cancel(self) -> None:
        super().cancel()
        if self._task is not None:
            self._task.cancel()

    async def _make(self, request: Message) -> None:
        try:
            page = await self._page_of(request)
        except CapameshError as error:
            self._fail(error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self._crash(error)
        else:
            self._tell(page)


class Methods:
    """The methods of one router."""

    def __init__(
        self, grpc: GrpcInference, descriptions: ModelDescriptions, log: FilteringBoundLogger
    ) -> None:
        self._grpc = grpc
        self._descriptions = descriptions
        self._log = log
        self._index = CachedPage(partial(self._index_pieces, is_ready_only=False))
        self._index_ready = CachedPage(partial(self._index_pieces, is_ready_only=True))
        self._statistics = CachedPage(self._statistics_pieces)
        of_models = (Verb.INFER, Verb.READ)
        lookups: dict[str, tuple[tuple[Verb, ...], _Answer]] = {
            "ServerLive": ((), self._server_live),
            "ServerReady": ((), self._server_ready),
            "ServerMetadata": (tuple(Verb), self._server_metadata),
            "ModelReady": (of_models, self._model_ready),
            "ModelMetadata": (of_models, self._model_metadata),
            "ModelConfig": (of_models, self._model_config),
        }
        methods = [
            (SERVICE, Method("ModelInfer", (Verb.INFER,), self._infer)),
            (
                SERVICE,
                Method("ModelStreamInfer", (Verb.INFER,), self._stream_infer, is_streamed=True),
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
            (HEALTH, Method("Check", (), self._looks_up(self._health, "HealthCheck"))),
        ]
        self._by_path = {f"/{service}/{each.name}".encode(): each for service, each in methods}

    def find(self, path: bytes) -> Method | None:
        """Return the method at a path."""
        return self._by_path.get(path)

    def missing(self, path: bytes) -> list[tuple[bytes, bytes]]:
        """Return the trailers for a path that leads to no method."""
        shown = path[:200].decode("latin-1")
        text = f"there is no method {shown!r}; there are {', '.join(each.decode() for each in self._by_path)}"
        if shown.startswith(f"/{SERVICE}/RepositoryModel"):
            text = "models are loaded and unloaded by their nodes, for any caller could take a model from all others"
        return status_trailers(Status.UNIMPLEMENTED, text)

    # inference

    def _infer(
        self, head: CallHead, key: Key | None, deadline_s: float, on_reply: OnReply
    ) -> Running:
        return GrpcExchange(self._grpc, head, key, deadline_s, on_reply)

    def _stream_infer(
        self, head: CallHead, key: Key | None, deadline_s: float, on_reply: OnReply
    ) -> Running:
        return GrpcExchange(self._grpc, head, key, deadline_s, on_reply, is_streamed=True)

    # what the router knows

    def _looks_up(self, answer: _Answer, name: str) -> Make:
        return lambda _, key, __, on_reply: Lookup(
            answer, f"{name}Request", self._log, key, on_reply
        )

    def _lists(self, page_of: Callable[[Message], Awaitable[bytes]], name: str) -> Make:
        return lambda _, key, __, on_reply: ListLookup(
            page_of, f"{name}Request", self._log, key, on_reply
        )

    def _server_live(self, _: Message) -> Message:
        return CLASSES["ServerLiveResponse"](live=True)

    def _server_ready(self, _: Message) -> Message:
        return CLASSES["ServerReadyResponse"](ready=self._descriptions.is_ready())

    def _model_ready(self, request: Message) -> Message:
        try:
            is_ready = self._descriptions.is_model_ready(*_named(request))
        except ModelNotFound:  # Triton answers, too; its clients raise errors
            is_ready = False
        return CLASSES["ModelReadyResponse"](ready=is_ready)

    def _server_metadata(self, _: Message) -> Message:
        return _of(self._descriptions.server(), "ServerMetadataResponse")

    def _model_metadata(self, request: Message) -> Message:
        return _of(self._descriptions.metadata(*_named(request)), "ModelMetadataResponse")

    def _model_config(self, request: Message) -> Message:
        return _of({"config": self._descriptions.config(*_named(request))}, "ModelConfigResponse")

    def _health(self, request: Message) -> Message:
        service = request.service
        if service in {"", SERVICE, HEALTH}:
            is_ready = self._descriptions.is_ready()
        elif self._grpc.inference.ring.is_required:
            raise Unauthenticated("the health of a model takes a key: ask ModelReady with yours")
        else:  # a model by its name
            is_ready = self._descriptions.is_model_ready(ModelName(service), ModelVersion(""))
        return CLASSES["HealthCheckResponse"](status=_SERVING if is_ready else _NOT_SERVING)

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


def _read(name: str, message: memoryview) -> Message:
    """Return the message of a request. InvalidRequest, TooLarge."""
    if len(message) > MAX_LOOKUP_BYTES:
        raise TooLarge(f"the {name} has {len(message)} bytes; the limit is {MAX_LOOKUP_BYTES}")
    try:
        return CLASSES[name].FromString(bytes(message))
    except DecodeError:
        raise InvalidRequest(
            f"the bytes of the request are no {name}: encode it with protobuf"
        ) from None


def _of(body: dict[str, object], name: str) -> Message:
    """Return as a message what HTTP answers as JSON."""
    return ParseDict(body, CLASSES[name]())


def _entry(body: dict[str, object], name: str) -> bytes:
    """Return one entry of a list that is the first field of its message."""
    return field(1, _of(body, name).SerializeToString())


def _named(request: Message) -> tuple[ModelName, ModelVersion]:
    return ModelName(request.name), ModelVersion(request.version)
