"""A decoder that is loaded, as the worker knows models: it is asked for generations alone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.node.runtime.api import LoadedModel, StopSwitch
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tasks import GENERATION, PARTS
from capamesh.protocol.tensors import BYTES, Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.node.generation import Slots
    from capamesh.node.runtime.text_generation.text_model import TextModel

MOST_PREFIX_BYTES: Final = 256 * 2**20
"""The most bytes of kept beginnings of prompts (guess: those of some dozen chats with a small model)."""


class LoadedDecoder(LoadedModel):
    """One language model on one device: its slots and its texts."""

    def __init__(
        self,
        slots: Slots,
        text: TextModel,
        *,
        provider: str,
        precision: str,
        keeps_prefixes: bool = True,
    ) -> None:
        """`keeps_prefixes` is false where copying between slots and the host takes longer than it saves."""
        self.slots = slots
        self._keeps_prefixes = keeps_prefixes
        self.text = text
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.provider = provider
        self.precision = precision
        self.is_data_dependent = True
        self.is_random = True
        self.notes = text.notes
        self.on_close: Callable[[], None] = lambda: None
        """Ends whatever uses the slots, and waits for that."""

    @property
    def pool_bytes(self) -> int:
        """Return the bytes that all slots take once they are full."""
        return self.slots.count * self.slots.length * self.slots.token_bytes

    @property
    def prefix_bytes(self) -> int:
        """Return the bytes that may be taken beside the slots by the beginnings of prompts that are kept."""
        return min(MOST_PREFIX_BYTES, self.pool_bytes // 4) if self._keeps_prefixes else 0

    @override
    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        names = [tensor.name for tensor in inputs]
        if names != [GENERATION]:
            raise InvalidRequest(
                f"the inputs are {', '.join(names)[:200] or 'none'}; a language model takes {GENERATION!r} alone:"
                " ask by /v1/chat/completions or /v1/completions"
            )
        if inputs[0].datatype is not BYTES or inputs[0].shape != (1,):
            raise InvalidRequest(
                f"{GENERATION!r} is {inputs[0].datatype!s} {list(inputs[0].shape)[:8]}; BYTES [1] is expected"
            )
        for name in outputs:
            if name != PARTS:
                raise InvalidRequest(
                    f"output {name!r} is unknown; a language model gives {PARTS!r}"
                )

    @override
    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> list[Tensor]:
        raise InvalidRequest("a language model answers token by token, and has no run of its own")

    @override
    def give_back(self) -> None:
        """Do nothing: the memory of slots is used again."""

    @override
    def close(self) -> None:
        self.on_close()
        self.slots.close()
