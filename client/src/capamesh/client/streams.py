"""The streams of a client: what is sent on one, how many answers are due behind it, and how they are read. Pure.

Both clients take turns: they send one thing, read the answers that are due, and only then look for the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from typing_extensions import override

from capamesh.client import asks
from capamesh.client.answers import Answer, Outputs, failure_of
from capamesh.client.arrays import arrays_of
from capamesh.client.sample_slices import SampleSlices
from capamesh.protocol.errors import CapameshError, DeadlineExceeded
from capamesh.protocol.oip import decode_response

if TYPE_CHECKING:
    from capamesh.client.address import RouterAddress
    from capamesh.client.answers import ModelMetadata
    from capamesh.client.arrays import InputValue
    from capamesh.client.asks import Ask
    from capamesh.client.routing_options import RoutingOptions
    from capamesh.client.stream_wire import StreamWire
    from capamesh.protocol.tensors import Limits

T = TypeVar("T")

FINAL: Final = "triton_final_response"
"""The parameter that is false on each part of an answer but the last."""

OnError: TypeAlias = Callable[[CapameshError], None]
"""The callback that is told of requests that failed while their stream goes on."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message, and what is to be read behind it."""

    data: bytes
    due: int
    """The number of answers."""
    read: Callable[[Answer, str], Outputs]
    is_repeatable: bool = False
    """True if it may be sent again where it was refused."""


class StreamPlan(ABC, Generic[T]):
    """One stream, before and while it is open."""

    def __init__(
        self, ask: Ask[Outputs], query: Mapping[str, str], on_error: OnError | None
    ) -> None:
        """`ask` is as `ask_stream` makes it; `on_error` None: the first error ends the stream."""
        self._ask = ask
        self.query = dict(query)
        """The query by which it is opened."""
        self._on_error = on_error
        self.answered = 0
        """The requests that were answered well."""

    @property
    def path(self) -> str:
        """Return the path by which it is opened."""
        return self._ask.path

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers of the request that opens it."""
        return self._ask.headers

    @property
    def wait_s(self) -> float:
        """Return how long an answer may take."""
        return self._ask.wait_s

    @property
    def most_bytes(self) -> int:
        """Return the most bytes of an answer."""
        return self._ask.limits.max_message_bytes

    @abstractmethod
    def turns(self, wire: StreamWire, item: T) -> Iterator[Turn]:
        """Yield the turns for the next thing that is to be sent."""

    def failed(self, error: CapameshError) -> None:
        """Tell of a request that failed; raise its error where nobody is to be told."""
        if self._on_error is None:
            raise error
        self._on_error(error)

    def is_last(self, outputs: Outputs) -> bool:
        """Return whether no more of the same answer follows."""
        del outputs
        return True

    def last(self, answer: Answer, url: str) -> Outputs | None:
        """Return what an answer behind the end of the input has; None: it is an error, of which was told, else raised."""
        try:
            outputs = self._ask.read(answer, url)
        except CapameshError as error:
            self.failed(error)
            return None
        self.answered += 1
        return outputs

    def too_late(self, url: str) -> DeadlineExceeded:
        """Return the error for a router that is silent."""
        return asks.too_late(url, self._ask)


class RequestStream(StreamPlan["Ask[Outputs]"]):
    """A stream of whole requests, as they would be alone."""

    def __init__(
        self, ask: Ask[Outputs], on_error: OnError | None, *, takes_parts: bool = False
    ) -> None:
        """`ask` opens it; with `takes_parts` an answer may be several, of which each but the last says so."""
        query = {"messages": "requests", **({"parts": "1"} if takes_parts else {})}
        super().__init__(ask, query, on_error)

    @override
    def turns(self, wire: StreamWire, item: Ask[Outputs]) -> Iterator[Turn]:
        data = wire.request(item.buffers, item.headers)
        yield Turn(data, 1, item.read, is_repeatable=True)

    @override
    def is_last(self, outputs: Outputs) -> bool:
        return outputs.parameters.get(FINAL) is not False


class EmptyStream(StreamPlan["InputValue"]):
    """A stream of no samples, which has its model loaded where that is away, and says why that cannot be."""

    def __init__(self, ask: Ask[Outputs]) -> None:
        super().__init__(ask, {"messages": "samples"}, None)

    @override
    def turns(self, wire: StreamWire, item: InputValue) -> Iterator[Turn]:
        return iter(())


class SampleStream(StreamPlan["InputValue"]):
    """A stream of samples."""

    def __init__(
        self,
        metadata: ModelMetadata,
        ask: Ask[Outputs],
        on_error: OnError | None,
        *,
        timeout_s: float | None = None,
        priority: int | None = None,
    ) -> None:
        """`metadata` are of the model, whose windows they become; each may take `timeout_s`, at a `priority`."""
        query = {"messages": "samples", "binary": "1"}
        if timeout_s is not None:
            query["timeout"] = str(max(1, round(timeout_s * 1e6)))
        if priority is not None:
            query["priority"] = str(priority)
        super().__init__(ask, query, on_error)
        self._slices = SampleSlices(metadata)

    @override
    def turns(self, wire: StreamWire, item: InputValue) -> Iterator[Turn]:
        told = self._slices.windows
        for part in self._slices.of(item):
            windows = self._slices.windows
            yield Turn(wire.samples(part), windows - told, self._ask.read)
            told = windows


def host_of(router: RouterAddress) -> str:
    """Return a router's place as the header Host has it."""
    host = f"[{router.host}]" if ":" in router.host else router.host
    return f"{host}:{router.port}"


def ask_stream(
    model: str,
    version: str,
    *,
    timeout_s: float | None,
    routing: RoutingOptions,
    limits: Limits,
) -> Ask[Outputs]:
    """Return the request that opens a stream, by which answers are read that no request of its own has another way for."""

    def read(answer: Answer, url: str) -> Outputs:
        if answer.status != 200:
            raise failure_of(answer, url)
        header_length = None if answer.header_length is None else int(answer.header_length)
        response = decode_response(answer.body, header_length, limits)
        return Outputs(
            arrays_of(response.outputs),
            version=response.version,
            router=url,
            id=response.id,
            model=response.model,
            parameters=response.parameters,
        )

    wait_s = asks.UNASKED_WAIT_S if timeout_s is None else timeout_s + asks.GRACE_S
    path = f"{asks.ask_metadata(model, version).path}/stream"
    return asks.Ask("GET", path, read, wait_s, headers=routing.headers(), limits=limits)
