"""Sequences of requests to a model that remembers: their id, first request and last, for both clients. Pure but for ids that it draws."""

from __future__ import annotations

import secrets
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Final, TypeAlias, TypedDict

from typing_extensions import override

from capamesh.client.answers import Outputs
from capamesh.client.arrays import InputValue
from capamesh.client.asks import Unreachable
from capamesh.client.routing_options import RoutingOptions
from capamesh.protocol.errors import (
    CapameshError,
    Forbidden,
    InvalidRequest,
    KeysUnavailable,
    LocalError,
    ModelNotFound,
    NoEndpoint,
    SequenceLost,
    SequenceUnknown,
    Unauthenticated,
    is_refusal,
)

Inputs: TypeAlias = "Mapping[str, InputValue] | InputValue"

ID_BITS: Final = 63
"""The bits of an id that is drawn: a positive number in the 64-bit integers by which models are told it, and never the same twice."""
_NOT_RUN: Final = (
    Forbidden,
    InvalidRequest,
    KeysUnavailable,
    LocalError,
    ModelNotFound,
    NoEndpoint,
    Unauthenticated,
    Unreachable,
)
"""The errors of a request that did not run, besides refusals, so that the state at the node is as it was."""


class Arguments(TypedDict):
    """The arguments of `Client.infer` that all requests of a sequence have."""

    cast: bool
    version: str
    outputs: Sequence[str] | None
    timeout_s: float | None
    priority: int | None
    parameters: dict[str, str | int | float | bool]
    routing: RoutingOptions | None


class SequenceState:
    """A sequence and how far it has come. Pure."""

    def __init__(
        self,
        model: str,
        id: int | str | None,  # noqa: A002 - the protocol's own word
        *,
        cast: bool,
        version: str,
        outputs: Sequence[str] | None,
        timeout_s: float | None,
        priority: int | None,
        routing: RoutingOptions | None,
    ) -> None:
        """Begin one; an `id` of None is drawn."""
        self.model = model
        self.id: int | str = secrets.randbits(ID_BITS) | 1 if id is None else id
        self._arguments = Arguments(
            cast=cast,
            version=version,
            outputs=outputs,
            timeout_s=timeout_s,
            priority=priority,
            parameters={},
            routing=routing,
        )
        self._has_begun = self._has_ended = self._is_lost = self._is_busy = False

    def next(self, *, is_last: bool) -> Arguments:
        """Return the arguments of the next request, which is under way then until `answered` or `failed`.

        Raises:
            InvalidRequest: the one before is not answered yet, or the sequence has ended.
            SequenceLost: a request of it failed that may have run.
        """
        if self._is_busy:
            raise InvalidRequest(
                f"sequence {self.id!r} has a request under way; wait for its answer before the next"
            )
        if self._has_ended:
            raise InvalidRequest(f"sequence {self.id!r} has ended; begin another")
        if self._is_lost:
            raise SequenceLost(
                f"sequence {self.id!r} is lost: a request of it failed that may have changed its state; begin another"
            )
        self._is_busy = True
        parameters: dict[str, str | int | float | bool] = {"sequence_id": self.id}
        if not self._has_begun:
            parameters["sequence_start"] = True
        if is_last:
            parameters["sequence_end"] = True
        self._arguments["parameters"] = parameters
        return self._arguments

    def answered(self, version: str, *, is_last: bool) -> None:
        """Note that the request under way was answered by `version`, to which all others go."""
        self._is_busy = False
        self._has_begun = True
        self._has_ended = self._has_ended or is_last
        self._arguments["version"] = self._arguments["version"] or version

    def failed(self, error: BaseException) -> None:
        """Note that the request under way failed: one that may have run loses the sequence, unless it was the first."""
        self._is_busy = False
        is_kept = isinstance(error, CapameshError) and (
            is_refusal(error)
            or (isinstance(error, _NOT_RUN) and not isinstance(error, SequenceUnknown))
        )
        self._is_lost = self._has_begun and not is_kept

    def end(self) -> None:
        """Take no more requests."""
        self._has_ended = True


class ModelSequence:
    """A sequence of requests to one model, which `Client.sequence` begins.

    The first request starts it, the one with `is_last` ends it, and all of them go to the version that answered the first. Where
    none is the last, the node forgets the sequence when it has been silent for as long as the model's manifest says.
    """

    def __init__(self, infer: Callable[..., Outputs], state: SequenceState) -> None:
        self._infer = infer
        self._state = state

    @override
    def __repr__(self) -> str:
        return f"ModelSequence({self._state.model!r}, id={self.id!r})"

    def __enter__(self) -> ModelSequence:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state.end()

    @property
    def id(self) -> int | str:
        """The id by which the node knows the sequence."""
        return self._state.id

    def infer(self, inputs: Inputs, *, is_last: bool = False) -> Outputs:
        """Run the next request and return its outputs by name, as `Client.infer` does.

        Args:
            inputs: the inputs by name, or the value of the only one, without those that the node keeps.
            is_last: whether the sequence ends with this request, so that its node forgets it.

        Raises:
            InvalidRequest: the request before is under way, the sequence has ended, or the model does not take these inputs.
            SequenceLost: the node was lost, the sequence was silent for too long, or a request of it failed that may have run:
                begin another.
        """
        state = self._state
        arguments = state.next(is_last=is_last)
        try:
            answer = self._infer(state.model, inputs, **arguments)
        except BaseException as error:
            state.failed(error)
            raise
        state.answered(answer.version, is_last=is_last)
        return answer

    def infer_each(self, steps: Iterable[Inputs]) -> Iterator[Outputs]:
        """Yield the outputs of each of `steps`, inputs as `infer` takes them; the last of them ends the sequence.

        A step is sent when the one after it is there, for that tells whether it is the last.
        """
        for inputs, is_last in with_last(steps):
            yield self.infer(inputs, is_last=is_last)


class AsyncModelSequence:
    """A sequence of requests to one model, which `AsyncClient.sequence` begins; it has the methods of `ModelSequence`."""

    def __init__(self, infer: Callable[..., Awaitable[Outputs]], state: SequenceState) -> None:
        self._infer = infer
        self._state = state

    @override
    def __repr__(self) -> str:
        return f"AsyncModelSequence({self._state.model!r}, id={self.id!r})"

    async def __aenter__(self) -> AsyncModelSequence:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state.end()

    @property
    def id(self) -> int | str:
        """The id by which the node knows the sequence."""
        return self._state.id

    async def infer(self, inputs: Inputs, *, is_last: bool = False) -> Outputs:
        """Run the next request and return its outputs by name; arguments and errors are those of `ModelSequence.infer`."""
        state = self._state
        arguments = state.next(is_last=is_last)
        try:
            answer = await self._infer(state.model, inputs, **arguments)
        except BaseException as error:
            state.failed(error)
            raise
        state.answered(answer.version, is_last=is_last)
        return answer

    async def infer_each(
        self, steps: Iterable[Inputs] | AsyncIterable[Inputs]
    ) -> AsyncIterator[Outputs]:
        """Yield the outputs of each of `steps`, as `ModelSequence.infer_each` does; they may come one by one, too."""
        if isinstance(steps, AsyncIterable):
            ahead: list[Inputs] = []
            async for inputs in steps:
                ahead.append(inputs)
                if len(ahead) > 1:
                    yield await self.infer(ahead.pop(0))
            for inputs in ahead:
                yield await self.infer(inputs, is_last=True)
            return
        for inputs, is_last in with_last(steps):
            yield await self.infer(inputs, is_last=is_last)


def with_last(steps: Iterable[Inputs]) -> Iterator[tuple[Inputs, bool]]:
    """Yield each of `steps` with whether it is the last."""
    ahead: list[Inputs] = []
    for inputs in steps:
        ahead.append(inputs)
        if len(ahead) > 1:
            yield ahead.pop(0), False
    for inputs in ahead:
        yield inputs, True
