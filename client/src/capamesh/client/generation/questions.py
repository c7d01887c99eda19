"""The questions of a client to models that generate texts, the same for both kinds of clients. Pure."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING

from capamesh.client.generation.asks import Messages, Prompt, Question, ask_chat, ask_complete

if TYPE_CHECKING:
    from capamesh.client.generation.parameters import ChatParameters, CompletionParameters
    from capamesh.client.routing_options import RoutingOptions
    from capamesh.protocol.tensors import Limits


class Questions(ABC):
    """The questions of a client, with its own time and routing where a call has none."""

    _timeout_s: float | None
    _routing: RoutingOptions
    _limits: Limits

    def _chat(
        self,
        model: str,
        messages: Messages,
        timeout_s: float | None,
        routing: RoutingOptions | None,
        parameters: ChatParameters,
    ) -> Question:
        return ask_chat(
            model,
            messages,
            parameters,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            routing=self._routing if routing is None else routing,
            limits=self._limits,
        )

    def _complete(
        self,
        model: str,
        prompt: Prompt,
        timeout_s: float | None,
        routing: RoutingOptions | None,
        parameters: CompletionParameters,
    ) -> Question:
        return ask_complete(
            model,
            prompt,
            parameters,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            routing=self._routing if routing is None else routing,
            limits=self._limits,
        )
