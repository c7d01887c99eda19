"""gRPC's health service: the state of the router or of a model, once or for as long as a client watches. IO: timers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    Draining,
    ModelNotFound,
    Overloaded,
    Unauthenticated,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.grpc.exchange import GrpcReply, OnReply, error_reply
from capamesh.router.grpc.lookups import Running, read_message
from capamesh.router.grpc.messages import CLASSES, Message

if TYPE_CHECKING:
    from collections.abc import Collection

    from capamesh.router.grpc.exchange import GrpcInference
    from capamesh.router.http.front_context import FrontContext
    from capamesh.router.requests.model_descriptions import ModelDescriptions

HEALTH: Final = "grpc.health.v1.Health"
LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks at what is watched (guess: load balancers ask every few seconds)."""
MOST_WATCHES: Final = 1000
"""The most watches of one router at a time (guess: a load balancer holds one for each of its processes)."""
_SERVING: Final = 1
_NOT_SERVING: Final = 2
_UNKNOWN: Final = 3


class Health:
    """The health of one router and of its models."""

    def __init__(
        self,
        grpc: GrpcInference,
        descriptions: ModelDescriptions,
        front: FrontContext,
        services: Collection[str],
    ) -> None:
        """`services` are those that are as healthy as the router."""
        self._grpc = grpc
        self._descriptions = descriptions
        self._front = front
        self._services = frozenset(services) | {"", HEALTH}
        self._watches: dict[HealthWatch, int] = {}
        """The watches and the state that each was told last."""
        self._is_timer_set = False

    def __len__(self) -> int:
        """Return how many watches there are."""
        return len(self._watches)

    def check(self, request: Message) -> Message:
        """Return the state of a service or a model. Raises `ModelNotFound`, `ModelUnavailable` or `Unauthenticated`."""
        self._refuse_strangers(request.service)
        return CLASSES["HealthCheckResponse"](status=self._state(request.service))

    def watch(self, on_reply: OnReply) -> HealthWatch:
        """Return a watch, which tells `on_reply` of the first state and then of each other one."""
        return HealthWatch(self, on_reply)

    def begin(self, watch: HealthWatch) -> None:
        """Tell a watch of the first state, and look again from time to time. Raises `Unauthenticated` or `Overloaded`."""
        self._refuse_strangers(watch.service)
        if len(self._watches) >= MOST_WATCHES:
            raise Overloaded(
                f"the health is watched by {MOST_WATCHES} clients, which is the limit; ask with Check instead",
                10.0,
            )
        self._watches[watch] = state = self._state_or_unknown(watch.service)
        watch.tell(state)
        self._wind()

    def end(self, watch: HealthWatch) -> None:
        """Forget a watch. Nothing happens when it is over."""
        self._watches.pop(watch, None)

    def _wind(self) -> None:
        if self._watches and not self._is_timer_set:
            self._is_timer_set = True
            self._front.after(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """Tell the watches whose state is another now; end them all where the router is to stop."""
        self._is_timer_set = False
        if self._front.requests.is_closing:
            for watch in [*self._watches]:
                watch.fail(Draining("this router stops; ask another"))
            return
        states: dict[str, int] = {}
        for watch, before in [*self._watches.items()]:
            try:
                self._refuse_strangers(watch.service)  # there may be keys by now
            except Unauthenticated as error:
                watch.fail(error.with_traceback(None))
                continue
            state = states.get(watch.service)
            if state is None:
                state = states[watch.service] = self._state_or_unknown(watch.service)
            if state != before and watch in self._watches:
                self._watches[watch] = state
                watch.tell(state)
        self._wind()

    def _refuse_strangers(self, service: str) -> None:
        if service not in self._services and self._grpc.inference.ring.is_required:
            raise Unauthenticated("the health of a model takes a key: ask ModelReady with yours")

    def _state_or_unknown(self, service: str) -> int:
        try:
            return self._state(service)
        except ModelNotFound:
            return _UNKNOWN
        except CapameshError:  # it is known, and nobody can run it
            return _NOT_SERVING

    def _state(self, service: str) -> int:
        if service in self._services:
            is_ready = self._descriptions.is_ready()
        else:  # a model by its name
            is_ready = self._descriptions.is_model_ready(ModelName(service), ModelVersion(""))
        return _SERVING if is_ready else _NOT_SERVING


class HealthWatch(Running):
    """One watch of a client."""

    __slots__ = ("_health", "_on_reply", "service")

    def __init__(self, health: Health, on_reply: OnReply) -> None:
        self._health = health
        self._on_reply: OnReply | None = on_reply
        self.service = ""

    @override
    def begin(self, message: memoryview) -> None:
        try:
            self.service = read_message("HealthCheckRequest", message).service
            self._health.begin(self)
        except CapameshError as error:
            self.fail(error.with_traceback(None))

    @override
    def cancel(self) -> None:
        self._on_reply = None
        self._health.end(self)

    def tell(self, state: int) -> None:
        """Tell the client of a state."""
        if self._on_reply is not None:
            told = CLASSES["HealthCheckResponse"](status=state).SerializeToString()
            self._on_reply(GrpcReply((told,), is_last=False))

    def fail(self, error: CapameshError) -> None:
        """End with an error."""
        on_reply, self._on_reply = self._on_reply, None
        self._health.end(self)
        if on_reply is not None:
            on_reply(error_reply(error))
