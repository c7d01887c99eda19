"""The calls of tasks, whose inputs are made in threads, and whose outputs become answers. IO: threads.

Texts, pictures and files are strangers': what is made of them takes from microseconds to a second, during which the event
loop goes on. Whoever leaves or dies meanwhile takes the call back, and what was made of it is thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    RunFailed,
)

if TYPE_CHECKING:
    from capamesh.node.models.registry import HostedModel, ModelRegistry
    from capamesh.node.runtime.tasks.task import ModelTask, TaskRequest
    from capamesh.node.scheduling import PendingRequest, Result
    from capamesh.protocol.links.calls import InferCall
    from capamesh.protocol.links.link import Link
    from capamesh.protocol.tensors import Tensor

THREADS: Final = 2
"""The threads that make inputs (guess: what a model of pictures needs to be kept busy by; the cores are for runs)."""
MAX_WAITING: Final = 256
"""The most calls whose inputs are not made yet (guess: more than wait for one model); more are refused."""
MAX_WAITING_BYTES: Final = 256 * 2**20
"""The most bytes that these have brought: those of one large message."""
LARGE_BYTES: Final = 2**18
"""Outputs of more bytes become answers in a thread (guess: 0.2 ms of the loop)."""
_AGAIN_S: Final = 0.1

CallKey: TypeAlias = "tuple[Link, int]"
"""The link by which a call came, and its stream."""
_T = TypeVar("_T")
OnDone: TypeAlias = "Callable[[PendingRequest, Result], None]"
Queue: TypeAlias = "Callable[[CallKey, HostedModel, InferCall, float, float | None, OnDone], None]"
"""Queues a call whose inputs are the model's own: with when it arrived, its deadline, and whom to tell the result."""
Fail: TypeAlias = "Callable[[CallKey, CapameshError, HostedModel | None], None]"
"""Answers a call with an error."""


class _Work:
    """One call that is in a thread, or waits for one."""

    __slots__ = ("has_run", "is_over")

    def __init__(self, *, has_run: bool) -> None:
        self.has_run = has_run
        """True once the model has run."""
        self.is_over = False


class TaskCalls:
    """The calls of one worker that are in its threads."""

    def __init__(
        self, models: ModelRegistry, queue: Queue, fail: Fail, *, clock: Callable[[], float]
    ) -> None:
        """`queue` and `fail` are called in the event loop and must not raise. `clock` is that of deadlines, in seconds."""
        self._models = models
        self._queue = queue
        self._fail = fail
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="task")
        self._under_way: dict[CallKey, _Work] = {}
        self._waiting = 0
        self._waiting_bytes = 0

    @override
    def __repr__(self) -> str:
        return f"TaskCalls({len(self._under_way)} under way)"

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(
        self,
        key: CallKey,
        hosted: HostedModel,
        task: ModelTask,
        call: InferCall,
        arrived_s: float,
        deadline_s: float | None,
        on_done: OnDone,
    ) -> None:
        """Have the model's inputs made for a call of a task, and the call queued then; `on_done` is told the answer.

        Raises:
            InvalidRequest: it does not fit the task.
            TooLarge: it has too many rows.
            Overloaded: too many others wait.
        """
        if call.takes_parts or call.sequence is not None:
            raise InvalidRequest(
                "a request of a task has a whole answer and no sequence: leave these out"
            )
        request = task.request(call.inputs, call.outputs)
        size_bytes = sum(tensor.size_bytes for tensor in call.inputs)
        if self._waiting >= MAX_WAITING or self._waiting_bytes + size_bytes > MAX_WAITING_BYTES:
            raise Overloaded(
                f"{self._waiting} requests of {self._waiting_bytes} bytes wait for their texts, pictures or files to be read",
                _AGAIN_S,
            )
        work = self._under_way[key] = _Work(has_run=False)
        self._waiting += 1
        self._waiting_bytes += size_bytes

        def made() -> tuple[Tensor, ...]:
            if work.is_over:
                return ()
            if deadline_s is not None and self._clock() >= deadline_s:
                raise DeadlineExceeded("its time was over before its inputs could be made")
            return request.inputs()

        def ended(future: asyncio.Future[tuple[Tensor, ...]]) -> None:
            self._waiting -= 1
            self._waiting_bytes -= size_bytes
            outcome = _outcome(future)
            if work.is_over:
                return
            del self._under_way[key]
            if isinstance(outcome, CapameshError):
                self._fail(key, outcome, hosted)
            elif self._models.find(hosted.source.name, hosted.version) is not hosted:
                gone = f"model {hosted.source.name!r} was loaded anew or unloaded while inputs were made for it"
                self._fail(key, ModelUnavailable(gone), None)
            else:
                of_model = call.replace(inputs=outcome, outputs=request.outputs, classes=())
                then = partial(self._finish, key, request, on_done)
                self._queue(key, hosted, of_model, arrived_s, deadline_s, then)

        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._threads, made).add_done_callback(ended)

    def _finish(
        self,
        key: CallKey,
        request: TaskRequest,
        on_done: OnDone,
        pending: PendingRequest,
        result: Result,
    ) -> None:
        """Make the answer of a run's result: at once, or in a thread where that takes long."""
        if isinstance(result, CapameshError):
            on_done(pending, result)
            return
        if sum(tensor.size_bytes for tensor in result) <= LARGE_BYTES:
            on_done(pending, request.answer(result))
            return
        work = self._under_way[key] = _Work(has_run=True)

        def ended(future: asyncio.Future[Result]) -> None:
            outcome = _outcome(future)
            if not work.is_over:
                del self._under_way[key]
                on_done(pending, outcome)

        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, request.answer, result)
        future.add_done_callback(ended)

    def withdraw(self, key: CallKey) -> None:
        """Tell nothing more of a call, if it is here."""
        work = self._under_way.pop(key, None)
        if work is not None:
            work.is_over = True

    def withdraw_all_of(self, link: Link) -> None:
        """Tell nothing more of the calls of a link."""
        for key in [key for key in self._under_way if key[0] is link]:
            self.withdraw(key)

    def fail_all(self, reason: str) -> None:
        """Answer all calls that are here: this process is about to end. What has not run may run elsewhere."""
        for key, work in list(self._under_way.items()):
            self.withdraw(key)
            error = RunFailed(reason) if work.has_run else ModelUnavailable(reason)
            self._fail(key, error, None)

    def close(self) -> None:
        """Begin nothing that has not begun, and tell nothing more."""
        for key in list(self._under_way):
            self.withdraw(key)
        self._threads.shutdown(wait=False, cancel_futures=True)


def _outcome(future: asyncio.Future[_T]) -> _T | CapameshError:
    """Return what a thread has made, or the error why it has not."""
    if future.cancelled():
        return ModelUnavailable("the worker stops")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, CapameshError):
        return error.with_traceback(None)
    if isinstance(error, MemoryError):
        return Overloaded("there was no memory for what its inputs become", _AGAIN_S)
    return RunFailed(f"its inputs could not be made: {error!r}")
