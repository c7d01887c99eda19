"""One ONNX model on a node's worker behind a link: asked as a router asks, by frames that cross by hand."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from fleet_fakes import NullLog
from link_wire import Wire, greeted

from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.models.preparation import LoadResult, Preparation
from capamesh.node.models.registry import HostedModel, ModelRegistry
from capamesh.node.profiling.profile_cache import ProfileCache
from capamesh.node.repository import ModelSource, scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.scheduling import DynamicBatcher
from capamesh.node.scheduling.runner import ModelRunner
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferCall, decode_answer, encode_call
from capamesh.protocol.links.connection import Connection
from capamesh.protocol.links.events import (
    ErrorReceived,
    Event,
    RequestReceived,
    ResponseReceived,
)
from capamesh.protocol.links.outgoing import Buffer
from capamesh.protocol.tensors import DEFAULT_LIMITS, Tensor

ANY_VERSION = ModelVersion("")
CUTS_SEED = 20260702
"""Where the bytes of a message are cut on their way."""
BUDGET_MS = 30_000
"""A deadline that travels with every call and that none comes near."""

Run = Callable[[Sequence[Tensor], Sequence[str]], list[Tensor]]


@contextmanager
def model_wire(file: Path) -> Iterator[Run]:
    """Prepare `file`, which is alone in its folder, as a node does; give a function that runs it through the wire.

    That takes inputs and the outputs wanted (none: all), and raises what the far end answers with.
    ModelInvalid: the model cannot be hosted.
    """
    (source,) = scan(file.parent).models
    backend = OnnxBackend()
    preparation = Preparation(
        backend,
        ProfileCache(None),
        circumstances={},
        clock=itertools.count().__next__,  # a second a look, so that a measurement is short
    )
    prepared = preparation.prepare(source, partial(backend.load, source))
    with asyncio.Runner() as loop:
        host = loop.run(_hosted(source, prepared, backend))
        try:
            yield _Asker(host, loop).run
        finally:
            host.close()


async def _hosted(source: ModelSource, prepared: LoadResult, backend: OnnxBackend) -> _Host:
    return _Host(source, prepared, backend)


class _Host:
    """A worker with one model at the far end of the wire. Made in the event loop that it runs in."""

    def __init__(self, source: ModelSource, prepared: LoadResult, backend: OnnxBackend) -> None:
        self.source = source
        rules = source.manifest.rules
        self._prepared = prepared
        self._runner = ModelRunner(
            prepared.loaded,
            DynamicBatcher(
                prepared.plan,
                rules,
                prepared.measured.profile,
                max_in_flight=8,
                streams=prepared.streams,
            ),
            stream=prepared.stream,
            may_run_here=prepared.is_predictable,
            clock=time.monotonic,
            switch=backend.stop_switch,
            marks=InFlightJournal(None),
            number=1,
            watchdog_s=60.0,
            on_stuck=_unexpected,
        )
        models = ModelRegistry()
        models.ready(HostedModel(source, prepared, self._runner))
        self._service = WorkerService(
            models,
            None,  # type: ignore[arg-type]  # nobody introduces themselves on this wire
            control=_unexpected,
            clock=time.monotonic,
            later=lambda *_: None,
            limits=DEFAULT_LIMITS,
            log=NullLog(),  # type: ignore[arg-type]
        )

    async def serve(self, request: RequestReceived, core: Connection) -> None:
        """Answer a request."""
        link: Any = _Link(core)
        self._service.request_received(link, request.stream, request.meta, request.body)
        self._service.read_ended(link)
        await self._runner.wait_idle()

    def close(self) -> None:
        self._runner.close()
        self._prepared.loaded.close()


class _Link:
    """A core as the worker knows it."""

    def __init__(self, core: Connection) -> None:
        self._core = core

    def respond(self, stream: int, meta: bytes, body: Sequence[Buffer]) -> bool:
        return self._core.respond(stream, meta, body)

    def fail(self, stream: int, error: CapameshError) -> bool:
        return self._core.fail(stream, error)


def _unexpected(*what: object) -> NoReturn:
    raise AssertionError(f"{what} on a wire that only carries inference")


class _Asker:
    """What asks, and both sides of the link between."""

    def __init__(self, host: _Host, loop: asyncio.Runner) -> None:
        self._host = host
        self._loop = loop
        self._wire: Wire = greeted(seed=CUTS_SEED)

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> list[Tensor]:
        call = InferCall(self._host.source.name, ANY_VERSION, tuple(inputs), tuple(outputs))
        stream = self._wire.dialer.ask(*encode_call(call, budget_ms=BUDGET_MS))
        _, at_host = self._wire.settle()
        (request,) = at_host
        assert isinstance(request, RequestReceived)
        self._loop.run(self._host.serve(request, self._wire.acceptor))
        at_asker, _ = self._wire.settle()
        (answer,) = at_asker
        return self._read(stream, answer)

    def _read(self, stream: int, event: Event) -> list[Tensor]:
        match event:
            case ErrorReceived(stream=of, error=error):
                assert of == stream
                raise error
            case ResponseReceived(stream=of, meta=meta, body=body, is_final=is_final):
                assert (of, is_final) == (stream, True)
                return list(decode_answer(meta, body, DEFAULT_LIMITS).outputs)
            case _:
                raise AssertionError(f"{event} is no answer")
