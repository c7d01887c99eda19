"""The asynchronous client. IO: sockets through aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, TypeVar

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from typing_extensions import override

from capamesh.client import asks
from capamesh.client.access import NO_HEADERS, Access, Certificate
from capamesh.client.address import DEFAULT_URL
from capamesh.client.answers import (
    Answer,
    HeldList,
    ModelEntry,
    ModelMetadata,
    Outputs,
)
from capamesh.client.arrays import NO_SPECS, InputValue, needs_specs
from capamesh.client.asks import Ask
from capamesh.client.class_scores import NO_CLASSES
from capamesh.client.failover import Failover, is_for_another, none_answered, routers_of
from capamesh.client.known_inputs import KnownInputs
from capamesh.client.routing_options import ANYWHERE, RoutingOptions
from capamesh.protocol.errors import CapameshError, InvalidRequest, LocalError, TooLarge
from capamesh.protocol.oip import NO_PARAMETERS, Parameters
from capamesh.protocol.tensors import DEFAULT_LIMITS, Limits, TensorSpec

T = TypeVar("T")

_JOINED_BYTES = 64 * 1024
"""Bodies up to this size leave in one piece with their header (guess: a copy costs less than a write)."""


class AsyncClient:
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
            limits: how much a request and its answer may hold.

        Raises:
            ConfigError: a URL is none, there are too few or too many, or a header or the authority's file cannot be used.
        """
        self._failover = Failover(routers_of(url))
        self._access = Access(headers, ca, key, cert)
        self._timeout_s = timeout_s
        self._routing = routing
        self._specs = KnownInputs()
        self._max_connections = max_connections
        self._limits = limits
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._is_closed = False

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
        parameters: Parameters = NO_PARAMETERS,
        id: str = "",  # noqa: A002 - the protocol's own word
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
            parameters=parameters,
            id=id,
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

    async def models(self) -> list[ModelEntry]:
        """Return all model versions of the fleet, those that cannot be run now included."""
        return await self._exchange(asks.ask_models())

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
        self._is_closed = True
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def _exchange(self, ask: Ask[T]) -> T:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + ask.wait_s
        errors: list[CapameshError] = []
        for router in self._failover.order(loop.time()):
            try:
                answer = await self._exchange_with(router.url, ask, deadline_s)
            except CapameshError as error:
                errors.append(error)
                if not is_for_another(error, is_repeatable=ask.is_repeatable):
                    break
                self._failover.failed(router, loop.time())
            else:
                self._failover.answered(router)
                return answer
        raise none_answered(errors)

    async def _exchange_with(self, url: str, ask: Ask[T], deadline_s: float) -> T:
        if self._is_closed:
            raise LocalError("this client is closed; make another one")
        way = SimpleNamespace(is_reused=False)
        try:
            async with asyncio.timeout_at(deadline_s):
                try:
                    answer = await self._send(url, ask, way, is_fresh=False)
                except _NothingReadError:
                    if not way.is_reused:
                        raise
                    # the router dropped the connection while it was idle: once more, on a new one
                    answer = await self._send(url, ask, way, is_fresh=True)
        except aiohttp.ConnectionTimeoutError as exc:
            why = f"no connection within {asks.CONNECT_LIMIT_S:g} s"
            raise asks.unreachable(url, why) from exc
        except TimeoutError as exc:
            raise asks.too_late(url, ask) from exc
        except _NothingReadError as exc:
            raise asks.cut_off(url, str(exc)) from exc
        except aiohttp.ClientConnectorCertificateError as exc:
            raise asks.unreachable(url, asks.why_not(exc.certificate_error)) from exc
        except aiohttp.ClientConnectorError as exc:
            why = asks.why_not(exc.os_error)
            raise asks.unreachable(url, why) from exc
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as exc:
            raise asks.cut_off(url, _first_line(exc)) from exc
        except aiohttp.ClientError as exc:
            raise asks.not_http(url, _first_line(exc)) from exc
        return ask.read(answer, url)

    async def _send(
        self, url: str, ask: Ask[Any], way: SimpleNamespace, *, is_fresh: bool
    ) -> Answer:
        is_large = ask.size_bytes > _JOINED_BYTES
        own = {**ask.headers, "Content-Length": str(ask.size_bytes)}
        request = self._session(is_fresh=is_fresh).request(
            ask.method,
            url + ask.path,
            data=_Body(ask.buffers, ask.size_bytes) if is_large else b"".join(ask.buffers),
            headers=self._access.with_own(own),
            ssl=self._access.tls if url.startswith("https:") else True,
            allow_redirects=False,
            trace_request_ctx=way,
        )
        try:
            response = await request
        except aiohttp.ServerDisconnectedError as exc:
            if isinstance(exc.message, str):  # else it holds the part of an answer that came
                raise _NothingReadError("it was closed") from exc
            raise
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ClientConnectionResetError) as exc:
            # A reset while the headers are due; aiohttp does not say whether a part of them was there.
            raise _NothingReadError(exc.strerror or str(exc)) from exc
        async with response:
            body = await _read_body(response, ask.limits.max_message_bytes)
            return Answer.of(response.status, body, response.headers.get)

    def _session(self, *, is_fresh: bool) -> aiohttp.ClientSession:
        """Return the session whose connections are kept, or the one whose connections are always new."""
        session = self._sessions.get(is_fresh)
        if session is None:
            session = self._sessions[is_fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections, force_close=is_fresh),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=asks.CONNECT_LIMIT_S),
                headers={"Accept-Encoding": "identity"},
                trace_configs=[_reuse_trace()],
            )
        return session


class _NothingReadError(Exception):
    """The connection ended before the first byte of an answer."""


def _reuse_trace() -> aiohttp.TraceConfig:
    """Return what marks a request whose connection was used before."""

    async def reused(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        context.trace_request_ctx.is_reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    return trace


class _Body(aiohttp.Payload):
    """The buffers of a large request, written one after the other.

    An answer that comes before the last byte left ends the connection at once: a router that refuses a
    body may never read the rest, and closing in order would wait for it and keep the body.
    """

    def __init__(self, buffers: Sequence[bytes | memoryview], size_bytes: int) -> None:
        super().__init__(buffers)
        self._buffers = buffers
        self._size = size_bytes

    @override
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._buffers).decode(encoding, errors)

    @override
    async def write(self, writer: AbstractStreamWriter) -> None:
        try:
            for buffer in self._buffers:
                await writer.write(buffer)
        except asyncio.CancelledError:
            if writer.transport is not None:
                writer.transport.abort()
            raise


async def _read_body(response: aiohttp.ClientResponse, limit_bytes: int) -> bytearray:
    length = response.content_length
    if length is not None and length > limit_bytes:
        response.close()
        raise TooLarge(
            f"the answer has {length} bytes; the limit is {limit_bytes}: ask for fewer outputs or rows"
        )
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit_bytes:
            response.close()
            raise TooLarge(f"the answer is over the limit of {limit_bytes} bytes")
    return body


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]
