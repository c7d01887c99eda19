"""One ONNX model behind a link: asked through frames and metadata as a router asks, answered as a node answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from link_wire import Wire, greeted

from capamesh.node.backend import LoadedModel
from capamesh.node.onnx_backend import OnnxBackend
from capamesh.node.store import ModelSource, scan
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    LoadReport,
    decode_answer,
    decode_call,
    encode_answer,
    encode_call,
)
from capamesh.protocol.links.events import (
    ErrorReceived,
    Event,
    RequestReceived,
    ResponseReceived,
)
from capamesh.protocol.tensors import DEFAULT_LIMITS, Tensor

ANY_VERSION = ModelVersion("")
CUTS_SEED = 20260702
"""Where the bytes of a message are cut on their way."""

Run = Callable[[Sequence[Tensor], Sequence[str]], list[Tensor]]


@contextmanager
def model_wire(file: Path) -> Iterator[Run]:
    """Load `file`, which is alone in its folder; give a function that runs it through the wire.

    That takes inputs and the outputs wanted (none: all), and raises what the far end answers with.
    ModelInvalid: the model cannot be hosted.
    """
    (source,) = scan(file.parent).models
    loaded = OnnxBackend().load(source)
    try:
        yield _Asker(_Host(source, loaded)).run
    finally:
        loaded.close()


class _Host:
    """What answers at the far end of the wire."""

    def __init__(self, source: ModelSource, loaded: LoadedModel) -> None:
        self.source = source
        self._loaded = loaded

    def answer(self, meta: bytes, body: memoryview) -> InferAnswer:
        call, _ = decode_call(meta, body, DEFAULT_LIMITS)
        assert call.model == self.source.name
        self._loaded.validate(call.inputs, call.outputs)
        outputs = self._loaded.run(call.inputs, call.outputs)
        return InferAnswer(self.source.version, tuple(outputs), 0, 0, LoadReport())


class _Asker:
    """What asks, and both sides of the link between."""

    def __init__(self, host: _Host) -> None:
        self._host = host
        self._wire: Wire = greeted(seed=CUTS_SEED)

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> list[Tensor]:
        call = InferCall(self._host.source.name, ANY_VERSION, tuple(inputs), tuple(outputs))
        stream = self._wire.dialer.ask(*encode_call(call, budget_ms=1000))
        _, at_host = self._wire.settle()
        (request,) = at_host
        assert isinstance(request, RequestReceived)
        self._serve(request)
        at_asker, _ = self._wire.settle()
        (answer,) = at_asker
        return self._read(stream, answer)

    def _serve(self, request: RequestReceived) -> None:
        acceptor = self._wire.acceptor
        try:
            answer = self._host.answer(request.meta, request.body)
        except CapameshError as error:
            acceptor.fail(request.stream, error)
        else:
            acceptor.respond(request.stream, *encode_answer(answer))

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
