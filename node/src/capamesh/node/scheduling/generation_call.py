"""One request of a language model on its way through the scheduler. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.node.devices.request_digest import request_digest

if TYPE_CHECKING:
    from capamesh.node.scheduling.generation_answer import GenerationAnswer
    from capamesh.node.scheduling.generation_runner import Generation
    from capamesh.node.scheduling.reading_queue import Reading
    from capamesh.protocol.tensors import Tensor


class GenerationCall:
    """One request on its way."""

    __slots__ = (
        "answer",
        "client",
        "digest",
        "generations",
        "has_slot",
        "is_flushing",
        "is_resumed",
        "latest_s",
        "reading",
    )

    def __init__(self, tensor: Tensor, reading: Reading) -> None:
        self.client = reading.client
        """The one whose share it uses."""
        self.reading: Reading | None = reading
        """The bytes that are to be read; None once they are."""
        self.digest = request_digest((tensor,))
        self.generations: list[Generation] = []
        self.answer: GenerationAnswer | None = None
        """None until it is read."""
        self.has_slot = False
        """True if there was a slot for it when it came."""
        self.latest_s: dict[int, float] = {}
        """The time of the newest token of each choice."""
        self.is_flushing = False
        """True while a part is about to be sent in the loop's next turn, for more choices may add to it."""
        self.is_resumed = False
        """True if another node has made the beginning of the answer."""
