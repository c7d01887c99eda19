"""The synchronous client. IO: sockets through `http.client`.

Why `http.client` and a pool of kept-alive connections, not the asynchronous client on a loop of its own:
it needs no loop and no thread, so it works the same in a script, in any thread, and in a notebook whose
loop runs already; nothing must be shut down for the interpreter to exit; and it imports in a fraction of the time.
A thread takes a connection from the pool for one request at a time, so threads never share one.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import override

from capamesh.client import asks
from capamesh.client.access import NO_HEADERS, Access, Certificate
from capamesh.client.address import DEFAULT_URL, RouterAddress
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

_READ_BYTES = 256 * 1024
"""Read at a time, between looks at the clock (guess: what a socket's buffer holds)."""


class Client:
    """A client that sends requests to a router. Threads may share it; `with` or `close` ends its connections.

    Of several routers it keeps to one. When that one cannot be reached, is no member of its network any more or reaches no
    node, the next one is asked the same, and the one that failed is asked last for some seconds.
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
            limits: how much a request and its answer may hold.

        Raises:
            ConfigError: a URL is none, there are too few or too many, or a header or the authority's file cannot be used.
        """
        self._failover = Failover(routers_of(url))
        self._access = Access(headers, ca, key, cert)
        self._timeout_s = timeout_s
        self._routing = routing
        self._limits = limits
        self._specs = KnownInputs()
        self._idle: dict[RouterAddress, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    @override
    def __repr__(self) -> str:
        idle = sum(map(len, self._idle.values()))
        return f"Client({self.url!r}, {idle} idle connections)"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL of the router that is asked first now."""
        return self._failover.favourite.url

    def infer(
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
        """Run `model` once and return its outputs by name, as read-only arrays.

        An output of BF16 comes as float32, one of BYTES as an array of `bytes` objects.

        Args:
            model: the model's name.
            inputs: the inputs by name, or the value of the only one. An array has the model's own dtype and shape; numbers in
                (nested) lists take both from the model's metadata, which is asked for once, and leading dimensions of 1 may be
                left out; `str` and `bytes` in lists are BYTES; BF16 needs a `Tensor`, or `cast`.
            cast: whether arrays are converted to the model's dtypes. Numbers that these cannot hold are refused; floats are
                rounded.
            version: the version to run; empty: the one that the router chooses.
            outputs: the names of the outputs to return; None: all, or those of `classes`.
            classes: outputs of which the classes with the largest scores are wanted, with how many of each row:
                `{"probabilities": 3}`. They come in `Outputs.classes`, with the names that the model's node has for them; their
                arrays are of the texts `score:index:label`.
            timeout_s: the deadline, which router and node keep too.
            parameters: the protocol's parameters, such as `{"priority": 1}` or a sequence's `sequence_id`.
            id: a text that comes back with the answer and marks the request in logs.
            is_binary: whether tensors travel as bytes; as JSON they can hold neither NaN nor infinities.
            routing: who may run the request and how one of them is chosen, and whether the answer says why.

        Raises:
            InvalidRequest: the model does not take these inputs, or an argument is wrong.
            ModelNotFound: nobody hosts the model, or this version of it.
            DeadlineExceeded: `timeout_s` has passed.
            Overloaded, NoEndpoint, ModelUnavailable: nobody can run it now; their `retry_after_s` says when to ask again.
            RunFailed: the model failed with these inputs.
            TooLarge: the request or its answer is over `limits`, or over the router's.
            LinkLost: the router cannot be reached, or the connection to it broke.
        """
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
            specs=self._specs_for(model, version, inputs, is_cast=cast),
            limits=self._limits,
        )
        try:
            return self._exchange(ask)
        except InvalidRequest:
            self._specs.forget(model, version)  # it may be another model by now
            raise

    def _specs_for(
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
        return (
            known
            if known is not None
            else self._specs.learn(self.metadata(model, version), version)
        )

    def models(self) -> list[ModelEntry]:
        """Return all model versions of the fleet, those that cannot be run now included."""
        return self._exchange(asks.ask_models())

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Return a model's inputs and outputs; raise `ModelNotFound` where nobody hosts it."""
        return self._exchange(asks.ask_metadata(model, version))

    def is_ready(self, model: str | None = None, version: str = "") -> bool:
        """Return whether `model` can be run now; without a name, whether any model can be."""
        return self._exchange(asks.ask_ready(model, version))

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes of the fleet as this router sees them: the entries of `GET /v1/nodes`."""
        return self._exchange(asks.ask_nodes())

    def revoke(self, signed_list: bytes) -> HeldList:
        """Hand an owner's signed revocation list to the router; return which list it holds then."""
        return self._exchange(asks.ask_revoke(signed_list))

    def close(self) -> None:
        """Close the idle connections; requests under way end by themselves. May be called again."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _exchange(self, ask: Ask[T]) -> T:
        deadline_s = time.monotonic() + ask.wait_s
        errors: list[CapameshError] = []
        for router in self._failover.order(time.monotonic()):
            try:
                answer = self._exchange_with(router, ask, deadline_s)
            except CapameshError as error:
                errors.append(error)
                if not is_for_another(error, is_repeatable=ask.is_repeatable):
                    break
                self._failover.failed(router, time.monotonic())
            else:
                self._failover.answered(router)
                return answer
        raise none_answered(errors)

    def _exchange_with(self, router: RouterAddress, ask: Ask[T], deadline_s: float) -> T:
        with self._lock:
            if self._is_closed:
                raise LocalError("this client is closed; make another one")
            idle = self._idle.get(router)
            kept = idle.pop() if idle else None
        try:
            if kept is not None:
                try:
                    return ask.read(self._send(router, kept, ask, deadline_s), router.url)
                except _NothingReadError:
                    pass  # the router dropped it while it was idle: once more, on a new one
            fresh = self._connect(router, ask, deadline_s)
            return ask.read(self._send(router, fresh, ask, deadline_s), router.url)
        except TimeoutError as exc:
            raise asks.too_late(router.url, ask) from exc
        except _NothingReadError as exc:
            raise asks.cut_off(router.url, str(exc)) from exc
        except http.client.IncompleteRead as exc:
            raise asks.cut_off(router.url, "it was closed") from exc
        except http.client.HTTPException as exc:
            raise asks.not_http(router.url, repr(exc)) from exc
        except OSError as exc:
            raise asks.cut_off(router.url, exc.strerror or repr(exc)) from exc

    def _connect(
        self, address: RouterAddress, ask: Ask[Any], deadline_s: float
    ) -> http.client.HTTPConnection:
        left_s = _left_s(deadline_s)
        limit_s = min(asks.CONNECT_LIMIT_S, left_s)
        if address.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                address.host, address.port, timeout=limit_s, context=self._access.tls
            )
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=limit_s)
        connection.response_class = _Response
        try:
            connection.connect()
        except OSError as exc:
            connection.close()
            if isinstance(exc, TimeoutError):
                if limit_s == left_s:
                    raise asks.too_late(address.url, ask) from exc
                why = f"no connection within {limit_s:g} s"
            else:
                why = asks.why_not(exc)
            raise asks.unreachable(address.url, why) from exc
        return connection

    def _send(
        self,
        router: RouterAddress,
        connection: http.client.HTTPConnection,
        ask: Ask[Any],
        deadline_s: float,
    ) -> Answer:
        """Return the answer; the connection goes back to the pool, or is closed on any failure."""
        is_reusable = False
        try:
            sock: socket.socket = connection.sock
            sock.settimeout(_left_s(deadline_s))
            own = {**ask.headers, "Content-Length": str(ask.size_bytes)}
            headers = self._access.with_own(own)
            # A router that refuses a body may have answered before it closed.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(ask.method, router.prefix + ask.path, ask.buffers, headers)
            sock.settimeout(_left_s(deadline_s))
            response = connection.getresponse()
            body = _read_body(response, sock, deadline_s, ask.limits.max_message_bytes)
            answer = Answer.of(response.status, body, response.getheader)
            is_reusable = not response.will_close
        finally:
            if is_reusable:
                self._give_back(router, connection)
            else:
                connection.close()
        return answer

    def _give_back(self, router: RouterAddress, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.setdefault(router, []).append(connection)
                return
        connection.close()


class _NothingReadError(Exception):
    """The connection ended before the first byte of an answer."""


class _Response(http.client.HTTPResponse):
    """An answer that tells a connection without any answer from one that breaks in the middle of it."""

    @override
    def begin(self) -> None:
        try:
            first = self.fp.peek(1)
        except TimeoutError:
            raise
        except OSError as exc:
            raise _NothingReadError(exc.strerror or repr(exc)) from exc
        if not first:
            raise _NothingReadError("it was closed")
        super().begin()


def _read_body(
    response: http.client.HTTPResponse, sock: socket.socket, deadline_s: float, limit_bytes: int
) -> bytearray:
    length = response.length
    if length is not None and length > limit_bytes:
        raise TooLarge(
            f"the answer has {length} bytes; the limit is {limit_bytes}: ask for fewer outputs or rows"
        )
    body = bytearray()
    while len(body) != length:
        sock.settimeout(_left_s(deadline_s))
        chunk = response.read1(_READ_BYTES)
        if not chunk:
            break
        body += chunk
        if len(body) > limit_bytes:
            raise TooLarge(f"the answer is over the limit of {limit_bytes} bytes")
    if length is not None and len(body) != length:
        raise http.client.IncompleteRead(b"", length - len(body))
    response.close()  # before Python 3.12, `read1` leaves it open and the connection busy
    return body


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
