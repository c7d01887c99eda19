"""Finds the request that a worker's process died of: the evidence, and when it is enough. Pure.

A process that ends takes all requests with it that were under way there. Each of them is suspected, and each is asked
once more, elsewhere or of the process that replaces the lost one. One that is answered is innocent. One that is in two
deaths is held until the others that were in one of these are answered: it is guilty if it is then alone in it. So a
bystander that meets a stranger's stream of killers is not blamed for them; and a killer ends two processes, not three.

The word of one node convicts no request: the deaths must be at two nodes, and of two invites where the replicas of the
model are of several (`witnesses`). A request with two deaths that do not suffice is sent where a third would, or nowhere.

What cannot be known weakens the verdict, never the accused: where a request that was under way was given up, or its
client left, the death it was in convicts nobody; a link that returns to the same process was no death.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.router.balancing.witnesses import Witness, are_enough

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.replica import Replica

MAX_DEATHS = 128
"""The most deaths of processes that are not yet known to be gone or there; the oldest is forgotten and convicts nobody
(guess: the workers that die within a restart's time)."""
LEFT_S = 60.0
"""A request may still run, and end its worker, for this long after its client left (the default watchdog of a run)."""


class Stand(Enum):
    """The standing of a request that was under way in a process that ended."""

    FREE = auto()
    """The request may be sent again."""
    OPEN = auto()
    """The request may not be sent before more is known."""
    GUILTY = auto()
    """The request may never be sent again."""


class Death:
    """One end of one process, as far as it is known to be one."""

    __slots__ = (
        "endpoint",
        "is_muddled",
        "is_proven",
        "linked_s",
        "lost_s",
        "process",
        "suspects",
        "witness",
    )

    def __init__(self, endpoint: Endpoint, witness: Witness, now_s: float) -> None:
        self.endpoint = endpoint
        self.witness = witness
        self.process = endpoint.process
        self.linked_s = endpoint.linked_s
        self.lost_s = now_s
        self.suspects: dict[Suspicion, None] = {}
        """The requests that were under way and are not known to be innocent, in the order in which they were reported."""
        self.is_muddled = now_s - endpoint.left_s < LEFT_S
        """True if another request than the suspects may be the culprit."""
        self.is_proven = False
        """True once the process is known to be gone."""

    @override
    def __repr__(self) -> str:
        return f"Death({self.endpoint!r}, {len(self.suspects)} suspects)"


class Suspicion:
    """The suspicion of one request: the deaths that it may be the cause of."""

    __slots__ = ("deaths", "is_waiting")

    def __init__(self) -> None:
        self.deaths: list[Death] = []
        """The deaths of which it may be the cause."""
        self.is_waiting = False
        """True while it is held until more is known."""

    @override
    def __repr__(self) -> str:
        return f"Suspicion({len(self.deaths)} deaths)"

    @property
    def witnesses(self) -> frozenset[Witness]:
        """Return the nodes whose processes have ended."""
        return frozenset(each.witness for each in self.deaths)


class Deaths:
    """All ends of processes that one router looks into. `on_news`: who is held may look again."""

    def __init__(
        self, on_news: Callable[[], None], invite_of: Callable[[PeerId], str] = lambda _: ""
    ) -> None:
        """`invite_of` tells by which invite a node was let into the network, "" if that is not known."""
        self._on_news = on_news
        self.invite_of: Callable[[PeerId], str] = invite_of
        self._open: OrderedDict[Endpoint, Death] = OrderedDict()
        """The last of each endpoint, while it may still turn out to be none."""

    @override
    def __repr__(self) -> str:
        return f"Deaths({len(self._open)} open)"

    def witness(self, peer: PeerId) -> Witness:
        """Return what a node is as a witness."""
        return Witness(peer, self.invite_of(peer))

    def died(self, endpoint: Endpoint, suspicion: Suspicion, now_s: float) -> None:
        """A request was under way at an endpoint whose process seems to have ended."""
        death = self._open.get(endpoint)
        if death is None or death.linked_s != endpoint.linked_s:
            death = self._open[endpoint] = Death(endpoint, self.witness(endpoint.peer), now_s)
            self._open.move_to_end(endpoint)
            if len(self._open) > MAX_DEATHS:
                _, forgotten = self._open.popitem(last=False)
                forgotten.is_muddled = True
        death.suspects[suspicion] = None
        suspicion.deaths.append(death)

    def linked(self, endpoint: Endpoint) -> None:
        """An endpoint has a new link: it, or another of its node, tells whether a process has ended."""
        if not self._open:
            return
        is_news = False
        for death in [each for each in self._open.values() if each.endpoint.peer == endpoint.peer]:
            if death.endpoint is endpoint:
                is_same = bool(endpoint.process) and endpoint.process == death.process
            elif endpoint.process != death.process and endpoint.process_s > death.lost_s:
                is_same = False  # its node has started another in its place
            else:
                continue
            is_news = True
            del self._open[death.endpoint]
            death.is_proven = not is_same
            if is_same:
                self._close(death)
        if is_news:
            self._on_news()

    def stand(
        self, suspicion: Suspicion, replicas: Iterable[PeerId] = (), *, is_final: bool = False
    ) -> Stand:
        """Return how it stands with a request for a model of these `replicas`.

        `is_final`: nothing more will be known in its time.
        """
        stand, was_waiting = self._judged(suspicion, replicas, is_final), suspicion.is_waiting
        suspicion.is_waiting = stand is Stand.OPEN
        if (
            suspicion.is_waiting
            and not was_waiting
            and any(_are_all_waiting(each) for each in suspicion.deaths)
        ):
            self._on_news()  # nobody else is left to tell more: one of them must go on
            stand = self._judged(suspicion, replicas, is_final)
            suspicion.is_waiting = stand is Stand.OPEN
        return stand

    def _judged(self, suspicion: Suspicion, replicas: Iterable[PeerId], is_final: bool) -> Stand:
        deaths = suspicion.deaths
        if len(deaths) < 2 or not self.suffice(suspicion, replicas):
            return Stand.FREE
        if any(len(each.suspects) == 1 and not each.is_muddled for each in deaths):
            is_certain = is_final or all(each.is_proven for each in deaths)
            return Stand.GUILTY if is_certain else Stand.OPEN
        is_next = all(self._is_first(suspicion, each) for each in deaths)
        return Stand.FREE if is_next else Stand.OPEN

    def suffice(self, suspicion: Suspicion, replicas: Iterable[PeerId]) -> bool:
        """Return whether the deaths of a request, if there are two, hold against all `replicas` of its model."""
        return are_enough(suspicion.witnesses, map(self.witness, replicas))

    def shunned(
        self, suspicion: Suspicion, replicas: Iterable[Replica], peers: Iterable[PeerId]
    ) -> list[list[Replica]]:
        """Return which `replicas` not to ask after deaths: a list that is tried first, and those to fall back on.

        Another invite's word tells the most, then another node's. Where two deaths do not suffice against the `peers` with
        the model, only a word that would is worth a third.
        """
        heard = suspicion.witnesses
        of_peers: list[Replica] = []
        of_invites: list[Replica] = []
        is_other = False
        known, invites = {each.peer for each in heard}, {each.invite for each in heard} - {""}
        for replica in replicas:
            witness = self.witness(replica.endpoint.peer)
            if witness.peer in known:
                of_peers.append(replica)
            if witness.peer in known or witness.invite in invites:
                of_invites.append(replica)
            is_other |= bool(witness.invite) and witness.invite not in invites
        if len(suspicion.deaths) > 1 and not self.suffice(suspicion, peers):
            return [of_invites if is_other and len(invites) < 2 else of_peers]
        return [of_invites, of_peers, []]

    def answered(self, suspicion: Suspicion) -> None:
        """A request was answered: it is innocent."""
        self._leave(suspicion, is_muddled=False)

    def gave_up(self, suspicion: Suspicion) -> None:
        """A request ended unanswered: nobody will know."""
        self._leave(suspicion, is_muddled=True)

    def convicted(self, suspicion: Suspicion) -> None:
        """A request is guilty of its deaths, and nobody else is."""
        for death in list(suspicion.deaths):
            self._close(death)
        self._on_news()

    def _is_first(self, suspicion: Suspicion, death: Death) -> bool:
        """Return whether all that were in a death are held, so that one of them must go on, and it is this one's turn."""
        others = [each for each in death.suspects if each is not suspicion]
        return all(each.is_waiting for each in others) and next(iter(death.suspects)) is suspicion

    def _leave(self, suspicion: Suspicion, *, is_muddled: bool) -> None:
        is_news = False
        for death in suspicion.deaths:
            death.suspects.pop(suspicion, None)
            death.is_muddled |= is_muddled
            is_news |= any(each.is_waiting for each in death.suspects)
        suspicion.deaths.clear()
        if is_news:
            self._on_news()

    def _close(self, death: Death) -> None:
        """Close a death: nobody else is suspected of it any more."""
        for suspicion in death.suspects:
            suspicion.deaths.remove(death)
        death.suspects.clear()


def _are_all_waiting(death: Death) -> bool:
    return len(death.suspects) > 1 and all(each.is_waiting for each in death.suspects)
