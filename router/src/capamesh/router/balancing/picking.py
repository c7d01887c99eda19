"""The two sides of picking replicas for one request: what its attempts ask, and which versions they may go to. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

from mypy_extensions import mypyc_attr

from capamesh.router.balancing.attempt import Attempt
from capamesh.router.balancing.purpose import Purpose

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.deaths import Stand
    from capamesh.router.balancing.eligibility import Eligibility
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.replica import Replica


@mypyc_attr(native_class=False)
class Picker(Protocol):
    """One request's side of the balancer: chooses replicas, keeps their counters, holds the budgets.

    Times are seconds on the clock of `now_s`; `elapsed_s` counts from the attempt's `sent`. Of `answered`,
    `failed` and `withdrawn` exactly one follows each `sent`, and ends the in-request count that it began.
    """

    __slots__ = ()

    attempts: list[Attempt]
    """The attempts so far, in the order in which they were sent: `RequestAttempts` fills it, and an explanation reads it."""

    def choose(
        self, asked: Collection[Replica], now_s: float, purpose: Purpose = Purpose.FIRST
    ) -> Replica:
        """Return a replica not in `asked` for an attempt of that purpose. Raises `ModelNotFound` or `NoEndpoint` when nobody is left."""
        ...

    def sent(self, replica: Replica, now_s: float) -> None:
        """An attempt begins."""
        ...

    def answered(
        self,
        replica: Replica,
        load: LoadReport,
        elapsed_s: float,
        at_node_s: float,
        size_bytes: int,
        now_s: float,
    ) -> None:
        """An attempt ended with an answer; `size_bytes` of request and answer together."""
        ...

    def failed(
        self, replica: Replica, error: CapameshError, elapsed_s: float, now_s: float
    ) -> None:
        """An attempt ended with an error: a refusal, the node's failure, or the caller's fault (`ClientError`)."""
        ...

    def refuted(
        self, replica: Replica, by: Replica, error: CapameshError, elapsed_s: float, now_s: float
    ) -> None:
        """`error`, of which `failed` has told after `elapsed_s`, is not the caller's fault: `by` has answered."""
        ...

    def has_time_left(self, replica: Replica, remaining_s: float) -> bool:
        """Return whether `replica` is wrong to say that the deadline has passed while `remaining_s` are left."""
        ...

    def is_back(self, replica: Replica, since_s: float) -> bool:
        """Return whether the link of `replica` is newer than that instant."""
        ...

    def died(self, replica: Replica, now_s: float) -> None:
        """The link of `replica` ended without a word while the request was under way there: its process may have ended."""
        ...

    def stand(self, *, is_final: bool = False) -> Stand:
        """Return how it stands with the request after `died`; `is_final`: there is no time to learn more."""
        ...

    def is_far_above_usual(self, replica: Replica) -> bool:
        """Return whether the request is so much larger than is usual that `replica` may have ended of that alone."""
        ...

    def ended(self, *, is_guilty: bool) -> None:
        """The request ended unanswered after `died`."""
        ...

    def left(self, replica: Replica, now_s: float) -> None:
        """An attempt that is under way will be withdrawn without an answer: it may go on at the node."""
        ...

    def is_alive(self, replica: Replica, since_s: float) -> bool:
        """Return whether the process of `replica` was certainly there after that instant."""
        ...

    def wait_until_s(self, asked: Collection[Replica], now_s: float) -> float:
        """Return until when some replica not in `asked` that lacks but a link is likely to have one, `now_s` if unknown.

        Minus infinity: there is no such replica, or too many wait for one.
        """
        ...

    def silent(self, replica: Replica, elapsed_s: float, now_s: float) -> None:
        """An attempt has been silent over its limit; it stays under way. At most once an attempt."""
        ...

    def withdrawn(self, replica: Replica, elapsed_s: float, now_s: float) -> None:
        """An attempt ended unanswered: another was faster, the deadline passed or the client left."""
        ...

    def try_retry(self, now_s: float) -> bool:
        """Take a token from the retry budget; False: there is none."""
        ...

    def cross_check(self, of: Replica, asked: Collection[Replica], now_s: float) -> Replica | None:
        """Return a replica not in `asked` to say whether the caller is wrong, as `of` says; None: that is settled.

        It is settled once nodes of two invites have said so. Where there is but one invite, one other node is asked; it is
        paid for from a budget of its own, unless `of` was wrong of late: the caller may as well be wrong.
        """
        ...

    def lacks_word(self, now_s: float) -> bool:
        """Return whether the word of one invite alone is known, and a node of another may be asked, or was."""
        ...

    def may_repeat_after(self, replica: Replica) -> bool:
        """Return whether only the invite of `replica`, at which the request failed, says that it may not run twice.

        If so, the request may be sent to others: none of this invite is chosen from then on.
        """
        ...

    def try_pass_on(self, now_s: float) -> bool:
        """Return whether another node may be asked after one that was full."""
        ...

    def try_hedge(self, now_s: float) -> bool:
        """Take a token from the hedge budget; False: there is none."""
        ...

    def hedge_delay_s(self, now_s: float) -> float | None:
        """Return how long one attempt may be alone under way before another joins it; None: for ever."""
        ...

    def first_byte_limit_s(self, replica: Replica, remaining_s: float, now_s: float) -> float:
        """Return how long `replica` may be silent when `remaining_s` are left of the request's time, both from `sent`."""
        ...

    def has_answered(self, replica: Replica, since_s: float) -> bool:
        """Return whether `replica` has answered any request for this model since that instant."""
        ...


@mypyc_attr(native_class=False)
class OtherVersions(Protocol):
    """The versions of a model that an attempt of one request may go to."""

    __slots__ = ()

    def open_from(
        self, served: ServedModel, rules: Eligibility, key: str, *, is_second: bool = False
    ) -> ServedModel:
        """Return `served` if `rules` leave a replica of it open, else the next version of which they do."""
        ...

    def served_models(self) -> list[ServedModel]:
        """Return all of them, in no order."""
        ...
