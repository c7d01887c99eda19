"""The synchronous client. IO: sockets through `sync_transport`.

Why `http.client` and a pool of kept-alive connections, not the asynchronous client on a loop of its own:
it needs no loop and no thread, so it works the same in a script, in any thread, and in a notebook whose
loop runs already; nothing must be shut down for the interpreter to exit; and it imports in a fraction of the time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
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
from capamesh.client.attempts import Attempts
from capamesh.client.class_scores import NO_CLASSES
from capamesh.client.embeddings import Embeddings, Texts, ask_embeddings
from capamesh.client.failover import Failover, routers_of
from capamesh.client.generation.sync_texts import SyncTexts
from capamesh.client.known_inputs import KnownInputs
from capamesh.client.retries import DEFAULT_RETRIES, Retries
from capamesh.client.routing_options import ANYWHERE, RoutingOptions
from capamesh.client.sequences import ModelSequence, SequenceState
from capamesh.client.sync_streams import SyncStreams
from capamesh.client.sync_transport import Connections
from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.oip import NO_PARAMETERS, Parameters
from capamesh.protocol.tensors import DEFAULT_LIMITS, Limits, TensorSpec

if TYPE_CHECKING:
    from capamesh.client.jobs.sync_jobs import Files, Jobs

T = TypeVar("T")


class Client(SyncStreams, SyncTexts):
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
        self._limits = limits
        self._specs = KnownInputs()
        self._retries = Retries(retries, random.random)
        self._access = Access(headers, ca, key, cert)
        self._connections = Connections(self._access)

    @override
    def __repr__(self) -> str:
        return f"Client({self.url!r}, {self._connections.idle} idle connections)"

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

    @property
    def jobs(self) -> Jobs:
        """The jobs of the client's key: data sets that the router runs a model over, with what its nodes have to spare."""
        from capamesh.client.jobs.sync_jobs import Jobs, Taker  # noqa: PLC0415 - most clients have no job

        return Jobs(Taker(self._exchange, self._limits))

    @property
    def files(self) -> Files:
        """The files that the router keeps for the client's key."""
        from capamesh.client.jobs.sync_jobs import Files, Taker  # noqa: PLC0415 - the same

        return Files(Taker(self._exchange, self._limits))

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
        priority: int | None = None,
        parameters: Parameters = NO_PARAMETERS,
        id: str = "",  # noqa: A002 - the protocol's own word
        idempotency_key: str = "",
        is_binary: bool = True,
        routing: RoutingOptions | None = None,
    ) -> Outputs:
        """Run `model` once and return its outputs by name, as arrays.

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
            timeout_s: the deadline, which router and node keep too, and which retries do not make longer.
            priority: 1 goes first where there is too much to do, 255 last; None: 128.
            parameters: other parameters of the protocol, such as `{"sequence_id": 7}`; see `sequence` for those of sequences.
            id: a text that comes back with the answer and marks the request in logs.
            idempotency_key: a text of which the caller makes one for each thing to be done, such as `str(uuid.uuid4())`: of two
                requests with it a router runs one, and both have its answer. With it a request is sent again also where the
                connection broke before its answer came.
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
            priority=priority,
            parameters=parameters,
            id=id,
            idempotency_key=idempotency_key,
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

    @override
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

    def embed(
        self,
        model: str,
        texts: Texts,
        *,
        dimensions: int | None = None,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
    ) -> Embeddings:
        """Return the embeddings of texts: one vector for each, as `POST /v1/embeddings` gives them.

        Many texts become several requests inside of the network, which nodes run side by side.

        Args:
            model: the name of a model for text embedding.
            texts: a text, several, or several as the numbers of their tokens; a router takes 2,048 at once.
            dimensions: the length of the vectors, where the model has a choice; None: its own.
            timeout_s: how long to wait; None: what the client was made with. The router is not told.
            routing: who may run the request, and how one of them is chosen.

        Raises:
            InvalidRequest: the model is not for text embedding, or does not take these texts.
            ModelNotFound: nobody hosts the model.
            DeadlineExceeded: `timeout_s` has passed.
            Overloaded, NoEndpoint, ModelUnavailable: nobody can run it now; their `retry_after_s` says when to ask again.
            TooLarge: there are more texts, or longer ones, than the router takes at once.
            LinkLost: the router cannot be reached, or the connection to it broke.
        """
        ask = ask_embeddings(
            model,
            texts,
            dimensions=dimensions,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            routing=self._routing if routing is None else routing,
            limits=self._limits,
        )
        return self._exchange(ask)

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
    ) -> ModelSequence:
        """Begin a sequence of requests to a model that remembers; nothing is sent before its first request.

        Args:
            model: the model's name.
            id: the id by which the node knows it, a number from 1 or a text that nobody else uses; None: one is drawn.
            cast: as in `infer`, like all that follow, for each of its requests.
            version: the version to run; empty: the one that answers the first request.
            outputs: the names of the outputs to return.
            timeout_s: the deadline of each request.
            priority: 1 goes first, 255 last.
            routing: who may run it.
        """
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
        return ModelSequence(self.infer, state)

    def models(self) -> list[ModelEntry]:
        """Return all model versions of the fleet, those that cannot be run now included."""
        return self._exchange(asks.ask_models())

    @override
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
        self._connections.close()

    @override
    def _exchange(self, ask: Ask[T]) -> T:
        attempts = Attempts(ask, self._failover, self._retries, monotonic())
        while True:
            try:
                answer = self._connections.exchange(
                    attempts.router, attempts.ask, attempts.deadline_s
                )
                return attempts.result(answer)
            except CapameshError as error:
                wait_s = attempts.wait_s(error, monotonic())
                if wait_s is None:
                    raise
            if wait_s:
                sleep(wait_s)
