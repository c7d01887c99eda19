"""The texts for parts of Triton's protocol that this network has not, whatever wire asks for them. Pure."""

from __future__ import annotations

from typing import Final

TRACES: Final = (
    "there are no trace settings here: a request is traced where its traceparent says so, and those that"
    " fail or are slow where the router was started with --traces"
)
LOGGING: Final = "the log is set up at the router's start: capamesh router run --log-level"
SHARED_MEMORY: Final = (
    "shared memory is of one machine, and a model may run on another: send tensors in the request"
)
