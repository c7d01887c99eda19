"""The page's words about one node's advert, made once for each advert. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.adverts import ModelState, shown_version
from capamesh.protocol.ids import ModelName, ModelVersion

if TYPE_CHECKING:
    from capamesh.protocol.adverts import ModelOffer, NodeAdvert

Key = tuple[ModelName, ModelVersion]
"""A model and its version."""
MOST_NAMED: Final = 3
"""The most models that a node's row names as failing (guess: what fits a line); their number is told beside it."""
MOST_REASON_CHARS: Final = 300
"""The most characters of a reason (guess: two lines)."""
CPU_PROVIDER: Final = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True, eq=False)
class AdvertSummary:
    """The meaning of one advert for the page. Compared by identity."""

    row: dict[str, Any]
    """The part of the node's row that is the advert's."""
    states: dict[Key, tuple[ModelState, str]]
    """The state of each model version at the node, and the reason."""


def summary_of(advert: NodeAdvert) -> AdvertSummary:
    """Return what an advert means for the page."""
    has_accelerator = any(device.kind != "cpu" for device in advert.devices)
    failing = [offer for offer in advert.models if offer.state is ModelState.FAILED]
    fallen_back = [
        named(offer)
        for offer in advert.models
        if offer.is_ready and has_accelerator and offer.provider == CPU_PROVIDER
    ]
    row: dict[str, Any] = {
        "name": advert.name,
        "region": advert.region,
        "agent_version": advert.agent_version,
        "price_per_million": advert.price_per_million,
        "is_draining": advert.is_draining,
        "devices": [
            {
                "kind": device.kind,
                "name": device.name,
                "memory_total_bytes": device.memory_total_bytes,
                "memory_free_bytes": device.memory_free_bytes,
            }
            for device in advert.devices
        ],
        "models_ready": sum(offer.is_ready for offer in advert.models),
        "models": len(advert.models),
        "models_failed": len(failing),
        "failing": [
            {
                "name": offer.name,
                "version": shown_version(offer.version),
                "reason": offer.reason[:MOST_REASON_CHARS],
            }
            for offer in failing[:MOST_NAMED]
        ],
        "models_on_cpu": len(fallen_back),
        "on_cpu": fallen_back[:MOST_NAMED],
    }
    states = {
        (offer.name, offer.version): (offer.state, offer.reason[:MOST_REASON_CHARS])
        for offer in advert.models
    }
    return AdvertSummary(row, states)


def named(offer: ModelOffer) -> str:
    """Return a model version as one text."""
    return f"{offer.name}/{shown_version(offer.version)}"
