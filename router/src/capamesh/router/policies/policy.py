"""What a policy sees and what it returns. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.fleet.replica import Replica


@dataclass(slots=True)  # not frozen: one is made for every request
class RequestShape:
    """What of a request may matter for where it goes."""

    model: ModelName
    version: ModelVersion
    size_bytes: int
    affinity: str = ""
    """Requests of one key should meet at one node: a sequence's id, a session, a prompt's digest; "": none."""
    is_pinned: bool = False
    """They must meet there, however much it has to do: the node keeps what the last one left."""
    is_urgent: bool = False
    """Nodes give it the places of others that wait."""


IsEligible = Callable[["Replica"], bool]
"""Whether a request may go there now. Cheap; a policy calls it for those it looks at, not for all."""


class Policy(Protocol):
    """Picks where requests of one model go. Holds no clock, no socket, no global state.

    What it chooses by is kept by the replicas (`rif`, `load`, `peak_cost_s`, `endpoint.network`); measuring is
    not its matter. One is made for each model.
    """

    name: ClassVar[str]

    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        """Return an eligible one of `replicas`, None when there is none. `replicas` may be empty."""
        ...

    def reported(self, replica: Replica, now_s: float) -> None:
        """A replica's load is new (`replica.load`)."""
        ...

    def sent(self, replica: Replica, now_s: float) -> None:
        """A request has been sent to `replica`; `replica.rif` counts it."""
        ...

    def probes(
        self, replicas: Sequence[Replica], is_eligible: IsEligible, now_s: float
    ) -> Sequence[Replica]:
        """Return whose load should be asked for because a request was just sent; mostly nobody's."""
        ...


class StatelessPolicy:
    """The parts of `Policy` that a policy without a memory of its own needs not."""

    def reported(self, replica: Replica, now_s: float) -> None:
        """Part of `Policy`."""

    def sent(self, replica: Replica, now_s: float) -> None:
        """Part of `Policy`."""

    def probes(
        self, replicas: Sequence[Replica], is_eligible: IsEligible, now_s: float
    ) -> Sequence[Replica]:
        """Part of `Policy`."""
        del replicas, is_eligible, now_s
        return ()
