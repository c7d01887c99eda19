"""The engine of one model: queue, batches, limit, sequences, counts. Pure: time comes in, answers go out."""

from capamesh.node.engine.bounds import MemoryBudget, RunBounds
from capamesh.node.engine.engine import ModelEngine
from capamesh.node.engine.plan import BatchPlan
from capamesh.node.engine.streams import Streams
from capamesh.node.engine.suspicion import Suspicion
from capamesh.node.engine.work import Batch, Result, Work

__all__ = [
    "Batch",
    "BatchPlan",
    "MemoryBudget",
    "ModelEngine",
    "Result",
    "RunBounds",
    "Streams",
    "Suspicion",
    "Work",
]
