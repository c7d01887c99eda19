"""OpenAI's route for embeddings: texts in, one vector each. IO: aiohttp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    RunFailed,
    ShutOut,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.steps import run_through
from capamesh.protocol.tasks import EMBEDDING, TOKENS, Task
from capamesh.router.access.keys import Verb, check_model
from capamesh.router.cache.entry import HIT, REPEATED
from capamesh.router.http.bodies import read_body
from capamesh.router.http.exchange import NODE_HEADER, Inference
from capamesh.router.http.kept_replies import kept_headers
from capamesh.router.http.key_check import key_of
from capamesh.router.http.options import EXPLAIN, idempotency_key_of, options_of
from capamesh.router.http.route import Pages, Route, json_of
from capamesh.router.http.schemas import openai
from capamesh.router.http.schemas.headers import GENERATION
from capamesh.router.requests.described_model import described
from capamesh.router.requests.embedding_answer import STEP_NUMBERS, written
from capamesh.router.requests.embedding_request import (
    MOST_BYTES,
    EmbeddingRequest,
    read_in_steps,
)
from capamesh.router.requests.inference import Target
from capamesh.router.requests.invalid_parameter import InvalidParameter
from capamesh.router.requests.key_scope import within_scope
from capamesh.router.requests.parts import run_parts
from capamesh.router.requests.slices import in_slices
from capamesh.router.telemetry.tracing import parsed_traceparent

if TYPE_CHECKING:
    import numpy.typing as npt

    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.steps import Steps
    from capamesh.router.access.quotas import Lease
    from capamesh.router.requests.call import Outcome

_T = TypeVar("_T")

AT_ONCE: Final = 8
"""The parts of one request that are under way at a time (guess: what keeps a few nodes busy, and leaves room for others)."""
MOST_NODES_NAMED: Final = 8
SHORT_BYTES: Final = 65_536
"""A body of no more is read at once (measured: 2 ms for the worst)."""


class EmbeddingsApi(Pages):
    """`POST /v1/embeddings`."""

    def __init__(self, inference: Inference, *, arrival_s: float) -> None:
        """A body may take `arrival_s` seconds to arrive."""
        self._inference = inference
        self._parts = replace(inference, meter=None)
        """The services of the parts of a request, which its key is charged for as one."""
        self._arrival_s = arrival_s

    @override
    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/v1/embeddings",
                self.embeddings,
                (Verb.INFER,),
                json_of(openai.Embeddings),
                body=json_of(openai.EmbeddingsRequest),
                headers=GENERATION,
                errors=(400, 404, 409, 429, 500, 502, 504),
                is_openai=True,
            ),
        ]

    async def embeddings(self, request: web.Request) -> web.Response:
        """Return one vector for each text, as OpenAI's route of that name does."""
        limits = self._inference.limits
        most_bytes = min(MOST_BYTES, limits.max_json_bytes, limits.max_message_bytes)
        body = await read_body(request, arrival_s=self._arrival_s, most_bytes=most_bytes)
        asked = await self._in_slices(
            read_in_steps(body), "texts", is_short=len(body) <= SHORT_BYTES
        )
        try:
            target = self._target(request, ModelName(asked.model))
            offer = await self._offer(target, asked)
        except CapameshError as error:
            self._inference.refused(ModelName(asked.model), error)
            raise
        is_named = bool(target.idempotency_key)
        if is_named:
            target = replace(target, whole=asked.digest())
        parts = asked.parts(offer, is_named=is_named)
        lease = self._lease(target, asked)
        size_bytes: int | None = None
        try:
            outcomes = await run_parts(
                self._parts, target, [part for _, part in parts], at_once=AT_ONCE
            )
            vectors, tokens = _joined([places for places, _ in parts], outcomes)
            if not _are_all(outcomes, {REPEATED}):  # what is given again is no use of the key
                size_bytes = vectors.nbytes
        finally:
            if lease is not None:
                lease.settle(size_bytes)
        steps = written(asked, vectors, tokens, limits.max_json_answer_bytes)
        is_short = vectors.size <= STEP_NUMBERS
        pieces = await self._in_slices(steps, asked.model, is_short=is_short)
        nodes = list(dict.fromkeys(one.peer for one in outcomes))
        headers = {NODE_HEADER: ",".join(nodes[:MOST_NODES_NAMED]), **self._kept(outcomes)}
        return web.Response(body=b"".join(pieces), content_type="application/json", headers=headers)

    def _target(self, request: web.Request, model: ModelName) -> Target:
        options, is_explained = options_of(request.headers)
        if is_explained:
            raise InvalidRequest(
                f"{EXPLAIN}: embeddings may come from several nodes; ask /v2/models/{model}/infer to be told why one was chosen"
            )
        key = key_of(request)
        if key is not None:
            check_model(key, model)
        options = within_scope(options, key)
        parent = parsed_traceparent(request.headers.get("traceparent", ""))
        return Target(
            model,
            ModelVersion(""),
            options,
            parent=parent,
            key=key,
            idempotency_key=idempotency_key_of(request.headers),
        )

    async def _offer(self, target: Target, asked: EmbeddingRequest) -> ModelOffer:
        """Return what is advertised of the model, once it is loaded if need be. Raises `ModelNotFound`, `ModelUnavailable`, `InvalidParameter`."""
        standing = self._inference.standing
        if standing.shut_out:
            raise ShutOut(standing.shut_out)
        inference = self._inference
        until_s = inference.routing.clock() + inference.timeout_s
        offer = await described(
            inference,
            target,
            until_s,
            rows=len(asked.rows),
            size_bytes=sum(map(len, asked.rows)),
        )
        if offer.task is not Task.TEXT_EMBEDDING:
            is_for = f"is for {offer.task}" if offer.task else "takes tensors alone"
            raise InvalidParameter(
                "model",
                f"model {target.model!r} {is_for}, and embeddings are of models for text-embedding",
            )
        return offer

    def _lease(self, target: Target, asked: EmbeddingRequest) -> Lease | None:
        """Charge the key of a request for all of its texts. Raises `TooManyRequests`."""
        meter = self._inference.meter
        if meter is None or target.key is None:
            return None
        size_bytes = sum(map(len, asked.rows))
        return meter.lease(target.key, target.model, len(asked.rows), size_bytes)

    def _kept(self, outcomes: Sequence[Outcome]) -> dict[str, str]:
        """Return the headers that tell of kept answers, where all parts were such; the age is that of the oldest."""
        if not _are_all(outcomes, {HIT, REPEATED}):
            return {}
        word = REPEATED if _are_all(outcomes, {REPEATED}) else HIT
        now_s = self._inference.routing.clock()
        ages_s = [now_s - one.entry.stored_s for one in outcomes if one.entry is not None]
        return kept_headers(word, max(ages_s))

    async def _in_slices(self, steps: Steps[_T], label: str, *, is_short: bool) -> _T:
        """Return what all `steps` come to: done at once where they are short, else in slices of the loop's time."""
        if is_short:
            return run_through(steps)
        return await in_slices(self._inference.slices, steps, label)


def _are_all(outcomes: Sequence[Outcome], words: set[str]) -> bool:
    """Return whether all outcomes are kept answers, given again for one of the reasons in `words`."""
    return all(one.entry is not None and one.entry.word in words for one in outcomes)


def _joined(
    places: Sequence[Sequence[int]], outcomes: Sequence[Outcome]
) -> tuple[npt.NDArray[np.float32], int]:
    """Return the vectors of all parts, [texts, dimensions], in the order of the texts, and how many tokens these have.

    Raises `RunFailed`: nodes have not answered one vector of one length for each text.
    """
    whole: npt.NDArray[np.float32] | None = None
    tokens = 0
    total = sum(map(len, places))
    for of_part, outcome in zip(places, outcomes, strict=True):
        given = {output.name: output for output in outcome.answer.outputs}
        vectors, counts = given[EMBEDDING].to_numpy(), given[TOKENS].to_numpy()
        if whole is None:
            whole = np.empty((total, vectors.shape[1]), "<f4")
        if vectors.shape != (len(of_part), whole.shape[1]) or counts.shape != (len(of_part),):
            raise RunFailed(
                f"a node answered {vectors.shape[0]} vectors of length {vectors.shape[1]} for {len(of_part)} texts, and"
                f" others have length {whole.shape[1]}: its model is another one"
            )
        whole[list(of_part)] = vectors
        tokens += int(counts.sum(dtype=np.int64))
    assert whole is not None  # noqa: S101 - a request has a text, and so a part
    return whole, tokens
