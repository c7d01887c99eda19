"""The interface of policies: what they are asked, and the choice they return. Pure."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from typing_extensions import override

if TYPE_CHECKING:
    import random

    from capamesh.router.fleet.replica import Replica
    from capamesh.router.policies.request_shape import RequestShape


IsEligible = Callable[["Replica"], bool]
"""Says whether a request may go to a replica now. It is cheap; a policy calls it for the replicas it looks at, not for all."""
MayBeProbed = Callable[["Replica", float], bool]
"""Says whether the load of a replica may be asked for at that instant; it is as cheap as `IsEligible`."""


class Policy(Protocol):
    """A rule that picks where requests of one model go. It holds no clock, no socket, no global state.

    What a policy chooses by is kept by the replicas (`rif`, `load`, `peak_cost_s`, `endpoint.network`); measuring is
    not its matter. One policy is made for each model.
    """

    name: ClassVar[str]

    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        """Return an eligible one of `replicas`, None when there is none. `replicas` may be empty.

        The policy takes it that the request is sent there: it may pass a turn on and draw random numbers.
        """
        ...

    def preview(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
        rng: random.Random,
    ) -> Replica | None:
        """Return whom `pick` would return now if it drew from `rng`; no later pick is another for it."""
        ...

    def reported(self, replica: Replica, now_s: float) -> None:
        """The load of `replica` is new (`replica.load`)."""
        ...

    def sent(self, replica: Replica, now_s: float) -> None:
        """A request has been sent to `replica`; `replica.rif` counts it."""
        ...

    def probes(
        self, replicas: Sequence[Replica], may_be_probed: MayBeProbed, now_s: float
    ) -> Sequence[Replica]:
        """Return the replicas whose load should be asked for because a request was just sent; usually there are none."""
        ...


MakePolicy = Callable[[str, "random.Random"], Policy]
"""Makes a new policy of that name, which draws from that source; raises `ConfigError` for a name that is unknown."""


class PolicyBase(Policy):
    """The common base of policies: the random source, the preview, and hooks that do nothing.

    A subclass writes `pick`. Where that changes more than attributes that it sets to other immutable values, the subclass
    also has a `__copy__` whose picks leave the original as it was.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._draw = rng.random

    @override
    def preview(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
        rng: random.Random,
    ) -> Replica | None:
        """Let a copy pick, with another random source."""
        policy: PolicyBase = copy.copy(self)
        policy._rng, policy._draw = rng, rng.random
        return policy.pick(replicas, is_eligible, request, now_s)

    @override
    def reported(self, replica: Replica, now_s: float) -> None:
        """Keep nothing: the replica keeps its load itself."""

    @override
    def sent(self, replica: Replica, now_s: float) -> None:
        """Keep nothing: the replica counts what is in flight itself."""

    @override
    def probes(
        self, replicas: Sequence[Replica], may_be_probed: MayBeProbed, now_s: float
    ) -> Sequence[Replica]:
        """Return none: the load is not asked for."""
        del replicas, may_be_probed, now_s
        return ()
