"""The errors for a request that no node can be asked to run, since nobody hosts its model or can be reached; until when to wait. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from capamesh.protocol.errors import CapameshError, ModelNotFound, NoEndpoint

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.balancing.eligibility import Eligibility
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.fleet.view import FleetView

SHOWN_MODELS = 10
"""An error names at most this many of the hosted models (guess: as many as one reads)."""
UNKNOWN_MODEL = "Request for unknown model"
"""The first words of Triton's error, by which its clients know it."""
RESTART_S = 20.0
"""A node is likely to be back within this time after its link was lost: its worker restarts, or was frozen and is replaced (a
frozen worker is given up after 10 s, and is back within 4 s on a busy machine, measured)."""


def not_hosted(fleet: FleetView, model: ModelName, version: ModelVersion) -> CapameshError:
    """Return the error for a model, or a version of it, that no node has ready."""
    withheld = fleet.withheld(model, version)
    if withheld:
        return NoEndpoint(withheld)
    absent = fleet.absent.error(model, version)
    if absent is not None:
        return absent
    if not fleet.adverts:
        # it has just started: that is no reason to tell a caller never to come again
        return NoEndpoint("this router has not heard of any node yet; try again soon")
    versions = fleet.versions(model)
    if versions:
        return ModelNotFound(
            f"{UNKNOWN_MODEL}: model {model!r} has no version {version!r}; its versions: {', '.join(versions)}"
        )
    if fleet.are_names_secret:
        return ModelNotFound(
            f"{UNKNOWN_MODEL}: no node hosts model {model!r}; GET /v1/models lists those that your key is for"
        )
    models = fleet.models()
    known = ", ".join(models[:SHOWN_MODELS]) or "none yet"
    if len(models) > SHOWN_MODELS:
        known += f" and {len(models) - SHOWN_MODELS} more (POST /v2/repository/index lists them)"
    return ModelNotFound(f"{UNKNOWN_MODEL}: no node hosts model {model!r}; hosted models: {known}")


def no_endpoint(
    fleet: FleetView,
    model: ModelName,
    version: ModelVersion,
    replicas: tuple[Replica, ...],
    rules: Eligibility,
) -> CapameshError:
    """Return the error for a request that none of the `replicas` may have by `rules`, and why."""
    if not fleet.has(model, version):
        return not_hosted(fleet, model, version)
    reasons: dict[str, int] = {}
    for replica in replicas:
        reason = rules.obstacle(replica) or rules.refusal(replica)
        reasons[reason] = reasons.get(reason, 0) + 1
    most = sorted(reasons.items(), key=lambda item: -item[1])[:3]
    why = "; ".join(f"{count} of {len(replicas)}: {reason}" for reason, count in most)
    return NoEndpoint(
        f"model {model!r} is hosted, but no node that has it can be reached now"
        f" ({why or 'none has a link to this router'}); try again soon"
    )


def awaited_until_s(
    fleet: FleetView,
    model: ModelName,
    version: ModelVersion,
    replicas: tuple[Replica, ...],
    rules: Eligibility,
) -> float:
    """Return until when a request that nobody may have by `rules` is likely to be answered by who gets a link.

    It is the choice's own time where there is no telling when, and minus infinity where a link helps nobody.
    """
    now_s, until_s = rules.now_s, -math.inf
    for replica in replicas:
        if rules.lacks_link(replica):
            endpoint = replica.endpoint
            # a link that has just ended is told of before its endpoint is
            is_news = replica.is_away or endpoint.link is not None
            lost_s = now_s if is_news else endpoint.unlinked_s
            until_s = max(until_s, now_s, lost_s + RESTART_S)
    if fleet.has_unreached(model, version):
        is_away = fleet.awaits_reload(model, version)
        until_s = max(until_s, now_s + RESTART_S if is_away else now_s)
    return until_s
