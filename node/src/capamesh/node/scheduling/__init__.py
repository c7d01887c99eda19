"""The scheduler of one model: queue, batches, limit, sequences, counts. Pure: time comes in, answers go out."""

from capamesh.node.scheduling.dynamic_batcher import DynamicBatcher
from capamesh.node.scheduling.pending_request import Batch, PendingRequest, Result
from capamesh.node.scheduling.plan import BatchPlan
from capamesh.node.scheduling.request_bounds import MemoryBudget, RunBounds
from capamesh.node.scheduling.scheduler import Scheduler
from capamesh.node.scheduling.single_thread_instances import Streams
from capamesh.node.scheduling.suspicion import Suspicion

__all__ = [
    "Batch",
    "BatchPlan",
    "DynamicBatcher",
    "MemoryBudget",
    "PendingRequest",
    "Result",
    "RunBounds",
    "Scheduler",
    "Streams",
    "Suspicion",
]
