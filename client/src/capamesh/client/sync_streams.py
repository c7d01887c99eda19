"""The streams of the synchronous client. IO: that of `sync_stream`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class SyncStreams(ABC):
    """The methods of a client by which a model is asked again and again on one connection."""

    _failover: Failover
    _retries: Retries
    _access: Access
    _timeout_s: float | None
    _routing: RoutingOptions
    _limits: Limits

    def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, InputValue] | InputValue],
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
    ) -> Iterator[Outputs]:
        """Run `model` on each of `inputs` over one connection, and yield the outputs in their order.

        The next inputs are looked for when the answer to those before was taken, so that they may depend on it, and a router hangs
        up on a client that is silent for 40 s.

        Args:
            model: the model's name.
            inputs: the inputs of one request each, as `infer` takes them.
            cast: as for `infer`, as are the next ones, for each request.
            version: the version to run; empty: the one that the router chooses.
            outputs: the names of the outputs to return; None: all, or those of `classes`.
            classes: outputs of which the classes with the largest scores are wanted.
            timeout_s: the deadline of each request.
            parameters: the parameters of each request; a model that remembers has the stream as one sequence, of itself.
            is_binary: whether tensors travel as bytes.
            parts: whether the parts of an answer are yielded one by one, from a model that answers in parts; then
                `parameters["triton_final_response"]` is true of the last one of each answer.
            routing: who may run the requests.
            on_error: called with the error of a request that failed, and the stream goes on; None: the first error is raised.

        Raises:
            CapameshError: as `infer`; of all requests where `on_error` is None, else those that end the stream.
            LinkLost: the router cannot be reached, or the connection to it broke. What was sent is not sent again; only a request
                that was refused is, and the opening of the stream, as by `infer`.
        """
        from capamesh.client import streams, sync_stream  # noqa: PLC0415 - wsproto is read in where it is used

        def asked(item: Mapping[str, InputValue] | InputValue) -> Ask[Outputs]:
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
                specs=self._specs_for(model, version, item, is_cast=cast),
                limits=self._limits,
            )

        common = streams.ask_stream(
            model,
            version,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            routing=self._routing if routing is None else routing,
            limits=self._limits,
        )
        plan = streams.RequestStream(common, on_error, takes_parts=parts)
        return sync_stream.streamed(
            self._failover, self._retries, self._access, plan, map(asked, inputs)
        )

    def stream_samples(
        self,
        model: str,
        samples: Iterable[InputValue],
        *,
        version: str = "",
        timeout_s: float | None = None,
        priority: int | None = None,
        routing: RoutingOptions | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[Outputs]:
        """Send `samples` to a model that takes them in windows, and yield the outputs of each window in their order.

        Each of `samples` is an array of any length, such as 10 ms of sound, or its raw bytes; windows go on from one to the next. The
        next is looked for when the outputs of all windows before were taken. At the end zeros fill the last window. A model that is away
        for want of memory is loaded first.

        Args:
            model: the name of a model whose manifest declares a window; `metadata` tells it.
            samples: arrays of the input's dtype, or of one that converts to it without a change of meaning; whole numbers are not
                scaled.
            version: the version to run; empty: the one that the router chooses.
            timeout_s: the deadline of each window.
            priority: 1 goes first, 255 last.
            routing: who may run the windows.
            on_error: called with the error of a window that failed, and the stream goes on with the next, from a new state; None:
                the first error is raised.

        Raises:
            InvalidRequest: the model takes no samples, or not such.
            CapameshError: as `infer`, of a window where `on_error` is None, else what ends the stream.
            LinkLost: the router cannot be reached, the connection to it broke, or two windows in a row failed.
        """
        from capamesh.client import streams, sync_stream  # noqa: PLC0415 - wsproto is read in where it is used

        ask = streams.ask_stream(
            model,
            version,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            routing=self._routing if routing is None else routing,
            limits=self._limits,
        )
        try:
            metadata = self.metadata(model, version)
        except ModelUnavailable:
            empty = streams.EmptyStream(ask)
            list(sync_stream.streamed(self._failover, self._retries, self._access, empty, ()))
            metadata = self.metadata(model, version)
        plan = streams.SampleStream(
            metadata,
            ask,
            on_error,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            priority=priority,
        )
        return sync_stream.streamed(self._failover, self._retries, self._access, plan, samples)

    @abstractmethod
    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Return a model's inputs and outputs; raise `ModelNotFound` where nobody hosts it."""

    @abstractmethod
    def _specs_for(
        self,
        model: str,
        version: str,
        inputs: Mapping[str, InputValue] | InputValue,
        *,
        is_cast: bool,
    ) -> Mapping[str, TensorSpec]:
        """Return the model's inputs where what was given needs them."""
