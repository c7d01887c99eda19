"""Serves the links that reach a worker: checks who is there, runs calls, answers. IO: links."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.node.scheduling import PendingRequest, Result
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.node.worker.answers import AnswerEncoder
from capamesh.node.worker.bulk_refusal import BulkRefusal
from capamesh.node.worker.classification import Classification
from capamesh.node.worker.task_calls import TaskCalls
from capamesh.node.worker.traced import OnDone, traced
from capamesh.node.worker.withdrawals import Later, Withdrawals
from capamesh.protocol.errors import (
    CapameshError,
    ModelUnavailable,
    NotMember,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.links.call_decoder import CallDecoder
from capamesh.protocol.links.calls import (
    ControlCall,
    InferCall,
    LoadReport,
    decode_probe,
    encode_done,
    encode_load,
    encode_told_load,
)
from capamesh.protocol.links.link import LinkHandler
from capamesh.protocol.links.transport import check_hello, is_one_too_many
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Limits, Tensor

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.models.lifecycle import Changed
    from capamesh.node.models.registry import HostedModel, ModelRegistry
    from capamesh.node.scheduling.runner import ModelRunner
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.protocol.links.hello import Hello
    from capamesh.protocol.links.link import Link
    from capamesh.protocol.network import Member, NetworkTrust


class WorkerService(LinkHandler):
    """The owner of all links of one worker."""

    def __init__(
        self,
        models: ModelRegistry,
        trust: NetworkTrust,
        *,
        control: Callable[[ControlCall, Changed], None],
        clock: Callable[[], float],
        later: Later,
        limits: Limits,
        log: FilteringBoundLogger,
        bulk_refused_s: float = 0.0,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        """Answer by `models`. Memberships are judged by `now`, requests' times by `clock`."""
        self._models = models
        self._trust = trust
        self._control = control
        self._clock = clock
        self._now = now
        self._bulk_refusal = BulkRefusal(bulk_refused_s, clock())
        self._limits = limits
        self._decoder = CallDecoder(limits)
        self._log = log
        self._links: dict[Link, None] = {}
        self._requests: dict[tuple[Link, int], tuple[HostedModel, PendingRequest]] = {}
        self._active: dict[ModelRunner, None] = {}
        """The runners that may have something under way, replaced ones included; `tidy` forgets the others."""
        self._due: dict[ModelRunner, None] = {}
        """The runners that were given requests in the present read, in that order."""
        self._read_s = 0.0
        """The time of the present read, while there is any in `_due`."""
        self._answers = AnswerEncoder(limits, self.load_report)
        self._tasks = TaskCalls(models, self._queue_made, self._fail_call, clock=clock)
        self._is_draining = False
        self.on_links: Callable[[int], None] = lambda _: None
        """The callback that is told the number of links when it changes."""
        self._withdrawals = Withdrawals(later, self._tell_load)
        self.free_bytes = 0
        """The device's memory, as its owner read it last: reading it for every answer would cost more than
        the answer."""

    @override
    def __repr__(self) -> str:
        return f"WorkerService({len(self._links)} links, {len(self._requests)} requests)"

    # LinkHandler

    @override
    def verify(self, hello: Hello, certificate: bytes) -> Member:
        """Check that the peer is a router of this network: no one else may ask."""
        return check_hello(self._trust, hello, certificate, self._now(), role=Role.ROUTER)

    @override
    def link_up(self, link: Link) -> None:
        if is_one_too_many(self._links, link):
            return
        self._links[link] = None
        self.on_links(len(self._links))
        self._log.info("link_up", peer=link.member.peer_id if link.member else "")
        if self._is_draining:
            link.goaway("draining")

    @override
    def link_down(self, link: Link, reason: str) -> None:
        """Withdraw the requests of a link that has ended."""
        if link in self._links:
            del self._links[link]
            self.on_links(len(self._links))
        for key in [key for key in self._requests if key[0] is link]:
            self._withdraw(key)
        self._tasks.withdraw_all_of(link)
        self._log.info("link_down", peer=link.member.peer_id if link.member else "", reason=reason)

    @override
    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        """Queue a call or refuse it."""
        if not self._due:
            self._read_s = self._clock()
        now_s = self._read_s  # what came in one read came at one time
        key = link, stream
        hosted = None
        try:
            call, budget_ms = self._decoder.decode(meta, body)
            if isinstance(call, ControlCall):
                self._control(call, partial(self._changed, link, stream))
                return
            hosted = self._hosted(call.model, call.version)
            if call.is_bulk:
                self._bulk_refusal.check(now_s)
            deadline_s = None if budget_ms is None else now_s + budget_ms / 1000
            on_done: OnDone = partial(self._done, key, hosted)
            if call.classes:
                wanted = Classification(call, hosted.prepared)
                on_done = partial(self._classified, key, hosted, wanted)
            if call.trace:
                on_done = traced(self._log, call, on_done)
            task = hosted.prepared.task
            if task is not None and task.takes(call.inputs):
                self._tasks.begin(key, hosted, task, call, now_s, deadline_s, on_done)
                return
            self._queue(key, hosted, call, now_s, deadline_s, on_done)
            self._due[hosted.runner] = None
        except Exception as exc:  # noqa: BLE001 - one request must not cost its link all the others
            if not isinstance(exc, CapameshError):
                self._log.exception("request_broken")
            self._fail_call(key, _as_told(exc), hosted)

    @override
    def request_cancelled(self, link: Link, stream: int) -> None:
        """Withdraw a request; it does not start if it has not."""
        self._withdraw((link, stream))

    @override
    def parts_released(self, link: Link, stream: int) -> None:
        """Go on with a request whose reader had as many parts of its answer as it takes."""
        found = self._requests.get((link, stream))
        if found is not None:
            hosted, request = found
            hosted.runner.resume(request)

    @override
    def load(self, meta: bytes) -> bytes:
        """Return the load of the model that the probe names, or of the whole worker."""
        model, version = decode_probe(meta)
        hosted = self._models.find(model, version) if model else None
        return encode_load(self.load_report(hosted))

    @override
    def load_told(self, link: Link, meta: bytes) -> None:
        """Do nothing: a router has no load."""

    @override
    def goaway_received(self, link: Link, reason: str) -> None:
        """Do nothing: a router that leaves sends no more."""

    @override
    def read_ended(self, link: Link) -> None:
        """Run the requests of this read, in the same turn of the loop."""
        if self._due:
            due, self._due = self._due, {}
            for runner in due:
                runner.pump()

    def _queue(
        self,
        key: tuple[Link, int],
        hosted: HostedModel,
        call: InferCall,
        arrived_s: float,
        deadline_s: float | None,
        on_done: Callable[[PendingRequest, Result], None],
    ) -> None:
        """Queue a call with the model's own inputs, to be run once its runner is pumped.

        Raises a `CapameshError` where it is refused.
        """
        inputs = hosted.prepared.plan.completed(call.inputs, call.sequence)
        hosted.prepared.loaded.validate(inputs, call.outputs)
        request = PendingRequest(
            inputs,
            call.outputs,
            on_done,
            arrived_s=arrived_s,
            deadline_s=deadline_s,
            priority=call.priority,
            is_bulk=call.is_bulk,
            is_alone=call.is_alone,
            sequence=call.sequence,
            on_part=partial(self._part, key, hosted) if call.takes_parts else None,
        )
        self._requests[key] = hosted, request
        hosted.runner.submit(request, is_pumped=True)
        self._active[hosted.runner] = None

    def _queue_made(
        self,
        key: tuple[Link, int],
        hosted: HostedModel,
        call: InferCall,
        arrived_s: float,
        deadline_s: float | None,
        on_done: Callable[[PendingRequest, Result], None],
    ) -> None:
        """Run a call of a task, whose inputs are made."""
        try:
            self._queue(key, hosted, call, arrived_s, deadline_s, on_done)
        except Exception as exc:  # noqa: BLE001 - whoever asked is told
            self._fail_call(key, _as_told(exc), hosted)
        else:
            hosted.runner.pump()

    def _fail_call(
        self, key: tuple[Link, int], error: CapameshError, hosted: HostedModel | None
    ) -> None:
        self._requests.pop(key, None)
        self._fail(key, error, hosted)

    # the worker's own

    def load_report(self, hosted: HostedModel | None = None) -> LoadReport:
        """Return the load as it is now: of a model, or without one of all together."""
        # not `_requests`: of a batch that is being answered, those behind this one are in it still
        device_in_flight = 0
        for runner in self._active:
            device_in_flight += runner.scheduler.in_flight
        if hosted is None:
            return LoadReport(
                in_flight=device_in_flight,
                queued=sum(one.runner.scheduler.queued for one in self._models),
                free_bytes=self.free_bytes,
                device_in_flight=device_in_flight,
            )
        return hosted.runner.scheduler.load_report(
            free_bytes=self.free_bytes, device_in_flight=device_in_flight
        )

    def drain(self) -> None:
        """Ask all peers to send nothing new. Calls that cross this on the wire are still run."""
        self._is_draining = True
        for link in self._links:
            link.goaway("draining")

    def introduce(self, hello: Hello) -> None:
        """Show this node's renewed membership on all links."""
        for link in self._links:
            link.introduce(hello)

    def recheck_members(self) -> None:
        """End the links of members that have been revoked or have expired since."""
        for link in list(self._links):
            try:
                link.recheck()
            except NotMember as error:
                link.close(f"{error.code}: {error.message}")

    def close(self, reason: str) -> None:
        """End all links, and refuse what they may still send."""
        for link in list(self._links):
            link.close(reason)
        self._tasks.close()

    @property
    def is_quiet(self) -> bool:
        """Return whether no peer's request is being received, run or answered."""
        is_idle = not self._requests and not len(self._tasks)
        return is_idle and all(link.is_quiet for link in self._links)

    def fail_all(self, reason: str) -> None:
        """Answer everything under way: this process is about to end. What has not run may run elsewhere."""
        self._tasks.fail_all(reason)
        for key, (_, request) in list(self._requests.items()):
            batch = request.batch
            has_started = request.steps > 0 or (
                request.state is RequestState.RUNNING and batch is not None and batch.has_begun
            )
            self._withdraw(key)
            key[0].fail(key[1], RunFailed(reason) if has_started else ModelUnavailable(reason))

    def tidy(self) -> None:
        """Forget the runners that are idle, and sequences that have been silent too long, of which no request tells."""
        now_s = self._clock()
        for hosted in self._models:
            hosted.runner.scheduler.expire(now_s)
        self._active = {runner: None for runner in self._active if not runner.scheduler.is_idle}

    def _withdraw(self, key: tuple[Link, int]) -> None:
        self._tasks.withdraw(key)
        found = self._requests.pop(key, None)
        if found is not None:
            hosted, request = found
            hosted.runner.cancel(request)
            self._withdrawals.add(hosted.source.name, hosted.version)

    def _tell_load(self, model: ModelName, version: ModelVersion) -> bool:
        hosted = self._models.find(model, version)
        if hosted is not None:
            if not hosted.runner.scheduler.is_report_current:
                return False
            meta = encode_told_load(model, version, self.load_report(hosted))
            for link in self._links:
                link.tell_load(meta)
        return True

    def _hosted(self, model: ModelName, version: ModelVersion) -> HostedModel:
        hosted = self._models.find(model, version)
        if hosted is not None:
            return hosted
        # never ModelNotFound: whether nobody hosts it, only a router can tell
        is_known = self._models.is_known(model, version)
        raise ModelUnavailable(
            f"model {model!r} version {version or 'any'!r} is not {'ready' if is_known else 'hosted'} on"
            f" this node, which has {self._models.describe()}"
        )

    def _changed(self, link: Link, stream: int, error: CapameshError | None) -> None:
        if error is None:
            link.respond(stream, encode_done(), ())
        else:
            link.fail(stream, error)

    def _fail(
        self, key: tuple[Link, int], error: CapameshError, hosted: HostedModel | None
    ) -> None:
        """Answer with an error, and with the model's load, which says more than that it was refused."""
        if hosted is not None:
            error.load = self.load_report(hosted)
        link, stream = key
        link.fail(stream, error)

    def _part(
        self,
        key: tuple[Link, int],
        hosted: HostedModel,
        request: PendingRequest,
        outputs: Sequence[Tensor],
    ) -> None:
        """Send one part of an answer; whoever does not read it does not get the rest either, or waits for it."""
        link, stream = key
        try:
            meta, body = self._answers.encode(hosted, request, outputs)
        except TooLarge as error:
            self._withdraw(key)
            self._fail(key, error, hosted)
            return
        if not link.respond(stream, meta, body, is_final=False):
            self._withdraw(key)
        elif not link.has_part_room(stream):
            request.is_held = True

    def _classified(
        self,
        key: tuple[Link, int],
        hosted: HostedModel,
        wanted: Classification,
        request: PendingRequest,
        result: Result,
    ) -> None:
        """Answer with the largest scores of those outputs of which classes are wanted."""
        self._done(key, hosted, request, wanted.of(result))

    def _done(
        self, key: tuple[Link, int], hosted: HostedModel, request: PendingRequest, result: Result
    ) -> None:
        link, stream = key
        self._requests.pop(key, None)
        if isinstance(result, CapameshError):
            self._fail(key, result, hosted)
            return
        try:
            meta, body = self._answers.encode(hosted, request, result)
        except TooLarge as error:
            self._fail(key, error, hosted)
            return
        except Exception as exc:  # noqa: BLE001 - a backend's bug must not leave the caller without an answer
            link.fail(stream, RunFailed(f"the answer has no wire form: {exc}"))
            return
        link.respond(stream, meta, body)


def _as_told(error: Exception) -> CapameshError:
    """Return what a caller is told of an error, which only a bug can be if it is none of the network's."""
    if isinstance(error, CapameshError):
        return error
    return RunFailed(f"the request could not be taken in: {error!r}")
