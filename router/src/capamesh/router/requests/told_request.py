"""One inference request of which a function is told what came of it. No IO of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.router.requests.inference import InferenceRequest

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.requests.call import Outcome, Part
    from capamesh.router.requests.inference import InferenceService, Target


class ToldRequest(InferenceRequest):
    """A request of which a function is told what came of it, once, unless it is cancelled before; parts go to another."""

    __slots__ = ("_goes_on", "_on_end", "_on_part", "explanation")

    def __init__(
        self,
        service: InferenceService,
        target: Target,
        on_end: Callable[[Outcome | CapameshError], None],
        on_part: Callable[[Part], None] | None = None,
        goes_on: Callable[[CapameshError], bool] | None = None,
        *,
        client: str = "",
    ) -> None:
        """`on_end` may be called before `submit` returns. None may raise; `on_part` releases what it is given.

        `goes_on` is asked at an error whether the request goes on nevertheless: it has been submitted anew, within the
        same time. `client` is as for each `InferenceRequest`.
        """
        super().__init__(service, target, client)
        self._on_end = on_end
        self._on_part = on_part
        self._goes_on = goes_on
        self.explanation: Explanation | None = None
        """The reasons of its failure, where they are asked for."""

    def break_off(self, error: Exception) -> None:
        """End with an error in what has come of it, which is the node's or a bug: the node is to send no more."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
        if not self._is_over:
            self.crash(error)

    @override
    def take_part(self, part: Part) -> None:
        part.release() if self._on_part is None else self._on_part(part)

    @override
    def complete(self, outcome: Outcome) -> None:
        self.count_answer(outcome)
        self._end(outcome)

    @override
    def fail(self, error: CapameshError) -> None:
        """End with an error, unless it goes on."""
        if self._goes_on is None or self._is_over or not self._goes_on(error):
            super().fail(error)

    @override
    def _render_error(self, error: CapameshError, explanation: Explanation | None) -> None:
        self.explanation = explanation
        self._end(error)

    def _end(self, outcome: Outcome | CapameshError) -> None:
        was_over, self._is_over = self._is_over, True
        if not was_over:
            self._on_end(outcome)
