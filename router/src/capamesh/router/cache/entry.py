"""One kept answer, and what is known of it. Pure.

There may be 100,000 of them, each of which the garbage collector looks through now and then: so an entry is one object with
values that need no look (texts, numbers, bytes), and the answer is put together from them for whoever is given it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tensors import Datatype, Tensor

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelVersion, PeerId
    from capamesh.router.fleet.replica import Replica

    Layout = tuple[tuple[str, Datatype, tuple[int, ...]], ...]

HIT: Final = "hit"
"""The word for an answer out of the cache, as clients are told it."""
REPEATED: Final = "repeated"
"""The word for the answer to an idempotency key that has come before."""
ENTRY_BYTES: Final = 360
"""The bytes that an entry takes beside its outputs (measured: 354)."""
OUTPUT_BYTES: Final = 45
"""The bytes that an output takes beside its elements (measured: 41)."""
STUB_BYTES: Final = 330
"""The part of them that a dropped entry keeps until its queue comes to it (measured: 320)."""
MAX_FORMS: Final = 4
"""The most written forms of one entry's answer that are kept (guess: JSON and binary, whole and with chosen outputs)."""
MAX_LAYOUTS: Final = 1024
"""The most layouts that are kept once for all entries (guess: the outputs of some models, their usual batch sizes)."""
_NO_LOAD: Final = LoadReport()


class Layouts:
    """The layouts of answers' outputs, each kept once for all entries that have it."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Layout] = {}

    def of(self, answer: InferAnswer) -> Layout:
        """Return the names, datatypes and shapes of an answer's outputs."""
        described = answer.described
        layout = self._known.get(described)
        if layout is None:
            layout = tuple([(each.name, each.datatype, each.shape) for each in answer.outputs])
            if described:  # says word for word what they are
                if len(self._known) >= MAX_LAYOUTS:
                    self._known.clear()
                self._known[described] = layout
        return layout


class Entry:
    """An answer that is kept. Its tensors have memory of their own, so that no frame it came in is held."""

    __slots__ = (
        "_described",
        "_layout",
        "_values",
        "_version",
        "forms",
        "is_dropped",
        "is_main",
        "key",
        "loads",
        "mark",
        "peer",
        "replica",
        "size_bytes",
        "stored_s",
        "uses",
        "word",
    )

    def __init__(
        self,
        key: bytes,
        answer: InferAnswer,
        layout: Layout,
        peer: PeerId,
        replica: Replica | None,
        stored_s: float,
        word: str = HIT,
        mark: int = 0,
    ) -> None:
        """Copy the answer's tensors, whose `layout` is given."""
        outputs = answer.outputs
        self.key = key
        self.mark = mark
        """The mark of the requests that it answers."""
        self._version: ModelVersion = answer.version
        self._layout = layout
        self._described = answer.described
        self.peer = peer
        """The node that has given the answer."""
        self.replica = replica
        """The replica that has given it; None: another router has asked for it."""
        self.loads = 0 if replica is None else replica.loads
        self.stored_s = stored_s
        """The time when the answer came, on the router's clock."""
        self.word = word
        """The word by which clients are told why the answer was not run for them."""
        self.forms: dict[object, object] | None = None
        """The answer as wires have written it, by all that its bytes follow from: what they keep here is theirs."""
        self.uses = 0
        """The number of its uses of late, up to a bound."""
        self.is_main = False
        """True if it was of use again, and stays longer."""
        self.is_dropped = False
        """True once it is no more to be given; its queue has still to come to it."""
        if len(outputs) == 1:  # as of most models
            value = bytes(outputs[0].data)
            self._values: tuple[bytes, ...] = (value,)
            self.size_bytes = ENTRY_BYTES + OUTPUT_BYTES + len(value)
        else:
            self._values = tuple([bytes(each.data) for each in outputs])
            self.size_bytes = ENTRY_BYTES + OUTPUT_BYTES * len(outputs)
            self.size_bytes += sum(map(len, self._values))

    @override
    def __repr__(self) -> str:
        return f"Entry({self.key[:4].hex()} of {self.size_bytes} bytes from {self.peer[-6:]})"

    @property
    def answer(self) -> InferAnswer:
        """Return the answer. Whoever is given it has waited for no queue and no run."""
        outputs = [
            Tensor(name, datatype, shape, value)
            for (name, datatype, shape), value in zip(self._layout, self._values, strict=True)
        ]
        return InferAnswer(self._version, tuple(outputs), 0, 0, _NO_LOAD, self._described)

    def drop(self) -> None:
        """Let go of the answer: nobody is given it any more."""
        self.is_dropped = True
        self.forms = None
        self._layout, self._values = (), ()

    def is_doubtful(self, digest: str) -> bool:
        """Return whether the node that gave the answer has begun to load the model anew, or says to have another file than `digest`.

        Then the file may have been another already when it answered, or its manifest is another now.
        """
        replica = self.replica
        return replica is not None and (
            replica.loads != self.loads or replica.offer.digest != digest
        )
