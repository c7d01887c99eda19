"""What a worker does with the links that reach it: check who is there, run calls, answer. IO: through links."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from capamesh.node.worker.run_loop import Job, RunLoop
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    ModelUnavailable,
    NotMember,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    LoadReport,
    decode_call,
    encode_answer,
    encode_load,
)
from capamesh.protocol.links.endpoint import check_hello, is_one_too_many
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Limits

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.worker.models import HostedModel, HostedModels
    from capamesh.protocol.links.hello import Hello
    from capamesh.protocol.links.link import Link
    from capamesh.protocol.network import Member, NetworkTrust


class WorkerService:
    """The owner of all links of one worker."""

    def __init__(
        self,
        models: HostedModels,
        run_loop: RunLoop,
        trust: NetworkTrust,
        *,
        clock: Callable[[], float],
        limits: Limits,
        log: FilteringBoundLogger,
    ) -> None:
        self._models = models
        self._run_loop = run_loop
        self._trust = trust
        self._clock = clock
        self._limits = limits
        self._log = log
        self._links: set[Link] = set()
        self._jobs: dict[tuple[Link, int], Job] = {}
        self._is_draining = False

    def __repr__(self) -> str:
        return f"WorkerService({len(self._links)} links, {len(self._jobs)} jobs)"

    # LinkOwner

    def verify(self, hello: Hello, certificate: bytes) -> Member:
        """Part of `LinkOwner`: only routers of this network may ask."""
        return check_hello(
            self._trust, hello, certificate, dt.datetime.now(dt.UTC), role=Role.ROUTER
        )

    def link_up(self, link: Link) -> None:
        """Part of `LinkOwner`."""
        if is_one_too_many(self._links, link):
            return
        self._links.add(link)
        self._log.info("link_up", peer=link.member.peer_id if link.member else "")
        if self._is_draining:
            link.goaway("draining")

    def link_down(self, link: Link, reason: str) -> None:
        """Part of `LinkOwner`: what its peer asked for is not wanted any more."""
        self._links.discard(link)
        for key in [key for key in self._jobs if key[0] is link]:
            self._jobs.pop(key).is_cancelled = True
        self._log.info("link_down", peer=link.member.peer_id if link.member else "", reason=reason)

    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        """Part of `LinkOwner`: queue a call or refuse it."""
        now_s = self._clock()
        try:
            call, budget_ms = decode_call(meta, body, self._limits)
            hosted = self._hosted(call)
            if hosted.in_flight >= hosted.max_in_flight:
                raise Overloaded(
                    f"{hosted.in_flight} requests for model {call.model!r} are in flight here, its limit;"
                    " try another node"
                )
            hosted.loaded.validate(call.inputs, call.outputs)
            deadline_s = None if budget_ms is None else now_s + budget_ms / 1000
            if deadline_s is not None and deadline_s <= now_s:
                raise DeadlineExceeded("the deadline had passed when the request arrived")
            job = Job(
                hosted.loaded,
                call.inputs,
                call.outputs,
                arrived_s=now_s,
                deadline_s=deadline_s,
                done=partial(self._done, link, stream, hosted),
            )
            self._run_loop.submit(job)
        except CapameshError as error:
            link.fail(stream, error)
        else:
            hosted.in_flight += 1
            self._jobs[link, stream] = job

    def request_cancelled(self, link: Link, stream: int) -> None:
        """Part of `LinkOwner`: what has not started will not."""
        job = self._jobs.pop((link, stream), None)
        if job is not None:
            job.is_cancelled = True

    def load(self, meta: bytes) -> bytes:
        """Part of `LinkOwner`."""
        return encode_load(self.load_report())

    def goaway_received(self, link: Link, reason: str) -> None:
        """Part of `LinkOwner`: a router that leaves sends no more; nothing to do."""

    # the worker's own

    def load_report(self) -> LoadReport:
        """Return the load as it is now."""
        run_loop = self._run_loop
        return LoadReport(
            in_flight=run_loop.in_flight,
            queued=run_loop.queued,
            limit=run_loop.max_queued,
            queue_us=int(run_loop.queued * run_loop.run_s * 1e6),
            run_us=int(run_loop.run_s * 1e6),
            free_bytes=0,
        )

    def drain(self) -> None:
        """Ask all peers to send nothing new. Calls that cross this on the wire are still run."""
        self._is_draining = True
        for link in self._links:
            link.goaway("draining")

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

    @property
    def is_quiet(self) -> bool:
        """Whether no peer's request is being received, run or answered."""
        return not self._jobs and all(link.is_quiet for link in self._links)

    def _hosted(self, call: InferCall) -> HostedModel:
        hosted = self._models.find(call.model, call.version)
        if hosted is None:
            is_known = self._models.is_known(call.model, call.version)
            # never ModelNotFound: whether nobody hosts it, only a router can tell
            raise ModelUnavailable(
                f"model {call.model!r} version {call.version or 'any'!r} is not"
                f" {'ready' if is_known else 'hosted'} on this node, which"
                f" has {self._models.describe()}"
            )
        return hosted

    def _done(self, link: Link, stream: int, hosted: HostedModel, job: Job) -> None:
        hosted.in_flight -= 1
        if self._jobs.get((link, stream)) is not job:
            return  # cancelled, and the stream perhaps in use again; or its link is gone
        del self._jobs[link, stream]
        result = job.result
        if isinstance(result, CapameshError):
            link.fail(stream, result)
            return
        answer = InferAnswer(
            version=hosted.version,
            outputs=tuple(result),
            queue_us=int((job.started_s - job.arrived_s) * 1e6),
            run_us=int((job.ended_s - job.started_s) * 1e6),
            load=self.load_report(),
        )
        try:
            meta, body = encode_answer(answer)
        except Exception as exc:  # noqa: BLE001 - a backend's bug must not leave the caller without an answer
            link.fail(stream, RunFailed(f"the answer has no wire form: {exc}"))
            return
        link.respond(stream, meta, body)
