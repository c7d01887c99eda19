"""The models of one worker and where each stands: loading, ready, failed, unloaded. Pure but for its runners."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from capamesh.node.profiling.measuring import MAX_BATCH_ROWS
from capamesh.node.scheduling.generation_scheduler import GenerationScheduler
from capamesh.protocol.adverts import (
    MAX_MODELS,
    ModelOffer,
    ModelState,
    Scheduling,
    offer_problem,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.oip import has_batch_axis
from capamesh.protocol.tasks import Task

if TYPE_CHECKING:
    from capamesh.node.models.preparation import LoadResult
    from capamesh.node.repository import ModelSource
    from capamesh.node.scheduling import RunBounds
    from capamesh.node.scheduling.runner import ModelRunner

UNVERIFIED: Final = "unverified"
"""Stands for the provider while no model has shown which it is."""

OUTDATED: Final = "serves the file before, for the new one was refused: "
"""The beginning of what is said of a model that goes on as it was, since what replaced its file cannot be served."""

Key = tuple[ModelName, ModelVersion]


@dataclass(slots=True)
class HostedModel:
    """A model version that takes requests."""

    source: ModelSource
    prepared: LoadResult = field(repr=False)
    runner: ModelRunner
    number: int = 0
    """The number of its files in `InFlightJournal`."""
    bounds: RunBounds | None = None
    """The bounds by which its requests are refused; None: nothing bounds them."""
    load_s: float = 0.0
    """The time that its files took to load, without warm-up and measurement."""
    gave_back_s: float = -math.inf
    """The time when it was last made to give back what its runs had left."""
    load: int = 0
    """Tells its loads in this process apart, by which its counts start at 0; given by `ModelRegistry.ready`."""
    outdated: str = ""
    """The reason for which a newer file in its place is not served, for people; empty while there is none."""

    @property
    def most_rows(self) -> int:
        """The most rows of one request, by what the memory holds beside all models; 0: it is not known."""
        return self.bounds.most_rows if self.bounds is not None else 0

    @property
    def version(self) -> ModelVersion:
        """The version served."""
        return self.source.version

    @property
    def reason(self) -> str:
        """Return what is wrong with it although it takes requests, for people; empty while nothing is known to be."""
        return self.outdated or self.runner.scheduler.health.reason


class ModelRegistry:
    """The model versions that a worker knows, with what it knows of each. Owned by the worker's event loop."""

    def __init__(self) -> None:
        self._ready: dict[ModelName, dict[ModelVersion, HostedModel]] = {}
        self._newest: dict[ModelName, HostedModel] = {}
        self._offers: dict[Key, ModelOffer] = {}
        self._leaving: list[HostedModel] = []
        """Take no more requests, and have counted some that were not reported yet."""
        self._loads = itertools.count(1)

    def __iter__(self) -> Iterator[HostedModel]:
        for versions in self._ready.values():
            yield from versions.values()

    def find(self, model: ModelName, version: ModelVersion) -> HostedModel | None:
        """Return the model at `version`, or its newest version when that is empty; None if not ready."""
        if not version:
            return self._newest.get(model)
        return self._ready.get(model, {}).get(version)

    def offer(self, key: Key) -> ModelOffer | None:
        """Return what is said of a model version."""
        return self._offers.get(key)

    def is_coming(self, key: Key) -> bool:
        """Return whether a model version takes requests, or will as soon as it is loaded."""
        offer = self._offers.get(key)
        return offer is not None and offer.state in {ModelState.READY, ModelState.LOADING}

    def known_keys(self) -> frozenset[Key]:
        """Return every model version that something is said of."""
        return frozenset(self._offers)

    def is_known(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether the folder has it, though it may not be ready."""
        return any(
            name == model and (not version or version == known) for name, known in self._offers
        )

    def offers(self) -> tuple[ModelOffer, ...]:
        """Return all models, in the order of their names, as adverts show them."""
        offers = list(self._offers.items())
        if len(offers) > MAX_MODELS:  # the ready ones first: an advert holds no more
            offers.sort(key=lambda item: (not item[1].is_ready, item[0]))
            del offers[MAX_MODELS:]
        return tuple(offer for _, offer in sorted(offers))

    def describe(self) -> str:
        """Return the ready models for an error message."""
        names = [f"{name}/{version}" for name, of in sorted(self._ready.items()) for version in of]
        return ", ".join(names[:20]) or "none that is ready"

    @property
    def provider(self) -> str:
        """The provider that runs the models, as found after loading; `UNVERIFIED` before the first."""
        for hosted in self:
            return hosted.prepared.loaded.provider
        return UNVERIFIED

    def ready(self, hosted: HostedModel) -> HostedModel | None:
        """Take requests for a model version; return the one that it takes the place of."""
        source = hosted.source
        hosted.load = next(self._loads)
        versions = self._ready.setdefault(source.name, {})
        before = versions.get(source.version)
        if before is not None:
            self._leaving.append(before)
        versions[source.version] = hosted
        self._choose_newest(source.name)
        self._offers[source.name, source.version] = ready_offer(hosted)
        return before

    def reported_anew(self) -> bool:
        """Say of each model that takes requests how its runs do, and how many rows it takes; return whether that is news."""
        is_news = False
        for hosted in self:
            key = hosted.source.name, hosted.source.version
            reason, offer = hosted.reason, self._offers[key]
            max_rows = _max_rows(hosted)
            if offer.reason != reason or offer.max_rows != max_rows:
                self._offers[key] = replace(offer, reason=reason, max_rows=max_rows)
                is_news = True
        return is_news

    def sign(self, sources: Iterable[ModelSource]) -> bool:
        """Show the signatures that `sources` have now of the models that take requests; return whether that is news.

        A signature changes nothing about how a model is served: it is not loaded again for one. A model whose file is
        among the `sources` is not older than its file any more.
        """
        is_news = False
        for source in sources:
            hosted = self.find(source.name, source.version)
            if hosted is None or hosted.source != source:
                continue
            if hosted.outdated:  # its file is back
                hosted.outdated = ""
                is_news |= self.reported_anew()
            signatures = source.signed, source.also_signed
            if (hosted.source.signed, hosted.source.also_signed) != signatures:
                hosted.source = source
                key = source.name, source.version
                self._offers[key] = replace(
                    self._offers[key], signed=source.signed, also_signed=source.also_signed
                )
                is_news = True
        return is_news

    def outdate(self, key: Key, reason: str) -> bool:
        """Say why a newer file is not served in the place of a model that takes requests; return whether that is news."""
        hosted = self.find(*key)
        if hosted is None:
            return False
        hosted.outdated = f"{OUTDATED}{reason}"
        return self.reported_anew()

    def withdraw(self, key: Key) -> HostedModel | None:
        """Take no more requests for a model version; return what took them."""
        name, version = key
        versions = self._ready.get(name, {})
        hosted = versions.pop(version, None)
        if hosted is not None:
            self._leaving.append(hosted)
        if not versions:
            self._ready.pop(name, None)
        self._choose_newest(name)
        return hosted

    def say(self, key: Key, state: ModelState, reason: str = "", digest: str = "") -> None:
        """Say where a model version stands that takes no requests."""
        self._offers[key] = ModelOffer(*key, digest, state, reason, (), ())

    def forget(self, key: Key) -> None:
        """Say nothing of a model version any more."""
        self._offers.pop(key, None)

    def counts(self) -> list[dict[str, object]]:
        """Return what each load of a model has counted: see `capamesh.node.agent.metrics.totals`.

        One that was withdrawn is among them until its requests have ended, and once after that.
        """
        counted = [*self, *self._leaving]
        self._leaving = [one for one in self._leaving if not one.runner.scheduler.is_idle]
        return [_counts(hosted) for hosted in counted]

    def _choose_newest(self, name: ModelName) -> None:
        versions = self._ready.get(name)
        if versions:
            self._newest[name] = versions[max(versions, key=int)]
        else:
            self._newest.pop(name, None)


def _row_s(prepared: LoadResult) -> float:
    """Return the seconds that the device takes for a row when many wait; 0: unknown."""
    if prepared.streams is not None:
        return prepared.streams.row_s
    rows, profile = prepared.plan.batch_rows, prepared.measured.profile
    return profile.seconds_at(rows) / rows if profile else 0.0


def ready_offer(hosted: HostedModel) -> ModelOffer:
    """Return how an advert shows a model that takes requests."""
    source, prepared = hosted.source, hosted.prepared
    plan = prepared.plan
    return ModelOffer(
        source.name,
        source.version,
        source.digest,
        ModelState.READY,
        "",
        plan.public_inputs,
        plan.public_outputs,
        provider=prepared.loaded.provider,
        precision=prepared.loaded.precision,
        best_rows=plan.batch_rows,
        row_us=round(_row_s(prepared) * 1e6),
        max_rows=_max_rows(hosted),
        max_batch_size=_max_batch_size(hosted),
        memory_bytes=prepared.measured.memory_bytes,
        is_idempotent=source.manifest.rules.is_idempotent,
        is_deterministic=source.manifest.rules.is_deterministic and not prepared.loaded.is_random,
        signed=source.signed,
        also_signed=source.also_signed,
        scheduling=_scheduling(hosted),
        labelled=tuple(sorted(prepared.labels)),
        formats=source.declared.formats,
        task=_task(prepared),
        max_parts=_max_parts(hosted),
        windows=source.manifest.rules.windows,
    )


def _task(prepared: LoadResult) -> Task:
    """Return what a model is for, where its node can be asked for just that."""
    if prepared.max_parts:
        return Task.CHAT
    return Task.NONE if prepared.task is None else prepared.task.task


def _max_parts(hosted: HostedModel) -> int:
    """Return the most parts of one answer; 0: it comes whole."""
    loop = hosted.source.manifest.rules.loop
    if hosted.prepared.max_parts:
        return hosted.prepared.max_parts
    return 0 if loop is None else loop.max_steps


def _max_rows(hosted: HostedModel) -> int:
    """Return the most rows of one request, by the manifest and by the memory; 0: any."""
    limits = (hosted.prepared.plan.max_rows, hosted.most_rows)
    return min((rows for rows in limits if rows), default=0)


def _max_batch_size(hosted: HostedModel) -> int:
    """Return the `max_batch_size` of a model's configuration, in Triton's sense.

    Where its operator gave none it is no more than a batch that nodes form: what a client can use, which may allocate
    that much or try all sizes up to it. Triton puts 4 there; memory alone would allow hundreds of millions of tiny rows.
    """
    plan, declared = hosted.prepared.plan, hosted.source.declared
    if not has_batch_axis(plan.public_inputs, plan.public_outputs):
        return 0
    if declared.inputs and not declared.has_batch_axis:
        return 0
    if plan.max_rows:
        return _max_rows(hosted)
    return 1 if plan.is_sequential else min(_max_rows(hosted) or MAX_BATCH_ROWS, MAX_BATCH_ROWS)


def _scheduling(hosted: HostedModel) -> Scheduling:
    if hosted.source.is_pipeline:
        return Scheduling.ENSEMBLE
    return Scheduling.SEQUENCE if hosted.prepared.plan.is_sequential else Scheduling.PLAIN


def _counts(hosted: HostedModel) -> dict[str, object]:
    scheduler = hosted.runner.scheduler
    return {
        "name": hosted.source.name,
        "version": hosted.version,
        "load": hosted.load,
        **scheduler.meter.snapshot(),
        "memory_bytes": hosted.prepared.measured.memory_bytes,
        "in_flight": scheduler.in_flight,
        "limit": scheduler.load_report(free_bytes=0, device_in_flight=0).limit,
        **(
            {"generation": scheduler.figures()}
            if isinstance(scheduler, GenerationScheduler)
            else {}
        ),
    }


def advert_problem(source: ModelSource, prepared: LoadResult) -> str:
    """Return why no advert can carry a model, "" when one can."""
    offer = ModelOffer(
        source.name,
        source.version,
        source.digest,
        ModelState.READY,
        "",
        prepared.plan.public_inputs,
        prepared.plan.public_outputs,
        labelled=tuple(prepared.labels),
        formats=source.declared.formats,
        windows=source.manifest.rules.windows,
    )
    return offer_problem(replace(offer))
