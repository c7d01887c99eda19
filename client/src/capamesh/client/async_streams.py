"""The streams of the asynchronous client. IO: that of `async_stream`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from capamesh.client import asks
from capamesh.client.arrays import InputValue
from capamesh.client.class_scores import NO_CLASSES
from capamesh.client.routing_options import RoutingOptions
from capamesh.protocol.errors import ModelUnavailable
from capamesh.protocol.oip import NO_PARAMETERS, Parameters

if TYPE_CHECKING:
    from capamesh.client.access import Access
    from capamesh.client.answers import ModelMetadata, Outputs
    from capamesh.client.asks import Ask
    from capamesh.client.failover import Failover
    from capamesh.client.retries import Retries
    from capamesh.client.streams import OnError
    from capamesh.protocol.tensors import Limits, TensorSpec


class AsyncStreams(ABC):
    """The methods of a client by which a model is asked again and again on one connection."""

    _failover: Failover
    _retries: Retries
    _access: Access
    _timeout_s: float | None
    _routing: RoutingOptions
    _limits: Limits

    async def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, InputValue] | InputValue]
        | AsyncIterable[Mapping[str, InputValue] | InputValue],
        *,
        cast: bool = False,
        version: str = "",
        outputs: Sequence[str] | None = None,
        classes: Mapping[str, int] = NO_CLASSES,
        timeout_s: float | None = None,
        parameters: Parameters = NO_PARAMETERS,
        is_binary: bool = True,
        parts: bool = False,
        routing: RoutingOptions | None = None,
        on_error: OnError | None = None,
    ) -> AsyncIterator[Outputs]:
        """Run `model` on each of `inputs` over one connection, and yield the outputs in their order.

        Arguments and errors are those of `Client.stream`; `inputs` may be an asynchronous iterable, and pings are answered while it waits.
        """
        from capamesh.client import async_stream, streams  # noqa: PLC0415 - wsproto is read in where it is used

        async def asked(item: Mapping[str, InputValue] | InputValue) -> Ask[Outputs]:
            return asks.ask_infer(
                model,
                item,
                is_cast=cast,
                version=version,
                outputs=outputs,
                classes=classes,
                timeout_s=self._timeout_s if timeout_s is None else timeout_s,
                parameters=parameters,
                is_binary=is_binary,
                routing=self._routing if routing is None else routing,
                specs=await self._specs_for(model, version, item, is_cast=cast),
                limits=self._limits,
            )

        async def all_asked() -> AsyncIterator[Ask[Outputs]]:
            async for item in async_stream.each_of(inputs):
                yield await asked(item)

        common = streams.ask_stream(
            model,
            version,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            routing=self._routing if routing is None else routing,
            limits=self._limits,
        )
        plan = streams.RequestStream(common, on_error, takes_parts=parts)
        async for answer in async_stream.streamed(
            self._failover, self._retries, self._access, plan, all_asked()
        ):
            yield answer

    async def stream_samples(
        self,
        model: str,
        samples: Iterable[InputValue] | AsyncIterable[InputValue],
        *,
        version: str = "",
        timeout_s: float | None = None,
        priority: int | None = None,
        routing: RoutingOptions | None = None,
        on_error: OnError | None = None,
    ) -> AsyncIterator[Outputs]:
        """Send `samples` to a model that takes them in windows, and yield the outputs of each window in their order.

        Arguments and errors are those of `Client.stream_samples`; `samples` may be an asynchronous iterable.
        """
        from capamesh.client import async_stream, streams  # noqa: PLC0415 - wsproto is read in where it is used

        ask = streams.ask_stream(
            model,
            version,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            routing=self._routing if routing is None else routing,
            limits=self._limits,
        )
        try:
            metadata = await self.metadata(model, version)
        except ModelUnavailable:
            empty = streams.EmptyStream(ask)
            async for _ in async_stream.streamed(
                self._failover, self._retries, self._access, empty, ()
            ):
                pass
            metadata = await self.metadata(model, version)
        plan = streams.SampleStream(
            metadata,
            ask,
            on_error,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            priority=priority,
        )
        async for answer in async_stream.streamed(
            self._failover, self._retries, self._access, plan, samples
        ):
            yield answer

    @abstractmethod
    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Return a model's inputs and outputs; raise `ModelNotFound` where nobody hosts it."""

    @abstractmethod
    async def _specs_for(
        self,
        model: str,
        version: str,
        inputs: Mapping[str, InputValue] | InputValue,
        *,
        is_cast: bool,
    ) -> Mapping[str, TensorSpec]:
        """Return the model's inputs where what was given needs them."""
