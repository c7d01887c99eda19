"""The keys by which clients of a router are known: what a key may do, and whose it is. Pure.

A key is `cm_`, the 8 characters of its id, `_`, and 32 more that nobody can guess: 190 bits. So SHA-256 of it is kept, for
it needs none of the slow digests that passwords need: nobody can try out so many. The id is no secret: it is what people
name a key by, and what logs show.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import string
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from typing_extensions import override

from capamesh.protocol.errors import Forbidden, KeysUnavailable, Unauthenticated
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, MAX_PRIORITY
from capamesh.protocol.schema import DISTINCT, PLAIN, Meta, Table

KEYS_FILE: Final = "keys.db"
"""The name of the file of keys in a router's data folder."""
ALPHABET: Final = string.digits + string.ascii_letters
PREFIX: Final = "cm"
ID_CHARS: Final = 8
SECRET_CHARS: Final = 32
_FORM: Final = re.compile(
    rf"{PREFIX}_([0-9A-Za-z]{{{ID_CHARS}}})_[0-9A-Za-z]{{{SECRET_CHARS}}}", re.ASCII
)
MAX_TENANT_CHARS: Final = 128
MAX_MODELS: Final = 256
"""The most models that a key names (guess: one that needs more is better off with a pattern)."""
TRUSTED_S: Final = 600.0
"""Seconds for which known keys are taken while they cannot be read anew: long enough to mend a disk, and the longest for
which a key that was revoked meanwhile is still taken."""

MAX_REGIONS: Final = 64
"""The most regions that a key names, as of a request's header."""

Pattern = Annotated[str, Meta(min_length=1, max_length=256), PLAIN]
Region = Annotated[str, Meta(min_length=1, max_length=64), PLAIN]
Rate = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=0, le=10**15)]


class Verb(StrEnum):
    """The things that a key may do."""

    INFER = "infer"
    """Run models, and ask what inputs they take."""
    JOBS = "jobs"
    """Submit batch jobs."""
    READ = "read"
    """See the network: nodes, models, what became of requests, the page."""
    METRICS = "metrics"
    """Read `/metrics`."""
    ADMIN = "admin"
    """Command the router, as with the operator's key."""


class Scope(Table, frozen=True):
    """The scope of a key, as it is kept: a key that it does not have is refused, for it may be a limit of a newer version."""

    verbs: Annotated[tuple[Verb, ...], Meta(min_length=1, max_length=len(Verb))] = (Verb.INFER,)
    models: Annotated[tuple[Pattern, ...], Meta(max_length=MAX_MODELS)] = ()
    """The models that it may run, by name, or by the name's beginning and a `*`; none: all."""
    max_priority: Annotated[int, Meta(ge=1, le=MAX_PRIORITY)] = DEFAULT_PRIORITY
    """The most urgent priority that a request with it may have: 1 is the highest."""
    max_price: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    """The price of a million rows, as nodes advertise it, above which they do not run its requests; None: any."""
    regions: Annotated[tuple[Region, ...], Meta(max_length=MAX_REGIONS), DISTINCT] = ()
    """The regions whose nodes run its requests, as nodes advertise them; none: all."""
    requests_per_s: Rate = 0.0
    """The most requests a second; 0: as many as there is room for, as with the other limits."""
    rows_per_s: Rate = 0.0
    """The most rows a second."""
    bytes_per_s: Rate = 0.0
    """The most bytes of tensors a second, in requests and answers together."""
    concurrency: Count = 0
    """The most requests under way at a time."""
    rows_per_month: Count = 0
    """The most rows in a month (UTC)."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its secret."""

    id: str
    digest: bytes
    """SHA-256 of the whole key."""
    tenant: str
    """The tenant as whose its requests are counted."""
    scope: Scope
    expires_s: float | None = None
    """The time when it ends, in seconds since 1970; None: never."""

    def may(self, *verbs: Verb) -> bool:
        """Return whether it may do one of `verbs`."""
        return any(verb in self.scope.verbs for verb in verbs)

    def may_run(self, model: str) -> bool:
        """Return whether it may run a model of this name."""
        return Verb.INFER in self.scope.verbs and self.is_for(model)

    def is_for(self, model: str) -> bool:
        """Return whether a model of this name is one of those that it is for, whatever it may do with them."""
        models = self.scope.models
        return not models or any(
            model.startswith(each[:-1]) if each.endswith("*") else model == each for each in models
        )


OPERATOR: Final = Key("operator", b"", "", Scope(verbs=tuple(Verb), max_priority=1))
"""Stands for the operator's key, which may do all, in any tenant's name."""


def new_text(draw: Callable[[str], str]) -> str:
    """Return a new key; `draw` returns one character of a text by chance, and must be fit for secrets."""
    key_id = "".join(draw(ALPHABET) for _ in range(ID_CHARS))
    return f"{PREFIX}_{key_id}_{''.join(draw(ALPHABET) for _ in range(SECRET_CHARS))}"


def id_of(text: str) -> str:
    """Return the id of a key; empty: it has not the form of one."""
    found = _FORM.fullmatch(text)
    return "" if found is None else found[1]


def digest_of(text: str) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(text.encode("ascii")).digest()


class KeyRing:
    """The keys of a router as they were last read, and whether it asks for any.

    It asks for none until the first was made, and from then on always. Keys are read elsewhere, and taken over by `take`;
    `failed` says that they could not be read, `tick` that time has passed. `on_change` is told when what was found
    before may be otherwise.
    """

    def __init__(self) -> None:
        self.is_required = False
        """True once there was a key: no request is taken without one any more."""
        self._read: tuple[Key, ...] = ()
        """The keys as they were read, also those whose time is over."""
        self._keys: Mapping[str, Key] = {}
        self._expires_s = float("inf")
        """The time when the next of them ends."""
        self._checked_s = 0.0
        """The time at which it was last looked which have not ended."""
        self.wall_s = 0.0
        """The time at which it was last told the time, in seconds since 1970."""
        self._read_s = 0.0
        self._has_failed = False
        """True if the keys could not be read the last time."""
        self._is_lost = False
        """True if they could not be read for so long that no key is taken any more."""
        self._watchers: list[Callable[[], None]] = []

    @override
    def __repr__(self) -> str:
        return f"KeyRing({len(self._keys)} keys, required={self.is_required}, failed={self._has_failed})"

    @property
    def keys(self) -> Collection[Key]:
        """Return the keys that are taken."""
        return self._keys.values()

    def on_change(self, then: Callable[[], None]) -> None:
        """Have `then` called whenever what `find` has returned or raised may not hold any more."""
        self._watchers.append(then)

    def take(self, keys: Iterable[Key], now_s: float, wall_s: float) -> None:
        """Go by these keys, which were just read; `now_s` never goes back, `wall_s` is in seconds since 1970."""
        self.is_required = True
        self.wall_s = wall_s
        self._read = tuple(keys)
        self._expire(wall_s)
        self.unchanged(now_s)
        self._tell()

    def unchanged(self, now_s: float) -> None:
        """Go on with the keys that there are: they were looked at, and are still the same."""
        had_failed = self._has_failed
        self._has_failed = False
        self._is_lost = False
        self._read_s = now_s
        if had_failed:
            self._tell()

    def failed(self, now_s: float) -> None:
        """Go on with the keys that there are for some time: they could not be read."""
        self.is_required = True
        is_lost = not self._keys or now_s - self._read_s > TRUSTED_S
        if not self._has_failed or is_lost is not self._is_lost:
            self._has_failed = True
            self._is_lost = is_lost
            self._tell()

    def tick(self, wall_s: float) -> None:
        """Drop keys whose time is over, and take up again those whose time is not over where the clock went back."""
        self.wall_s = wall_s
        if wall_s >= self._expires_s or wall_s < self._checked_s:
            self._expire(wall_s)
            self._tell()

    def find(self, text: str) -> Key:
        """Return the key that a client has sent; how long that takes says nothing of any other.

        Raises:
            Unauthenticated: there is no such key, or none was sent.
            KeysUnavailable: nobody can tell now, for the keys cannot be read.
        """
        if not text:
            raise Unauthenticated(
                "this router asks for a key: send it as 'Authorization: Bearer cm_...', or set CAPAMESH_KEY; its operator"
                " makes one with: capamesh keys create"
            )
        key = self._keys.get(id_of(text))
        if (
            key is not None
            and not self._is_lost
            and hmac.compare_digest(digest_of(text), key.digest)
        ):
            return key
        if self._has_failed:
            raise KeysUnavailable(
                "the router cannot read its keys now, and does not know this one; send it again later"
            )
        raise Unauthenticated(
            "the key is unknown, has expired or was revoked; ask the router's operator for another"
        )

    def of_id(self, key_id: str) -> Key | None:
        """Return the key of this id, for one who need not show it; None: it is not taken any more."""
        return None if self._is_lost else self._keys.get(key_id)

    def has(self, key: Key) -> bool:
        """Return whether a key that was found is still one."""
        return not self._is_lost and self._keys.get(key.id) == key

    def _expire(self, wall_s: float) -> None:
        self._checked_s = wall_s
        self._keys = {
            each.id: each
            for each in self._read
            if each.expires_s is None or each.expires_s > wall_s
        }
        self._expires_s = min(
            (each.expires_s for each in self._keys.values() if each.expires_s is not None),
            default=float("inf"),
        )

    def _tell(self) -> None:
        for then in self._watchers:
            then()


def check_verb(key: Key, *verbs: Verb) -> None:
    """Raise `Forbidden` unless the key may do one of `verbs`."""
    if not key.may(*verbs):
        raise Forbidden(
            f"the key may do {', '.join(key.scope.verbs)}, and this takes {' or '.join(verbs)}; ask the router's operator"
            " for another"
        )


def check_request(key: Key | None, priority: int) -> None:
    """Raise `Unauthenticated` for a request that no wire has found a key for, `Forbidden` for one more urgent than its key allows."""
    if key is None:  # it came before the first key was made, or its wire asks for none
        raise Unauthenticated(
            "this router asks for keys by now; send the request once more, with one"
        )
    most = key.scope.max_priority
    if priority < most:
        raise Forbidden(
            f"the request's priority is {priority}, and the key's most urgent one is {most}; name that, or none"
        )


def check_model(key: Key, model: str) -> None:
    """Raise `Forbidden` unless the key may run the model; the text names none, for others' models are not to be guessed."""
    check_verb(key, Verb.INFER)
    check_scope(key, model)


def check_scope(key: Key, model: str) -> None:
    """Raise `Forbidden` unless the model is one of those that the key is for, whatever it may do with them."""
    if not key.is_for(model):
        raise Forbidden("the key is not for this model; ask the router's operator for one that is")


def check_tenant(key: Key, named: str) -> None:
    """Raise `Forbidden` for a request that names another tenant than its key's."""
    if named and named != key.tenant:
        raise Forbidden(
            f"the request names the tenant {named[:80]!r}, and its key is another's; leave the header X-Capamesh-Tenant out"
        )
