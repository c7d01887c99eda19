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
    CapameshError,
    InvalidRequest,
    KeyUsed,
    Overloaded,
    TooManyRequests,
)
from capamesh.protocol.tensors import Tensor
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.cache.entry import REPEATED, Entry, Layouts
from capamesh.router.cache.key import MOST_INPUT_BYTES, Keys, input_bytes
from capamesh.router.policies.request_shape import RequestShape
from capamesh.router.requests.answer_cache import ANSWERED
from capamesh.router.requests.call import Handle, Outcome
from capamesh.router.requests.keyed_run import (
    Claim,
    Keeper,
    KeyedRun,
    Repeated,
    bytes_of,
    may_have_run,
)
from capamesh.router.rules.constraints import ANYWHERE
from capamesh.router.timers import Alarms

if TYPE_CHECKING:
    from capamesh.router.access.keys import Key
    from capamesh.router.requests.call import Call, Responder
    from capamesh.router.requests.key_claims import Claims, KeyName
    from capamesh.router.requests.metered import Meter
    from capamesh.router.requests.routing import Routing
    from capamesh.router.requests.shared_run import Start
    from capamesh.router.timers import Timers

KEPT_S: Final = 600.0
"""Seconds for which a key is remembered once its call has ended."""
MOST_BYTES: Final = 64 * 2**20
"""The memory for all keys and their answers (guess: 60,000 keys with small answers)."""
FORGOTTEN_AT_ONCE: Final = 100
"""The most keys that are forgotten when a call comes (guess: some 100 us, and far more than come)."""
MOST_ANSWER_PART: Final = 1 / 16
"""A larger answer is not kept (guess: it would leave too little for others)."""


class RepeatedCalls(Keeper):
    """The idempotency keys of one router that are remembered."""

    def __init__(
        self, *, clock: Callable[[], float], timers: Timers, most_bytes: int = MOST_BYTES
    ) -> None:
        """`clock` is in seconds and never goes back; `timers` go by it."""
        self.claims: Claims | None = None
        """The other processes of the router; None: it has no others."""
        self.alarms = Alarms(timers, clock)
        self.most_bytes = most_bytes
        self.used_bytes = 0
        self._clock = clock
        self._keys = Keys()
        self._layouts = Layouts()
        self._known: dict[KeyName, Repeated] = {}
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

    def start(
        self, key: str, call: Call, responder: Responder, start: Start, whole: str = ""
    ) -> Handle:
        """Start a call with a key by `start`, or tell `responder` what came of the call that had the key before.

        `whole` tells the request of which the call is a part from others; "": it is none.

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
        fingerprint = self._fingerprint(call, whole)
        known = self._find(name, now_s)
        if known is not None:
            is_same = known.fingerprint == fingerprint
            under_way = "repeated" if known.run is None else "joined"
            self._count(under_way if is_same else "mismatched")
            return self._tell(known, fingerprint, call, responder)
        self._reserve(name)
        repeated = self._known[name] = Repeated(name, fingerprint)
        self._charge(name[0], repeated.size_bytes)
        run = repeated.run = KeyedRun(self, repeated, call, responder, start, self.alarms)
        if self.claims is not None:  # then it is the first once the others have said so
            claim = Claim(self.claims, run, start)
            run.began(claim)
            claim.ask()
            return run
        self.begins()
        try:
            handle = start(call, run)
        except BaseException:
            self._forget(repeated)
            run.close()
            raise
        run.began(handle)
        return run

    def recall(self, name: KeyName, fingerprint: bytes, responder: Responder) -> bool:
        """Tell `responder` what came of a call that has a key, or comes, as another process asks; return False: it is not known."""
        now_s = self._clock()
        self._forget_old(now_s)
        known = self._find(name, now_s)
        if known is None:
            return False
        try:
            self._tell(known, fingerprint, None if known.run is None else known.run.call, responder)
        except KeyUsed as error:
            responder.fail(error.with_traceback(None))
        return True

    @override
    def begins(self) -> None:
        """Count a call with a new key, which is run now."""
        self._count("first")

    @override
    def drop(self, repeated: Repeated) -> None:
        """Know nothing of a key of which another process has told."""
        self._count("elsewhere")
        self._remove(repeated)

    def _fingerprint(self, call: Call, whole: str) -> bytes:
        """Return the digest of a call, by which another with the same key is known; of large inputs it has but the beginning."""
        request = call.request
        if input_bytes(request) > MOST_INPUT_BYTES:
            each_bytes = MOST_INPUT_BYTES // len(request.inputs)
            inputs = tuple([_beginning(tensor, each_bytes) for tensor in request.inputs])
            request = request.replace(inputs=inputs)
        sequence = request.sequence
        told = "" if sequence is None else repr((sequence.id, sequence.is_start, sequence.is_end))
        told += whole
        return self._keys.of(request, told, request.version, "", call.options.constraints)

    def _tell(
        self, known: Repeated, fingerprint: bytes, call: Call | None, responder: Responder
    ) -> Handle:
        """Tell what came of a key's call, or comes; raise `KeyUsed`. `call` waits for it, None: it is over."""
        if known.fingerprint != fingerprint:
            raise KeyUsed(
                "the idempotency key was used for another request: for each request that is not the same, use a new one"
            )
        if known.run is not None and call is not None:
            return known.run.join(call, responder)
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

    @override
    def may_go_on(self, run: KeyedRun, size_bytes: int) -> bool:
        """Return whether there is room for the inputs of a run whose clients have left; they are counted from now on."""
        repeated = run.repeated
        if size_bytes > self._left_bytes(repeated.name[0]):
            return False
        self._grow(repeated, size_bytes)
        return True

    @override
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

    @override
    def failed(self, run: KeyedRun, error: CapameshError) -> None:
        """Remember an error if the call may have run, else forget the key."""
        repeated = run.repeated
        if repeated.run is not run:
            return
        if not may_have_run(run.picker):
            self._forget(repeated)
            return
        self._end(repeated, self._clock())
        repeated.error = error.with_traceback(None)

    def _end(self, repeated: Repeated, now_s: float) -> None:
        repeated.run = None
        self._grow(repeated, bytes_of(repeated.name) - repeated.size_bytes)
        repeated.ends_s = now_s + KEPT_S
        self._ended.append(repeated)

    def _reserve(self, name: KeyName) -> None:
        """Raise `TooManyRequests` or `Overloaded` unless there is room for one more key."""
        tenant = name[0]
        if self._left_bytes(tenant) >= bytes_of(name):
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

    def _find(self, name: KeyName, now_s: float) -> Repeated | None:
        """Return what is known of a key, unless its time is over."""
        known = self._known.get(name)
        if known is not None and known.run is None and known.ends_s <= now_s:
            self._forget(known)
            return None
        return known

    def _forget_old(self, now_s: float) -> None:
        """Forget keys whose time is over, some at a time: there may be many at once, and others are told of each."""
        for _ in range(FORGOTTEN_AT_ONCE):
            if not self._ended or self._ended[0].ends_s > now_s:
                return
            self._forget(self._ended.popleft())

    def _forget(self, repeated: Repeated) -> None:
        if self._remove(repeated) and self.claims is not None:
            self.claims.free(repeated.name)

    def _remove(self, repeated: Repeated) -> bool:
        """Know nothing of a key any more; return whether it was known."""
        if self._known.get(repeated.name) is not repeated:
            return False
        del self._known[repeated.name]
        repeated.run = None
        self._charge(repeated.name[0], -repeated.size_bytes)
        return True

    def _count(self, result: str) -> None:
        self._counts[result,] = self._counts.get((result,), 0) + 1


class Layers(Protocol):
    """The layers that a call with a key goes through."""

    @property
    def repeated(self) -> RepeatedCalls:
        """Return the layer that knows keys again."""
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
    layers: Layers, payer: Key | None, key: str, call: Call, responder: Responder, whole: str
) -> Handle:
    """Start a call with an idempotency key as that of `payer`, unless it was started before; see `RepeatedCalls.start`."""
    meter = layers.meter
    start: Start = layers.routing.pipeline.start
    if payer is not None and meter is not None:
        start = partial(_metered, meter, payer)
    return layers.repeated.start(key, call, responder, start, whole)


def _metered(meter: Meter, payer: Key, call: Call, responder: Responder) -> Handle:
    return meter.start(call, payer, responder)


def _beginning(tensor: Tensor, most_bytes: int) -> Tensor:
    return Tensor(tensor.name, tensor.datatype, tensor.shape, memoryview(tensor.data)[:most_bytes])
