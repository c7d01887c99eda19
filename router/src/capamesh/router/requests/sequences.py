"""The sequences that are under way somewhere, as far as this router has seen. Holds state, does no IO.

A node that restarts knows none of its sequences any more, and cannot tell one that was lost from one that never
began. The router can: it has seen the sequence answered, and not its end. So a caller whose sequence was lost is
told that, and one who made a mistake is told of the mistake.

It has also seen who answered: the state is there and nowhere else, so that the sequence goes on there for as long as
that can be asked, whatever else may be said of it. Those that another router began go where their ids belong.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import SequenceLost

if TYPE_CHECKING:
    from capamesh.protocol.errors import SequenceUnknown
    from capamesh.protocol.ids import ModelName
    from capamesh.protocol.links.calls import InferCall
    from capamesh.protocol.links.sequence_mark import SequenceMark
    from capamesh.router.fleet.replica import Replica

MAX_SEQUENCES = 16_384
"""The most sequences known at one time; those answered longest ago are forgotten first, and then look like a mistake (guess:
some 4 MiB with ids of 128 characters)."""


class OpenSequences:
    """The sequences that a node has answered and that have not ended."""

    __slots__ = ("_known", "_most")

    def __init__(self, *, most: int = MAX_SEQUENCES) -> None:
        self._most = most
        self._known: OrderedDict[tuple[ModelName, int | str], Replica] = OrderedDict()
        """The replica that has answered each last."""

    @override
    def __repr__(self) -> str:
        return f"OpenSequences({len(self._known)})"

    def __len__(self) -> int:
        return len(self._known)

    def answered(self, model: ModelName, mark: SequenceMark, by: Replica) -> None:
        """Note that a request of the sequence was answered; its last one ends it."""
        key = (model, mark.id)
        if mark.is_end:
            self._known.pop(key, None)
            return
        self._known[key] = by
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def home(self, call: InferCall) -> Replica | None:
        """Return who has the state that a request needs; None: it needs none, or nobody has it that is known here and can be asked."""
        mark = call.sequence
        if mark is None or mark.is_start:
            return None
        home = self._known.get((call.model, mark.id))
        if home is None or home.is_gone or not home.endpoint.is_usable:
            return None
        return home if call.version in {"", home.offer.version} else None

    def judged(self, call: InferCall, error: SequenceUnknown) -> SequenceUnknown | SequenceLost:
        """Return what to tell the caller whose sequence a node does not know: that it was lost, if it was there."""
        mark = call.sequence
        if mark is None or (call.model, mark.id) not in self._known:
            return error
        return SequenceLost(
            f"sequence {mark.id!r} of model {call.model!r} was lost: its node restarted or left, or it was silent for"
            " too long or gave way to others; start it anew with sequence_start"
        )
