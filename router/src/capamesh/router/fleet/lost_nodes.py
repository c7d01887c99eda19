"""The nodes that a router has lost: they were members, fell silent without a goodbye, and have not come back. Pure.

A node is lost until it returns, is revoked, the operator forgets it, or `KEPT_MS` have passed. One that was drained or that
said goodbye is not lost.

A member may come and go under ever new names. So an invite has `MOST_OF_INVITE` places, and where these or all `MOST`
are taken, the node that was a member for the shortest time gives way, of the invite that has most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

from typing_extensions import override

from capamesh.protocol.adverts import MAX_NAME_CHARS
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.schema import PLAIN, Meta, Mismatch, Struct, plain_values, read

if TYPE_CHECKING:
    from capamesh.protocol.network import RevocationList

KEPT_MS: Final = 86_400_000
"""A node that was away for a day is not waited for (guess: by then somebody has seen it)."""
MOST: Final = 512
"""The most nodes that are kept (guess: more than one looks through)."""
MOST_OF_INVITE: Final = 64
"""The most nodes of one invite: as many as an invite admits by default."""
MOST_MODELS: Final = 64
"""The most models that are kept of a lost node (guess)."""
Key = tuple[ModelName, ModelVersion]
"""A model and its version."""


class Hosted(Struct, frozen=True):
    """A model version that a lost node had ready."""

    name: Annotated[str, Meta(max_length=256), PLAIN]
    version: Annotated[str, Meta(max_length=20), PLAIN]
    nodes_before: Annotated[int, Meta(ge=0)]
    """The number of nodes that had it ready when this one was lost, this one included."""


class LostNode(Struct, frozen=True):
    """One node that was lost."""

    peer: Annotated[str, Meta(max_length=128), PLAIN]
    name: Annotated[str, Meta(max_length=MAX_NAME_CHARS), PLAIN]
    invite: Annotated[str, Meta(max_length=64), PLAIN]
    lost_at_ms: int
    stayed_s: float
    """How long it was a member."""
    models: Annotated[tuple[Hosted, ...], Meta(max_length=MOST_MODELS)]

    @property
    def lost_at(self) -> datetime:
        """When it was lost."""
        return datetime.fromtimestamp(self.lost_at_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class ShortModel:
    """A model version that fewer nodes have ready than before some were lost."""

    name: str
    version: str
    nodes_ready: int
    nodes_before: int
    lost: tuple[str, ...]
    """The names of the lost nodes that had it, or their peer ids."""


class LostNodes:
    """The lost nodes of one router, and since when the others have been members."""

    def __init__(self) -> None:
        self._lost: dict[PeerId, LostNode] = {}
        self._here: dict[PeerId, tuple[str, float]] = {}
        """The invite of each member, and when it joined."""
        self.is_changed = False
        """True if the list differs from the last that was written."""

    @override
    def __repr__(self) -> str:
        return f"LostNodes({len(self._lost)} lost, {len(self._here)} here)"

    def __len__(self) -> int:
        return len(self._lost)

    def nodes(self) -> list[LostNode]:
        """Return the lost nodes, the one lost last first."""
        return sorted(self._lost.values(), key=lambda node: -node.lost_at_ms)

    def joined(self, peer: PeerId, invite: str, now_s: float) -> LostNode | None:
        """A node is a member; return what was lost if it is back."""
        self._here[peer] = (invite, now_s)
        return self.forget(peer)

    def left(self, peer: PeerId) -> None:
        """A member has left in good order, or was revoked."""
        self._here.pop(peer, None)
        self.forget(peer)

    def lost(
        self,
        peer: PeerId,
        name: str,
        models: Mapping[Key, int],
        *,
        now_s: float,
        wall_ms: int,
    ) -> None:
        """A member is lost; `models` are those that it had ready, each with the number of nodes that had it."""
        invite, since_s = self._here.pop(peer, ("", now_s))
        hosted = tuple(Hosted(*key, count) for key, count in sorted(models.items())[:MOST_MODELS])
        self._take(LostNode(peer, name, invite, wall_ms, now_s - since_s, hosted))

    def forget(self, peer: PeerId) -> LostNode | None:
        """A node is not lost any more; return what is known of it."""
        node = self._lost.pop(peer, None)
        self.is_changed |= node is not None
        return node

    def expel(self, revocations: RevocationList) -> None:
        """Forget nodes that were revoked."""
        for peer, node in list(self._lost.items()):
            if peer in revocations.peers or node.invite in revocations.invites:
                self.forget(peer)

    def tick(self, wall_ms: int) -> None:
        """Forget nodes that were lost long ago; or in the future, by a clock that was set back since."""
        for peer, node in list(self._lost.items()):
            if abs(wall_ms - node.lost_at_ms) >= KEPT_MS:
                self.forget(peer)

    def short(self, nodes_ready: Callable[[ModelName, ModelVersion], int]) -> list[ShortModel]:
        """Return the models that have fewer nodes than before, those with none first."""
        before: dict[Key, int] = {}
        had: dict[Key, list[str]] = {}
        for node in self._lost.values():
            for model in node.models:
                key = (ModelName(model.name), ModelVersion(model.version))
                before[key] = max(before.get(key, 0), model.nodes_before)
                had.setdefault(key, []).append(node.name or node.peer)
        found = [
            ShortModel(*key, ready, count, tuple(had[key]))
            for key, count in before.items()
            if (ready := nodes_ready(*key)) < count
        ]
        return sorted(found, key=lambda model: (model.nodes_ready, model.name, model.version))

    def rows(self) -> list[object]:
        """Return the list as plain values, for `restore`."""
        return [plain_values(node) for node in self._lost.values()]

    def restore(self, rows: Iterable[object]) -> None:
        """Take over a list that `rows` has made, but for nodes that are back; what cannot be read is left out."""
        for row in rows:
            with suppress(Mismatch):
                node = read(row, LostNode)
                if node.peer not in self._here:
                    self._take(node)

    def _take(self, node: LostNode) -> None:
        self._lost[PeerId(node.peer)] = node
        self.is_changed = True
        of_invite = [each for each in self._lost.values() if each.invite == node.invite]
        if len(of_invite) > MOST_OF_INVITE:
            self._give_way(of_invite)
        elif len(self._lost) > MOST:
            invite, _ = Counter(each.invite for each in self._lost.values()).most_common(1)[0]
            self._give_way(each for each in self._lost.values() if each.invite == invite)

    def _give_way(self, nodes: Iterable[LostNode]) -> None:
        del self._lost[PeerId(min(nodes, key=lambda node: node.stayed_s).peer)]
