"""The models that no node has ready: in which state they are, or when they were last here. Pure.

A caller is told "come again" of a model that loads, restarts or has just left with its node, "it failed, and why" of
one that failed, and "not found" only of one that nobody knows, or that a node which is there has removed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.errors import ModelFailed, ModelUnavailable, NoEndpoint

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId

    _Key = tuple[ModelName, ModelVersion]

LATELY_S = 120.0
"""A model counts as one that will be back for this long after its last node has left (guess: a node is restarted, or a machine
started, within two minutes)."""
MAX_LATELY = 1024
"""Models of which that is kept; those that left first are forgotten first (guess: more than are in use)."""
LATELY_RETRY_S = 5.0
LOADING_RETRY_S = 2.0
"""Callers are told to come again after this time (guess: a worker restarts within two seconds, a node within five)."""
MOST_NODES = 64
MOST_REASONS = 3
"""The states of this many nodes are looked at and told (guess: as much as one reads)."""


class AbsentModels:
    """All of one fleet that is not ready. `heard` is told whenever a node says something else."""

    __slots__ = ("_lately", "_of", "_unready", "have_all_left", "unloaded_nodes")

    def __init__(self) -> None:
        self._unready: dict[ModelName, dict[PeerId, list[ModelOffer]]] = {}
        self.unloaded_nodes: dict[ModelName, dict[ModelVersion, dict[PeerId, str]]] = {}
        """The nodes that have no memory for a model and may load it, by model and version: see `unloaded`."""
        self._of: dict[PeerId, set[ModelName]] = {}
        """The models in `_unready` that have an entry of the node."""
        self._lately: OrderedDict[_Key, float | None] = OrderedDict()
        """The models that some node had ready when it left, oldest first, and when `tick` first saw that."""
        self.have_all_left = False
        """True if there were nodes, and none is left."""

    @override
    def __repr__(self) -> str:
        return f"AbsentModels({len(self._unready)} not ready, {len(self._lately)} left of late)"

    def heard(
        self,
        peer: PeerId,
        offers: Iterable[ModelOffer],
        before: Collection[_Key],
        ready: Collection[_Key],
        *,
        is_back: bool,
    ) -> None:
        """Take over what a node says: all that it `offers`, and what of it counts as ready, before and now.

        `is_back`: what it has no more may be back with it, since it has left or just started; else it was removed.
        """
        for key in before:
            if is_back and key not in ready:
                self._lately[key] = None
                self._lately.move_to_end(key)
                if len(self._lately) > MAX_LATELY:
                    self._lately.popitem(last=False)
        for model in self._of.pop(peer, ()):
            peers = self._unready[model]
            for offer in peers.pop(peer):
                self._drop_unloaded(model, offer.version, peer)
            if not peers:
                del self._unready[model]
        for offer in offers:
            if (offer.name, offer.version) not in ready:
                self._of.setdefault(peer, set()).add(offer.name)
                self._unready.setdefault(offer.name, {}).setdefault(peer, []).append(offer)
                if offer.state is ModelState.UNLOADED and offer.digest:
                    versions = self.unloaded_nodes.setdefault(offer.name, {})
                    versions.setdefault(offer.version, {})[peer] = offer.digest

    def tick(self, now_s: float) -> None:
        """Forget what left too long ago; to be called every few seconds."""
        for key, left_s in list(self._lately.items()):
            if left_s is None:
                self._lately[key] = now_s
            elif now_s - left_s >= LATELY_S:
                del self._lately[key]

    def unloaded(self, model: ModelName) -> Mapping[ModelVersion, Mapping[PeerId, str]]:
        """Return, by version, the nodes that have no memory for the model and may load it, each with its file's digest.

        One that was unloaded on purpose has none.
        """
        return self.unloaded_nodes.get(model, {})

    def error(
        self, model: ModelName, version: ModelVersion
    ) -> ModelUnavailable | NoEndpoint | None:
        """Return what to tell of a model that nobody has ready, "" being any version; None: nobody knows it."""
        of = f" version {version}" if version else ""
        found = [
            offer
            for offers in islice(self._unready.get(model, {}).values(), MOST_NODES)
            for offer in offers
            if not version or offer.version == version
        ]
        if found:
            states = {offer.state for offer in found}
            said = Counter(
                f"{offer.state}: {offer.reason}" if offer.reason else str(offer.state)
                for offer in found
            )
            why = "; ".join(text for text, _ in said.most_common(MOST_REASONS))
            text = f"model {model!r}{of} is known, but no node has it ready ({why})"
            if states == {ModelState.FAILED}:
                return ModelFailed(
                    f"{text}; to wait does not help: have the node's operator look at it"
                )
            return ModelUnavailable(f"{text}; try again soon", LOADING_RETRY_S)
        if any(known == model and version in {"", at} for known, at in self._lately):
            return ModelUnavailable(
                f"model {model!r}{of} was here of late, but its nodes have left; try again soon",
                LATELY_RETRY_S,
            )
        if self.have_all_left:
            return NoEndpoint(
                "this router knows of no node now: all that it had heard of have left; try again soon"
            )
        return None

    def _drop_unloaded(self, model: ModelName, version: ModelVersion, peer: PeerId) -> None:
        versions = self.unloaded_nodes.get(model, {})
        peers = versions.get(version)
        if peers is None or peers.pop(peer, None) is None or peers:
            return
        del versions[version]
        if not versions:
            del self.unloaded_nodes[model]
