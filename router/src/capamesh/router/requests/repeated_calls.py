"""Calls with an idempotency key: one that comes again gets what the first got, and is run no second time. Pure.

The layer lies above all that counts and limits, so that a repeated call takes nothing. A call with a key goes on when its client
leaves, for the client may come again with the key: that is what keys are for. What failed without having run is forgotten, so
that it may be tried again; what may have run is not, and its error is what every repeated call gets.

Everything kept has a bound, of which a tenant has at most as much as is left to all others. What a key was used for is remembered even
where its answer is too large to be kept: then a repeated call is told so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from typing_extensions import override

from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    Draining,
    InvalidRequest,
    KeyUsed,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    SequenceUnknown,
    TooLarge,
    TooManyRequests,
)
from capamesh.protocol.tensors import Tensor
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.cache.entry import REPEATED, Entry, Layouts
from capamesh.router.cache.key import MOST_INPUT_BYTES, Keys, input_bytes
from capamesh.router.policies.policy import RequestShape
from capamesh.router.requests.answer_cache import ANSWERED
from capamesh.router.requests.call import Handle, Outcome
from capamesh.router.requests.shared_run import SharedRun
from capamesh.router.rules.constraints import ANYWHERE
from capamesh.router.timers import Alarms

if TYPE_CHECKING:
    from capamesh.router.access.keys import Key
    from capamesh.router.requests.call import Call, Responder
    from capamesh.router.requests.metered import Meter
    from capamesh.router.requests.routing import Routing
    from capamesh.router.requests.shared_run import Start
    from capamesh.router.timers import Timers

KEPT_S: Final = 600.0
"""Seconds for which a key is remembered once its call has ended."""
MOST_BYTES: Final = 64 * 2**20
"""The memory for all keys and their answers (guess: 60,000 keys with small answers)."""
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
NO_KEYS: Final = (
    "this router takes no Idempotency-Key: it has several workers, which know nothing of one another's requests; send the request"
    " without the key, or have the router's operator run it with one worker"
)
MOST_ANSWER_PART: Final = 1 / 16
"""A larger answer is not kept (guess: it would leave too little for others)."""


class Repeated:
    """Remembers what one key was used for, and what came of it."""

    __slots__ = ("ends_s", "entry", "error", "fingerprint", "name", "picker", "run", "size_bytes")

    def __init__(self, name: tuple[str, str], fingerprint: bytes) -> None:
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
        self.size_bytes = _bytes_of(name)


class KeyedRun(SharedRun):
    """The run of a call with a key. It goes on when nobody waits."""

    __slots__ = ("_calls", "_input_bytes", "repeated")

    def __init__(
        self,
        calls: RepeatedCalls,
        repeated: Repeated,
        call: Call,
        responder: Responder,
        start: Start,
    ) -> None:
        super().__init__(call, responder, start, calls.alarms)
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


class RepeatedCalls:
    """The idempotency keys of one router that are remembered."""

    def __init__(
        self, *, clock: Callable[[], float], timers: Timers, most_bytes: int = MOST_BYTES
    ) -> None:
        """`clock` is in seconds and never goes back; `timers` go by it."""
        self.alarms = Alarms(timers, clock)
        self.most_bytes = most_bytes
        self.used_bytes = 0
        self._clock = clock
        self._keys = Keys()
        self._layouts = Layouts()
        self._known: dict[tuple[str, str], Repeated] = {}
        self._ended: deque[Repeated] = deque()
        """The keys whose calls have ended, the oldest first."""
        self._by_tenant: dict[str, int] = {}
        """The bytes of each tenant that has any."""
        self._counts: dict[tuple[str], int] = {}

    def __len__(self) -> int:
        return len(self._known)

    @override
    def __repr__(self) -> str:
        return f"RepeatedCalls({len(self)} keys, {self.used_bytes} of {self.most_bytes} bytes)"

    def counts(self) -> Iterable[tuple[tuple[str], int]]:
        """Return how many calls with keys came to which result."""
        return list(self._counts.items())

    def start(self, key: str, call: Call, responder: Responder, start: Start) -> Handle:
        """Start a call with a key by `start`, or tell `responder` what came of the call that had the key before.

        Raises:
            InvalidRequest: the answer is to come in parts.
            KeyUsed: the key was used for another call, or for one whose answer is not kept.
            TooManyRequests: the tenant has too many keys.
            Overloaded: all tenants have.
            CapameshError: what `start` raises.
        """
        if call.request.takes_parts:
            raise InvalidRequest(
                "an answer in parts is not kept, so that its request takes no Idempotency-Key: leave it out"
            )
        now_s = self._clock()
        self._forget_old(now_s)
        name = (call.options.tenant, key)
        fingerprint = self._fingerprint(call)
        known = self._known.get(name)
        if known is not None:
            return self._again(known, fingerprint, call, responder)
        self._reserve(name)
        repeated = self._known[name] = Repeated(name, fingerprint)
        self._charge(name[0], repeated.size_bytes)
        run = repeated.run = KeyedRun(self, repeated, call, responder, start)
        self._count("first")
        try:
            handle = start(call, run)
        except BaseException:
            self._forget(repeated)
            run.close()
            raise
        run.began(handle)
        return run

    def _fingerprint(self, call: Call) -> bytes:
        """Return the digest of a call, by which another with the same key is known; of large inputs it has but the beginning."""
        request = call.request
        if input_bytes(request) > MOST_INPUT_BYTES:
            each_bytes = MOST_INPUT_BYTES // len(request.inputs)
            inputs = tuple([_beginning(tensor, each_bytes) for tensor in request.inputs])
            request = request.replace(inputs=inputs)
        sequence = request.sequence
        told = "" if sequence is None else repr((sequence.id, sequence.is_start, sequence.is_end))
        return self._keys.of(request, told, request.version, "", call.options.constraints)

    def _again(
        self, known: Repeated, fingerprint: bytes, call: Call, responder: Responder
    ) -> Handle:
        if known.fingerprint != fingerprint:
            self._count("mismatched")
            raise KeyUsed(
                "the idempotency key was used for another request: for each request that is not the same, use a new one"
            )
        if known.run is not None:
            self._count("joined")
            return known.run.join(call, responder)
        self._count("repeated")
        if known.error is not None:
            responder.fail(known.error)
            return ANSWERED
        if known.entry is None or known.picker is None:
            raise KeyUsed(
                "the request with this idempotency key was answered, and the answer is too large to be kept; use another key"
                " to run it again"
            )
        entry = known.entry
        responder.complete(Outcome(entry.answer, entry.peer, entry.replica, 0, known.picker, entry))
        return ANSWERED

    def may_go_on(self, run: KeyedRun, size_bytes: int) -> bool:
        """Return whether there is room for the inputs of a run whose clients have left; they are counted from now on."""
        repeated = run.repeated
        if size_bytes > self._left_bytes(repeated.name[0]):
            return False
        self._grow(repeated, size_bytes)
        return True

    def completed(self, run: KeyedRun, outcome: Outcome) -> None:
        """Remember an answer, as far as there is room for it."""
        repeated = run.repeated
        now_s = self._clock()
        layout = self._layouts.of(outcome.answer)
        entry = Entry(b"", outcome.answer, layout, outcome.peer, None, now_s, REPEATED)
        self._end(repeated, now_s)
        most_bytes = min(self.most_bytes * MOST_ANSWER_PART, self._left_bytes(repeated.name[0]))
        if entry.size_bytes <= most_bytes:
            served = outcome.picker.served
            repeated.entry = entry
            repeated.picker = RequestPicker(
                served, ANYWHERE, RequestShape(served.model, served.version, 0)
            )
            self._grow(repeated, entry.size_bytes)

    def failed(self, run: KeyedRun, error: CapameshError) -> None:
        """Remember an error if the call may have run, else forget the key."""
        repeated = run.repeated
        if repeated.run is not run:
            return
        if not _may_have_run(run.picker):
            self._forget(repeated)
            return
        self._end(repeated, self._clock())
        repeated.error = error.with_traceback(None)

    def _end(self, repeated: Repeated, now_s: float) -> None:
        repeated.run = None
        self._grow(repeated, _bytes_of(repeated.name) - repeated.size_bytes)
        repeated.ends_s = now_s + KEPT_S
        self._ended.append(repeated)

    def _reserve(self, name: tuple[str, str]) -> None:
        """Raise `TooManyRequests` or `Overloaded` unless there is room for one more key."""
        tenant = name[0]
        if self._left_bytes(tenant) >= _bytes_of(name):
            return
        wait_s = max(1.0, self._ended[0].ends_s - self._clock()) if self._ended else 1.0
        if self._by_tenant.get(tenant, 0) > self.used_bytes / 2:
            raise TooManyRequests(
                f"the router remembers idempotency keys of this tenant in {self._by_tenant[tenant]} bytes, and has"
                f" {self.most_bytes} for all; send fewer within {KEPT_S:g} s, or some without a key",
                wait_s,
            )
        raise Overloaded(
            f"the router remembers idempotency keys in {self.used_bytes} bytes of {self.most_bytes}; send fewer within"
            f" {KEPT_S:g} s, or some without a key",
            wait_s,
        )

    def _left_bytes(self, tenant: str) -> int:
        """Return how much more a tenant may have: together no more than what is left to all others."""
        free_bytes = self.most_bytes - self.used_bytes
        return (free_bytes - self._by_tenant.get(tenant, 0)) // 2

    def _grow(self, repeated: Repeated, size_bytes: int) -> None:
        """Count so many bytes more of a key, or fewer."""
        repeated.size_bytes += size_bytes
        self._charge(repeated.name[0], size_bytes)

    def _charge(self, tenant: str, size_bytes: int) -> None:
        """Count so many bytes more of a tenant, or fewer: who has none is forgotten."""
        self.used_bytes += size_bytes
        has_bytes = self._by_tenant.get(tenant, 0) + size_bytes
        if has_bytes:
            self._by_tenant[tenant] = has_bytes
        else:
            self._by_tenant.pop(tenant, None)

    def _forget_old(self, now_s: float) -> None:
        while self._ended and self._ended[0].ends_s <= now_s:
            self._forget(self._ended.popleft())

    def _forget(self, repeated: Repeated) -> None:
        if self._known.pop(repeated.name, None) is None:
            return
        repeated.run = None
        self._charge(repeated.name[0], -repeated.size_bytes)

    def _count(self, result: str) -> None:
        self._counts[result,] = self._counts.get((result,), 0) + 1


class Layers(Protocol):
    """The layers that a call with a key goes through."""

    @property
    def repeated(self) -> RepeatedCalls | None:
        """Return the layer that knows keys again; None: they are refused."""
        ...

    @property
    def meter(self) -> Meter | None:
        """Return the layer that holds clients to their limits."""
        ...

    @property
    def routing(self) -> Routing:
        """Return what sends calls on their way."""
        ...


def start_once(
    layers: Layers, payer: Key | None, key: str, call: Call, responder: Responder
) -> Handle:
    """Start a call with an idempotency key as that of `payer`, unless it was started before; see `RepeatedCalls.start`."""
    repeated, meter = layers.repeated, layers.meter
    if repeated is None:
        raise InvalidRequest(NO_KEYS)
    start: Start = layers.routing.pipeline.start
    if payer is not None and meter is not None:
        start = partial(_metered, meter, payer)
    return repeated.start(key, call, responder, start)


def _metered(meter: Meter, payer: Key, call: Call, responder: Responder) -> Handle:
    return meter.start(call, payer, responder)


def _bytes_of(name: tuple[str, str]) -> int:
    """Return the bytes of a tenant's key without its answer."""
    return KEY_BYTES + len(name[0]) + len(name[1])


def _beginning(tensor: Tensor, most_bytes: int) -> Tensor:
    return Tensor(tensor.name, tensor.datatype, tensor.shape, memoryview(tensor.data)[:most_bytes])


def _may_have_run(picker: RequestPicker | None) -> bool:
    """Return whether a node may have run a call that has failed: all attempts that were not refused may have."""
    for attempt in () if picker is None else picker.attempts:
        code = attempt.record().outcome.partition(":")[0]
        if not attempt.is_unsent and code not in _NOT_RUN:
            return True
    return False
