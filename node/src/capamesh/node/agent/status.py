"""The part of a node's status file on its workers and models, as plain JSON. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from capamesh.protocol.adverts import ModelState, shown_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from capamesh.node.agent.announcement import Announcement
    from capamesh.node.agent.metrics.totals import Histogram, ModelFigures, WorkerSample
    from capamesh.node.agent.worker_handle import WorkerHandle
    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.membership_life import Ended

NO_ROUTER: Final = (
    "see the mesh warnings; a router that is down is dialled again until it is back; where no router's address is known, "
    "give --bootstrap or ask the network's owner for a token that names one"
)
"""The advice of the log where no router is met."""
MOST_DIALLED_SHOWN: Final = 3
"""The most addresses that a reason lists (guess: a network has two or three routers)."""


class Routers(NamedTuple):
    """The routers that a node has, or looks for."""

    links: int
    met: int
    """The number of them in the mesh."""
    dialled: Sequence[str]
    """The mesh addresses of the members that this one dials."""


def standing(
    state: str,
    ended: Ended | None,
    models: Sequence[ModelOffer],
    routers: Routers,
    drained_until: datetime | None,
) -> tuple[str, str]:
    """Return the state that a node's status shows, and the reason for people; see `member_status`.

    `state` is of the node's own life, `ended` what became of its membership.
    `drained_until` is until when the owner lets routers send nothing new here: what comes all the same is served.
    """
    if state not in {"starting", "serving"}:
        return state, ""
    if ended is not None:
        return ended.state, ended.reason
    if not any(model.state is ModelState.READY for model in models):
        said = ", ".join(f"{model.name}/{model.version} {model.state.value}" for model in models)
        if state == "starting":
            return "starting", said or "its workers start"
        return "waiting", f"no model is ready: {said or 'there are none'}"
    if not routers.links:
        met = f"{routers.met} met" if routers.met else "none met"
        dialling = "" if routers.met else f"; {_dialling(routers.dialled)}"
        return "waiting", f"no router has a link to it ({met} in the mesh{dialling})"
    return _serving(drained_until)


def _dialling(addresses: Sequence[str]) -> str:
    """Return where a node looks for routers, without their peer ids."""
    if not addresses:
        return "it has no router's address to dial"
    places = list(dict.fromkeys(address.partition("/p2p/")[0] for address in addresses))
    more = f" and {len(places) - MOST_DIALLED_SHOWN} more" if places[MOST_DIALLED_SHOWN:] else ""
    return f"it dials {', '.join(places[:MOST_DIALLED_SHOWN])}{more}"


def _serving(drained_until: datetime | None) -> tuple[str, str]:
    if drained_until is None:
        return "ready", ""
    return "draining", f"by the network's owner, until {drained_until:%Y-%m-%d %H:%M} UTC"


def serving_facts(
    workers: Sequence[WorkerHandle], models: Sequence[ModelOffer]
) -> dict[str, object]:
    """Return what the log says of a node that begins to serve: its ready models, the routers linked to it, its devices."""
    ready = {(model.name, model.version) for model in models if model.state is ModelState.READY}
    return {
        "models": len(ready),
        "routers": max((worker.links for worker in workers), default=0),
        "devices": [worker.device.name for worker in workers],
    }


def worker_status(worker: WorkerHandle) -> dict[str, Any]:
    """Return how a worker is: its starts, why it was lost the last time, and what it is kept to."""
    return {
        "device": worker.number,
        "name": worker.device.name,
        "pid": worker.pid,
        "starts": worker.sample().starts,
        "last_down": worker.last_down,
        "sandbox": worker.sandbox,
    }


def sample_of(worker: WorkerHandle, announcement: Announcement) -> WorkerSample:
    """Return what metrics tell of a worker: its counts, and what it offers."""
    number, sample = worker.number, worker.sample()
    device = announcement.device_of(number)
    offers = announcement.models_of(number)
    return replace(
        sample,
        links=worker.links,
        memory_bytes=device.memory_total_bytes if device is not None else 0,
        memory_free_bytes=device.memory_free_bytes if device is not None else 0,
        states={(offer.name, offer.version): offer.state.value for offer in offers},
    )


def all_models_status(
    workers: Sequence[WorkerHandle], announcement: Announcement
) -> list[dict[str, Any]]:
    """Return how each model of each worker is."""
    return [
        status
        for worker in workers
        for status in models_status(worker.sample(), announcement.models_of(worker.number))
    ]


def models_status(sample: WorkerSample, offers: Sequence[ModelOffer]) -> list[dict[str, Any]]:
    """Return how each model that a worker offers is, with what was counted for it since the agent started."""
    return [
        {
            "name": offer.name,
            "version": shown_version(offer.version),
            "device": sample.number,
            "state": offer.state.value,
            "reason": offer.reason,
            "provider": offer.provider,
            "precision": offer.precision,
            "memory_bytes": offer.memory_bytes,
            **_counted(sample.models.get((offer.name, offer.version))),
        }
        for offer in offers
    ]


def _counted(figures: ModelFigures | None) -> dict[str, Any]:
    """Return the figures of a model; nothing of one that its worker has not told of yet."""
    if figures is None:
        return {}
    return {
        "requests_in_flight": figures.in_flight,
        "limit": figures.limit,
        "requests": dict(figures.requests),
        "dropped": dict(figures.dropped),
        "rows": figures.rows,
        "batches": figures.batches,
        "queue_s": _quantiles(figures.queue_s),
        "run_s": _quantiles(figures.run_s),
        **({"memory_bytes": figures.memory_bytes} if figures.memory_bytes else {}),
    }


def _quantiles(histogram: Histogram) -> dict[str, float | None]:
    """Return the median and the 99th percentile, None where there is no value yet."""
    return {"p50": histogram.quantile(0.5), "p99": histogram.quantile(0.99)}
