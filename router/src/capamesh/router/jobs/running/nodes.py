"""The interface to the nodes, as the runner of jobs sees them: who hosts a model, one call, and how much room there is. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.tensor_spec import TensorSpec
    from capamesh.protocol.tensors import Tensor
    from capamesh.router.jobs.values import Job, Pinned


@dataclass(frozen=True, slots=True)
class Hosting:
    """A pinned version as the fleet hosts it now."""

    inputs: dict[str, TensorSpec]
    outputs: tuple[TensorSpec, ...]
    nodes: frozenset[str]
    """The ids of the nodes that have the very file, one at least."""
    best_rows: int = 0
    """The batch with the most rows a second; 0: unknown."""
    row_s: float = 0.0
    """Seconds of a row in such a batch at the quickest node; 0: unknown."""
    slow_row_s: float = 0.0
    """The same at the slowest."""
    max_rows: int = 0
    """The most rows of one call; 0: no limit, or unknown."""
    refusal: str = ""
    """The reason why no job can run it, whatever its input; "": jobs can."""
    task_inputs: dict[str, TensorSpec] = field(default_factory=dict[str, "TensorSpec"])
    """The inputs of the model's task, one of which stands for all of `inputs`: the node makes these of it."""
    task_outputs: tuple[str, ...] = ()
    """The outputs that are asked for where an input of the task is filled; none: the model's own."""

    @property
    def known_inputs(self) -> dict[str, TensorSpec]:
        """The inputs by which it can be asked, by their names."""
        return {**self.task_inputs, **self.inputs}

    def outputs_for(self, filled: Collection[str]) -> tuple[str, ...]:
        """Return the outputs to ask for where these inputs are filled; none: the model's own."""
        return () if set(filled) - set(self.task_inputs) else self.task_outputs


@dataclass(frozen=True, slots=True)
class BulkCall:
    """Rows that are sent as one call."""

    job: Job
    inputs: tuple[Tensor, ...]
    """The tensors, whose first axis is the rows."""
    rows: int
    allowed_s: float
    """Seconds from now until it is given up."""
    outputs: tuple[str, ...] = ()
    """The outputs that are asked for; none: all."""
    classes: tuple[int, ...] = ()
    """The number of largest scores to answer as texts for each of these, 0 for it as it is; none: no output is classified."""
    only_at: str = ""
    """The only node that may run it, once and by itself, whatever comes of it; "": any may."""
    not_at: frozenset[str] = frozenset()
    """The nodes that must not run it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a call: an answer or an error, and who gave it."""

    answer: InferAnswer | None
    error: CapameshError | None
    node: str = ""
    """The id of the node that was asked last; "": none was."""
    name: str = ""
    """The same node's name for people."""
    is_over_quota: bool = False
    """True if the job's tenant has used up what it may use in this month."""
    price_per_million: float = 0.0
    """The price of a million rows at that node, in the network's unit; 0: nothing, or it is not told."""


NOT_SENT: Final = Ended(None, None)
"""The end of what was never sent."""

OnEnd: TypeAlias = Callable[[Ended], None]


class Started(ABC):
    """A call that was sent."""

    @property
    @abstractmethod
    def place(self) -> str:
        """The process that was asked last; "": none was."""

    @property
    @abstractmethod
    def node(self) -> str:
        """The id of the node of that process; "": none was asked."""

    @abstractmethod
    def cancel(self) -> None:
        """Withdraw the call, whose end is not told then; nothing happens when it is over."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """The requests of a model that people wait for at one node, as it tells of them."""

    delay_s: float
    """Seconds that they queue; 0: there are none, or none of them waits."""
    is_calm: bool
    """True if no rows of jobs were there."""


class Nodes(ABC):
    """The nodes of the fleet."""

    @abstractmethod
    def hosting(self, pinned: Pinned, model: str) -> Hosting | None:
        """Return how a version is hosted by its digest; None: nobody hosts it, now."""

    @abstractmethod
    def absence(self, pinned: Pinned, model: str) -> str:
        """Return why nobody hosts it, for a person."""

    @abstractmethod
    def start(self, call: BulkCall, on_end: OnEnd) -> Started:
        """Send a call; `on_end` is told of its end once, maybe before this returns. What keeps it from being sent is told so, too."""

    @abstractmethod
    def room(self, pinned: Pinned, model: str, rows: int) -> int:
        """Return how many more calls of so many rows the nodes have room for, beside what people wait for."""

    @abstractmethod
    def crowds(self, pinned: Pinned, model: str) -> Mapping[str, Crowd]:
        """Return how long people's requests have to wait now at each node that has told it of late, by the nodes' ids."""

    @abstractmethod
    def word_of(self, node: str) -> tuple[int, int] | None:
        """Return the start of a node's agent and the number of its newest word since, both of which grow; None: it has left."""

    @abstractmethod
    def idle_rows_per_s(self, model: str, version: str) -> float | None:
        """Return the rows a second that the nodes could run beside what they run for people; `version` "" is the newest. None: unknown."""
