"""The run of a call with an idempotency key, and what is remembered of it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from mypy_extensions import mypyc_attr
from typing_extensions import override

from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LocalError,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    SequenceUnknown,
    TooLarge,
    TooManyRequests,
)
from capamesh.router.cache.key import input_bytes
from capamesh.router.requests.call import Handle, Outcome
from capamesh.router.requests.shared_run import SharedRun

if TYPE_CHECKING:
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.cache.entry import Entry
    from capamesh.router.requests.call import Call, Responder
    from capamesh.router.requests.key_claims import Claims, KeyName, Verdict
    from capamesh.router.requests.shared_run import Start
    from capamesh.router.timers import Alarms

KEY_BYTES: Final = 750
"""The bytes that one key takes beside its own characters, the tenant's and the answer (measured: 740)."""
_NOT_RUN: Final = frozenset(
    kind.code
    for kind in (
        Draining,
        InvalidRequest,
        ModelNotFound,
        ModelUnavailable,
        Overloaded,
        SequenceUnknown,
        TooLarge,
        TooManyRequests,
    )
)
"""The codes of errors by which a node says that it has not run a request."""


class Repeated:
    """Remembers what one key was used for, and what came of it."""

    __slots__ = ("ends_s", "entry", "error", "fingerprint", "name", "picker", "run", "size_bytes")

    def __init__(self, name: KeyName, fingerprint: bytes) -> None:
        self.name = name
        """The tenant, and its key."""
        self.fingerprint = fingerprint
        """The digest of the call that the key was used for."""
        self.run: KeyedRun | None = None
        """The call while it is under way."""
        self.entry: Entry | None = None
        self.picker: RequestPicker | None = None
        """Stands for the one of a call that was sent nowhere; None: there is no answer."""
        self.error: CapameshError | None = None
        self.ends_s = 0.0
        self.size_bytes = bytes_of(name)


@mypyc_attr(native_class=False)
class Keeper(Protocol):
    """Remembers keys, and what comes of their runs."""

    __slots__ = ()

    def begins(self) -> None:
        """Count a call with a new key, which is run now."""
        ...

    def may_go_on(self, run: KeyedRun, size_bytes: int) -> bool:
        """Return whether there is room for the inputs of a run whose clients have left; they are counted from now on."""
        ...

    def completed(self, run: KeyedRun, outcome: Outcome) -> None:
        """Remember an answer, as far as there is room for it."""
        ...

    def failed(self, run: KeyedRun, error: CapameshError) -> None:
        """Remember an error if the call may have run, else forget the key."""
        ...

    def drop(self, repeated: Repeated) -> None:
        """Know nothing of a key of which another process has told."""
        ...


class KeyedRun(SharedRun):
    """The run of a call with a key. It goes on when nobody waits."""

    __slots__ = ("_calls", "_input_bytes", "repeated")

    def __init__(
        self,
        calls: Keeper,
        repeated: Repeated,
        call: Call,
        responder: Responder,
        start: Start,
        alarms: Alarms,
    ) -> None:
        super().__init__(call, responder, start, alarms)
        self._calls = calls
        self._input_bytes = input_bytes(call.request)
        self.repeated = repeated

    @override
    def left(self) -> None:
        is_awaited = self._responder is not None or self._waiters or self._is_over
        if is_awaited or self._calls.may_go_on(self, self._input_bytes):
            return
        handle = self._handle
        self.fail(
            Cancelled(
                "the client left before the request was answered, and the router had no room to go on without it: it may"
                " have run; use another key to run it again"
            )
        )
        if handle is not None:
            handle.cancel()

    @override
    def complete(self, outcome: Outcome) -> None:
        self._calls.completed(self, outcome)
        super().complete(outcome)

    @override
    def fail(self, error: CapameshError) -> None:
        self._calls.failed(self, error)
        super().fail(error)

    @override
    def is_everybodys(self, error: CapameshError) -> bool:
        return True  # else what may have run would be run again

    def begins(self) -> None:
        """Take in that it is run by this process."""
        self._calls.begins()

    def take(self, verdict: Verdict) -> None:
        """Tell all who wait what came of the call at another process of the router, which remembers it."""
        self._calls.drop(self.repeated)
        if isinstance(verdict, CapameshError):
            super().fail(verdict)
        elif verdict is not None:
            entry, picker = verdict
            super().complete(Outcome(entry.answer, entry.peer, None, 0, picker, entry))


class Claim(Handle):
    """Asks the router's other processes for a run's key, and begins the run once this one has it."""

    __slots__ = ("_claims", "_handle", "_is_over", "_run", "_start")

    def __init__(self, claims: Claims, run: KeyedRun, start: Start) -> None:
        self._claims = claims
        self._run = run
        self._start = start
        self._handle: Handle | None = None
        self._is_over = False
        """True once the verdict is known, or nobody waits for it."""

    @property
    @override
    def picker(self) -> RequestPicker | None:
        return None if self._handle is None else self._handle.picker

    def ask(self) -> None:
        """Ask, and wait no longer than the call has time."""
        run = self._run
        run.alarms.set(run.call.deadline_s, self._overdue)
        self._claims.claim(run.repeated.name, run.repeated.fingerprint, self.decided)

    @override
    def cancel(self) -> None:
        self._end()
        if self._handle is not None:
            self._handle.cancel()

    def decided(self, verdict: Verdict) -> None:
        """Take the verdict: tell it to all who wait, or begin the run."""
        if self._is_over:
            return
        self._end()
        run = self._run
        if verdict is not None:
            run.take(verdict)
            return
        run.begins()
        try:
            self._handle = self._start(run.call, run)
        except CapameshError as error:
            run.fail(error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - those who wait are not to do so for ever
            run.fail(LocalError(f"the router failed on this request: {error!r:.80}"))

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._run.alarms.call_off(self._run.call.deadline_s, self._overdue)

    def _overdue(self) -> None:
        self._is_over = True
        self._claims.free(self._run.repeated.name)
        self._run.take(
            DeadlineExceeded(
                "the time was over while another worker of the router had the request with this idempotency key"
            )
        )


def bytes_of(name: KeyName) -> int:
    """Return the bytes of a tenant's key without its answer."""
    return KEY_BYTES + len(name[0]) + len(name[1])


def may_have_run(picker: RequestPicker | None) -> bool:
    """Return whether a node may have run a call that has failed: all attempts that were not refused may have."""
    for attempt in () if picker is None else picker.attempts:
        code = attempt.record().outcome.partition(":")[0]
        if not attempt.is_unsent and code not in _NOT_RUN:
            return True
    return False
