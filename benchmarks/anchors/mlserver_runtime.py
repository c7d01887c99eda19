"""Serves one ONNX model with MLServer. Loaded by it; `benchmarks/anchors.py` writes its settings.

MLServer has no binary tensors over HTTP, and a picture as a list of numbers is some 3 MB of text. So floats travel
as BYTES tensors whose elements are rows in base64, both ways, as MLServer's own `Base64Codec` writes them.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput


class AnchorRuntime(MLModel):
    """Runs the model at the settings' `uri` with `extra.threads` threads; its rows have a fixed size.

    Idle threads spin where `extra.spinning` is "1".
    """

    async def load(self) -> bool:
        """Make the session."""
        parameters = self.settings.parameters
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = parameters.extra["threads"]
        spinning = parameters.extra["spinning"]
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        self._session = onnxruntime.InferenceSession(
            parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self._shapes = {value.name: value.shape[1:] for value in self._session.get_inputs()}
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run a batch that MLServer has put together; return its first output's rows."""
        feed = {given.name: self._array(given) for given in payload.inputs}
        # Else a run would keep the server from reading the requests of the next batch.
        output, *_ = await asyncio.to_thread(self._session.run, None, feed)
        rows = [b64encode(row.tobytes()).decode() for row in output]
        name = self._session.get_outputs()[0].name
        answer = ResponseOutput(name=name, datatype="BYTES", shape=[len(rows)], data=rows)
        return InferenceResponse(model_name=self.name, outputs=[answer])

    def _array(self, given: RequestInput) -> np.ndarray:
        if given.datatype == "BYTES":
            raw = b"".join(map(b64decode, given.data.root))
            return np.frombuffer(raw, np.float32).reshape(-1, *self._shapes[given.name])
        return np.array(given.data.root, given.datatype.lower()).reshape(given.shape)
