"""Finds what is to blame for a worker's deaths, and what is refused or held back for it. Pure: deaths and times go in.

One death accuses nobody: a worker may be killed from outside, whatever it runs. A model whose loading ends its worker again and
again is held back, for longer each time. A run that ends it is first the request's fault, not the model's: the request is not run
again after two deaths. Where two different requests of an unusual size ended it, those as large are refused, and tried one by one
until one ends well; only where different requests of a usual size end the worker in short order, the model itself rests.
A death in a run of bulk requests is those requests' alone, as long as there are few (`capamesh.protocol.bulk_deaths`).
Nothing is for good: this node does not know whether it is the last that hosts a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.node.contract.verdict import Verdict
from capamesh.node.devices.in_flight_page import Marked, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEATHS_IN_A_ROW: Final = 3
"""A model rests after this many deaths in a row (guess: one may be the machine's doing, two a coincidence)."""
ROW_S: Final = 60.0
"""Deaths by runs with more between them are in no row (guess: one a minute, of a second or two, costs less than a rest does)."""
DEATHS_OF_A_SIZE: Final = 2
"""Requests are refused for their size after deaths of so many different ones that are no larger (guess, as for a request)."""
MOST_SIZES: Final = 8
"""Deaths of different large requests that are remembered of a model (guess: two are enough, unless one is cleared)."""
DEATHS_OF_A_REQUEST: Final = 2
"""A request is not run again after this many deaths (guess: the first may be due to another that ran beside it)."""
GOOD_LIFE_S: Final = 3600.0
"""A worker that lived so long ends the row for all its models (guess: a model that ends a worker less often
than once an hour is worth its restarts)."""
HOLD_S: Final = 15.0
LONGEST_HOLD_S: Final = 600.0
"""A model that ends its worker by loading is held back so long, then twice as long and so on (guess: each trial costs
all models of the worker some seconds, 1 % of the time in the end)."""
REST_S: Final = 1.0
LONGEST_REST_S: Final = 300.0
"""The rest of a model whose runs end workers, whatever the request, and that of requests of a size that does: twice as long each time
(guess: the first is over when a cause from outside may be; in the end each trial costs a second or two in five minutes)."""
SIZE_REST_S: Final = 0.5
"""The first rest of requests of a size, which two deaths from outside bring about too (guess: with the worker's start and a large run
these are answered within a second)."""
REFUSED_S: Final = 3600.0
"""A request is refused for this long (guess: whatever was wrong may have been mended, in the driver for one)."""
ALONE_S: Final = 60.0
"""The requests of a suspected model run one by one for this long after a death, so that the next tells which it was (guess)."""
MAX_REQUESTS: Final = 256
"""Suspected requests of one model (guess); the oldest is forgotten first."""
MAX_MODELS: Final = 256
"""Models with a record (guess: as many as fit into one advert); the oldest is forgotten first."""
NAMED: Final = 3
"""A reason names at most this many companions (guess: a line for people)."""

_DOING: Final = {Phase.LOADING: "loading", Phase.RUNNING: "running", Phase.BULK: "running"}

Key = tuple[str, str]
"""A model's name and version."""


@dataclass(slots=True)
class _Request:
    deaths: int = 0
    refused_until_s: float = -math.inf


@dataclass(slots=True)
class _Term:
    """A refusal that lasts longer each time."""

    first_s: float
    longest_s: float
    count: int = 0
    until_s: float = -math.inf

    def begin(self, now_s: float) -> float:
        """Begin it anew at `now_s`; return for how many seconds."""
        lasts_s = min(self.longest_s, self.first_s * 2.0**self.count)
        self.count += 1
        self.until_s = now_s + lasts_s
        return lasts_s

    def left_s(self, now_s: float) -> float:
        return max(0.0, self.until_s - now_s)


@dataclass(slots=True)
class _Model:
    digest: str
    load_deaths: int = 0
    run_deaths: int = 0
    run_died_s: float = -math.inf
    hold: _Term = field(default_factory=lambda: _Term(HOLD_S, LONGEST_HOLD_S))
    rest: _Term = field(default_factory=lambda: _Term(REST_S, LONGEST_REST_S))
    large_rest: _Term = field(default_factory=lambda: _Term(SIZE_REST_S, LONGEST_REST_S))
    large: dict[str, int] = field(default_factory=dict[str, int])
    """The sizes of different unusually large requests that were executed at deaths, the smallest of each death; the longest known first."""
    requests: dict[str, _Request] = field(default_factory=dict[str, _Request])
    """The requests that were executed at a death, the longest known first."""
    bulk: dict[str, float] = field(default_factory=dict[str, float])
    """The bulk requests that were executed at a death which is put down to them, each with the time until which it is not run."""
    alone_until_s: float = -math.inf
    why: str = ""

    def held_s(self, now_s: float) -> float:
        return max(self.hold.left_s(now_s), self.rest.left_s(now_s))

    @property
    def refused_bytes(self) -> int:
        """The size from which on requests are refused: of so many deaths' requests none was larger. 0: none is refused."""
        sizes = sorted(self.large.values())
        return sizes[DEATHS_OF_A_SIZE - 1] if len(sizes) >= DEATHS_OF_A_SIZE else 0


class CrashRecord:
    """The record of what one worker died of. It is forgotten with the agent: starting the node again tries everything again.

    Everything that was being executed when the worker died is suspected alike, for nothing tells which of it was
    to blame. A request that ends well in a later life is cleared; other files at a model's place clear all.
    """

    def __init__(self) -> None:
        self._models: dict[Key, _Model] = {}

    @override
    def __repr__(self) -> str:
        return f"CrashRecord({len(self._models)} models)"

    def verdicts(self, now_s: float) -> tuple[Verdict, ...]:
        """Return what a worker that starts at `now_s` shall not do."""
        return tuple(
            verdict
            for key, model in self._models.items()
            if (verdict := _verdict(key, model, now_s)) is not None
        )

    def died(
        self, marked: Sequence[Marked], reason: str, lived_s: float, now_s: float
    ) -> tuple[str, ...]:
        """The worker died of `reason` after `lived_s` while executing what is `marked`; return what follows, for people.

        A worker that was asked to leave did not die.
        """
        if lived_s >= GOOD_LIFE_S:
            self._models.clear()
        found: list[str] = []
        for key, marks in _by_model(marked).items():
            model = self._model(key, marks[0].digest)
            others = [f"{mark.name}/{mark.version}" for mark in marked if _key(mark) != key]
            found += self._blame(model, marks, _cause(key, others, reason, marks[0].phase), now_s)
        return tuple(found)

    def died_in_bulk(self, marked: Sequence[Marked], reason: str, now_s: float) -> tuple[str, ...]:
        """The worker died while bulk requests were run, to which that is put down; return what follows, for people.

        What ran beside them, or was loaded, is not suspected. One that is known by its digest is not run again.
        """
        found: list[str] = []
        for mark in marked:
            if mark.phase is not Phase.BULK or not mark.request:
                continue
            model = self._model(_key(mark), mark.digest)
            model.bulk.pop(mark.request, None)
            model.bulk[mark.request] = now_s + REFUSED_S
            if len(model.bulk) > MAX_REQUESTS:
                del model.bulk[next(iter(model.bulk))]
            model.why = f"{_cause(_key(mark), (), reason, mark.phase)}, by a bulk request"
            found.append(f"{model.why}; it is not run again for {REFUSED_S:g} s")
        return tuple(found)

    def survived(self, name: str, version: str, request: str) -> None:
        """A suspected request has ended without ending the worker."""
        model = self._models.get((name, version))
        if model is None:
            return
        model.requests.pop(request, None)
        if not model.requests:
            model.run_deaths = 0

    def survived_size(self, name: str, version: str, size_bytes: int) -> None:
        """A request of a size that was refused has ended without ending the worker: those no larger did not either.

        Where none is refused, or by one that is smaller, nothing is cleared, and the next rest is longer all the same: else a request that ends well
        between any two that do not would have them never come together.
        """
        model = self._models.get((name, version))
        if model is not None and 0 < model.refused_bytes <= size_bytes:
            model.large = {one: size for one, size in model.large.items() if size > size_bytes}

    def loaded(self, name: str, version: str) -> None:
        """A model takes requests: its deaths by loading are in a row no more; how long it was held before still counts."""
        model = self._models.get((name, version))
        if model is not None:
            model.load_deaths = 0

    def offered(self, name: str, version: str, digest: str) -> bool:
        """The worker has `digest` at `name`/`version`; forgive what other files did. Return whether something was held.

        An empty `digest` says nothing.
        """
        model = self._models.get((name, version))
        if not digest or model is None or model.digest == digest:
            return False
        if not model.digest:
            model.digest = digest
            return False
        del self._models[name, version]
        return True

    def _model(self, key: Key, digest: str) -> _Model:
        """Return the record of a model of these files, which is made if there is none."""
        self.offered(*key, digest)
        model = self._models.get(key)
        if model is None:
            model = self._models[key] = _Model(digest)
            if len(self._models) > MAX_MODELS:
                del self._models[next(iter(self._models))]
        return model

    def _blame(self, model: _Model, marks: list[Marked], cause: str, now_s: float) -> list[str]:
        found: list[str] = []
        if any(mark.phase is Phase.LOADING for mark in marks):
            model.load_deaths += 1
            if model.load_deaths >= DEATHS_IN_A_ROW:
                lasts_s = model.hold.begin(now_s)
                model.why = f"{cause}, {model.load_deaths} times in a row while it was loaded"
                found.append(f"{model.why}; it is tried again after {lasts_s:g} s")
        runs = [mark for mark in marks if mark.phase is not Phase.LOADING]
        if not runs:
            return found
        model.run_deaths = model.run_deaths + 1 if now_s - model.run_died_s <= ROW_S else 1
        model.run_died_s = now_s
        model.alone_until_s = now_s + ALONE_S
        for mark in {
            each.request: each for each in runs
        }.values():  # one death, however often it ran
            found += _blame_request(model, mark, cause, now_s)
        large = [(mark.large_bytes, mark.request) for mark in runs if mark.large_bytes]
        if large:  # what is larger than usual says nothing of usual requests
            model.run_deaths -= 1
            size, request = min(large)
            model.large[request] = size
            if len(model.large) > MOST_SIZES:
                del model.large[next(iter(model.large))]
            if refused := model.refused_bytes:
                lasts_s = model.large_rest.begin(now_s)
                model.why = f"{cause}, by different requests of {refused} bytes or less"
                found.append(f"{model.why}; the next as large is tried after {lasts_s:g} s")
        elif model.run_deaths >= DEATHS_IN_A_ROW and len(model.requests) >= DEATHS_IN_A_ROW:
            lasts_s = model.rest.begin(now_s)
            model.why = f"{cause}, by {len(model.requests)} different requests"
            found.append(f"{model.why}; it is tried again after {lasts_s:g} s")
        return found


def _blame_request(model: _Model, mark: Marked, cause: str, now_s: float) -> Iterator[str]:
    if not mark.request:
        return  # several ran together: the next time they run alone
    request = model.requests.setdefault(mark.request, _Request())
    if len(model.requests) > MAX_REQUESTS:
        del model.requests[next(iter(model.requests))]
    request.deaths += 1
    if request.deaths < DEATHS_OF_A_REQUEST:
        return
    request.refused_until_s = now_s + REFUSED_S
    model.why = f"{cause}, {request.deaths} times by the same request"
    yield f"{model.why}; it is not run again for {REFUSED_S:g} s"


def _verdict(key: Key, model: _Model, now_s: float) -> Verdict | None:
    held_s = model.held_s(now_s)
    refused = {
        digest: request.refused_until_s - now_s
        for digest, request in model.requests.items()
        if request.refused_until_s > now_s
    }
    refused |= {
        digest: until_s - now_s for digest, until_s in model.bulk.items() if until_s > now_s
    }
    suspects = tuple(digest for digest in model.requests if digest not in refused)
    alone_s = max(0.0, model.alone_until_s - now_s)
    if not (held_s or refused or suspects or model.refused_bytes or alone_s):
        return None
    again = f"; it is tried again after {held_s:.0f} s" if held_s else ""
    return Verdict(
        *key,
        model.digest,
        model.why + again,
        held_s=held_s,
        refused=refused,
        suspects=suspects,
        refused_bytes=model.refused_bytes,
        refused_s=model.large_rest.left_s(now_s),
        alone_s=alone_s,
    )


def _by_model(marked: Sequence[Marked]) -> dict[Key, list[Marked]]:
    models: dict[Key, list[Marked]] = {}
    for mark in marked:
        models.setdefault(_key(mark), []).append(mark)
    return models


def _key(mark: Marked) -> Key:
    return mark.name, mark.version


def _cause(key: Key, others: Sequence[str], reason: str, phase: Phase) -> str:
    names = list(dict.fromkeys(others))
    named = ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
    who = f"{'/'.join(key)}, or {named} beside it," if names else "/".join(key)
    return f"{who} ended its worker ({reason}, while {_DOING[phase]})"
