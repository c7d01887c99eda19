"""The asynchronous client. IO: sockets through `async_transport`."""

from __future__ import annotations

import random
from asyncio import get_running_loop, sleep
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from capamesh.client import asks
from capamesh.client.access import NO_HEADERS, Access, Certificate
from capamesh.client.address import DEFAULT_URL
from capamesh.client.answers import (
    HeldList,
    ModelEntry,
    ModelMetadata,
    Outputs,
)
from capamesh.client.arrays import NO_SPECS, InputValue, needs_specs
from capamesh.client.asks import Ask
from capamesh.client.async_streams import AsyncStreams
from capamesh.client.async_transport import AsyncConnections
from capamesh.client.attempts import Attempts
from capamesh.client.class_scores import NO_CLASSES
from capamesh.client.embeddings import Embeddings, Texts, ask_embeddings
from capamesh.client.failover import Failover, routers_of
from capamesh.client.generation.async_texts import AsyncTexts
from capamesh.client.known_inputs import KnownInputs
from capamesh.client.retries import DEFAULT_RETRIES, Retries
from capamesh.client.routing_options import ANYWHERE, RoutingOptions
from capamesh.client.sequences import AsyncModelSequence, SequenceState
from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.oip import NO_PARAMETERS, Parameters
from capamesh.protocol.tensors import DEFAULT_LIMITS, Limits, TensorSpec

if TYPE_CHECKING:
    from capamesh.client.jobs.async_jobs import AsyncFiles, AsyncJobs

T = TypeVar("T")


class AsyncClient(AsyncStreams, AsyncTexts):
    """A client that sends requests to a router from one event loop; `async with` or `close` ends its connections.

    It uses several routers as `Client` does, and has the same methods.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout_s: float | None = None,
        routing: RoutingOptions = ANYWHERE,
        key: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        ca: str | Path | None = None,
        cert: Certificate | None = None,
        max_connections: int = 100,
        retries: int = DEFAULT_RETRIES,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Make a client, which connects to nothing before its first request.

        Args:
            url: where a router is, or where several are.
            timeout_s: the deadline of inferences that name none.
            routing: what inferences that name none ask of their way.
            key: the key that the router asks for, as its operator gave it out; it is shown in no error.
            headers: what each request to each of the routers has besides its own headers, such as the key that a proxy in front
                asks for: `{"Authorization": "Bearer ..."}`. They are shown in no error.
            ca: the file, as PEM, of the authority that signed the certificate of an https URL; None: those that the system
                trusts.
            cert: the certificate that is shown to a router that asks for one, as PEM: a file that has its key, too, or the
                certificate's file and the key's.
            max_connections: how many requests run at once; more wait for a connection (100 is aiohttp's own default).
            retries: how often an inference is sent again that certainly did not run: where the router refused it and named a time
                after which to come again, which is waited for if the deadline allows, or could not be reached. Beyond the first ten, a
                client sends again one for ten that succeed, so that a router in trouble is not asked much more.
            limits: how much a request and its answer may hold.

        Raises:
            ConfigError: a URL is none, there are too few or too many, or a header, the authority's file or `retries` cannot be used.
        """
        self._failover = Failover(routers_of(url))
        self._timeout_s = timeout_s
        self._routing = routing
        self._specs = KnownInputs()
        self._limits = limits
        self._retries = Retries(retries, random.random)
        self._access = Access(headers, ca, key, cert)
        self._connections = AsyncConnections(self._access, max_connections)

    @override
    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The URL of the router that is asked first now."""
        return self._failover.favourite.url

    @property
    def jobs(self) -> AsyncJobs:
        """The jobs of the client's key: data sets that the router runs a model over, with what its nodes have to spare."""
        from capamesh.client.jobs.async_jobs import AsyncJobs, AsyncTaker  # noqa: PLC0415 - most clients have no job

        return AsyncJobs(AsyncTaker(self._exchange, self._limits))

    @property
    def files(self) -> AsyncFiles:
        """The files that the router keeps for the client's key."""
        from capamesh.client.jobs.async_jobs import AsyncFiles, AsyncTaker  # noqa: PLC0415 - the same

        return AsyncFiles(AsyncTaker(self._exchange, self._limits))

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, InputValue] | InputValue,
        *,
        cast: bool = False,
        version: str = "",
        outputs: Sequence[str] | None = None,
        classes: Mapping[str, int] = NO_CLASSES,
        timeout_s: float | None = None,
        priority: int | None = None,
        parameters: Parameters = NO_PARAMETERS,
        id: str = "",  # noqa: A002 - the protocol's own word
        idempotency_key: str = "",
        is_binary: bool = True,
        routing: RoutingOptions | None = None,
    ) -> Outputs:
        """Run `model` once and return its outputs by name; arguments and errors are those of `Client.infer`."""
        ask = asks.ask_infer(
            model,
            inputs,
            is_cast=cast,
            version=version,
            outputs=outputs,
            classes=classes,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            priority=priority,
            parameters=parameters,
            id=id,
            idempotency_key=idempotency_key,
            is_binary=is_binary,
            routing=self._routing if routing is None else routing,
            specs=await self._specs_for(model, version, inputs, is_cast=cast),
            limits=self._limits,
        )
        try:
            return await self._exchange(ask)
        except InvalidRequest:
            self._specs.forget(model, version)  # it may be another model by now
            raise

    @override
    async def _specs_for(
        self,
        model: str,
        version: str,
        inputs: Mapping[str, InputValue] | InputValue,
        *,
        is_cast: bool,
    ) -> Mapping[str, TensorSpec]:
        """Return the model's inputs where what was given needs them."""
        if not needs_specs(inputs, is_cast=is_cast):
            return NO_SPECS
        known = self._specs.of(model, version)
        if known is not None:
            return known
        return self._specs.learn(await self.metadata(model, version), version)

    async def embed(
        self,
        model: str,
        texts: Texts,
        *,
        dimensions: int | None = None,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
    ) -> Embeddings:
        """Return the embeddings of texts; arguments and errors are those of `Client.embed`."""
        ask = ask_embeddings(
            model,
            texts,
            dimensions=dimensions,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            routing=self._routing if routing is None else routing,
            limits=self._limits,
        )
        return await self._exchange(ask)

    def sequence(
        self,
        model: str,
        *,
        id: int | str | None = None,  # noqa: A002 - the protocol's own word
        cast: bool = False,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        priority: int | None = None,
        routing: RoutingOptions | None = None,
    ) -> AsyncModelSequence:
        """Begin a sequence of requests to a model that remembers; arguments are those of `Client.sequence`."""
        state = SequenceState(
            model,
            id,
            cast=cast,
            version=version,
            outputs=outputs,
            timeout_s=timeout_s,
            priority=priority,
            routing=routing,
        )
        return AsyncModelSequence(self.infer, state)

    async def models(self) -> list[ModelEntry]:
        """Return all model versions of the fleet, those that cannot be run now included."""
        return await self._exchange(asks.ask_models())

    @override
    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Return a model's inputs and outputs; raise `ModelNotFound` where nobody hosts it."""
        return await self._exchange(asks.ask_metadata(model, version))

    async def is_ready(self, model: str | None = None, version: str = "") -> bool:
        """Return whether `model` can be run now; without a name, whether any model can be."""
        return await self._exchange(asks.ask_ready(model, version))

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes of the fleet as this router sees them: the entries of `GET /v1/nodes`."""
        return await self._exchange(asks.ask_nodes())

    async def revoke(self, signed_list: bytes) -> HeldList:
        """Hand an owner's signed revocation list to the router; return which list it holds then."""
        return await self._exchange(asks.ask_revoke(signed_list))

    async def close(self) -> None:
        """Close all connections; requests under way fail. May be called again."""
        await self._connections.close()

    @override
    async def _exchange(self, ask: Ask[T]) -> T:
        loop = get_running_loop()
        attempts = Attempts(ask, self._failover, self._retries, loop.time())
        while True:
            try:
                answer = await self._connections.exchange(
                    attempts.router, attempts.ask, attempts.deadline_s
                )
                return attempts.result(answer)
            except CapameshError as error:
                wait_s = attempts.wait_s(error, loop.time())
                if wait_s is None:
                    raise
            if wait_s:
                await sleep(wait_s)
