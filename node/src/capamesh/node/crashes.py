"""Which model is to blame for a worker's deaths, and when it is not tried again. Pure: deaths go in, verdicts come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from capamesh.node.running_page import Marked, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

DEATHS_IN_A_ROW: Final = 3
"""Guess: one death may be the machine's doing, two a coincidence."""
GOOD_LIFE_S: Final = 3600.0
"""A worker that lived so long ends the row for all its models (guess: a model that ends a worker less often
than once an hour is worth its restarts)."""
NAMED: Final = 3
"""How many companions a reason names (guess: a line for people)."""

_DOING: Final = {Phase.LOADING: "loading", Phase.RUNNING: "running"}

Key = tuple[str, str]
"""A model's name and version."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A model that its worker shall not load again."""

    name: str
    version: str
    digest: str
    """Of the files that are to blame; "" where it is not known."""
    reason: str
    """For people, with what to do."""


@dataclass(slots=True)
class _Blame:
    deaths: int
    digest: str


class CrashRecord:
    """What one worker died of. Forgotten with the agent: starting the node again tries everything again.

    Every model that was being executed when the worker died gets the same blame, for nothing tells which of
    them it was; whoever was there in `DEATHS_IN_A_ROW` deaths in a row is quarantined. Deaths in which it was not
    executed do not end the row, so that two bad models taking turns are both found; a good life does, and
    so do other files. A quarantine clears the rest, who may have only been its company.
    """

    def __init__(self) -> None:
        self._blamed: dict[Key, _Blame] = {}
        self._quarantined: dict[Key, Quarantined] = {}

    def __repr__(self) -> str:
        return f"CrashRecord({len(self._blamed)} blamed, {len(self._quarantined)} quarantined)"

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """All that are in quarantine now."""
        return tuple(self._quarantined.values())

    def died(
        self, marked: Sequence[Marked], reason: str, lived_s: float
    ) -> tuple[Quarantined, ...]:
        """The worker died of `reason` after `lived_s` while executing what is `marked`; return who is quarantined now.

        A worker that was asked to leave did not die.
        """
        if lived_s >= GOOD_LIFE_S:
            self._blamed.clear()
        phases: dict[Key, Phase] = {}
        for mark in marked:
            key = (mark.name, mark.version)
            if key in phases:
                continue
            self.offered(mark.name, mark.version, mark.digest)
            if key in self._quarantined:
                continue  # a worker that has not been told yet: it cannot be blamed more
            phases[key] = mark.phase
            self._blamed.setdefault(key, _Blame(0, mark.digest)).deaths += 1
        guilty = [key for key in phases if self._blamed[key].deaths >= DEATHS_IN_A_ROW]
        if not guilty:
            return ()
        found = tuple(
            Quarantined(
                *key,
                self._blamed[key].digest,
                _reason(key, guilty, f"{reason}, while {_DOING[phases[key]]}"),
            )
            for key in guilty
        )
        self._quarantined.update({(one.name, one.version): one for one in found})
        self._blamed.clear()
        return found

    def offered(self, name: str, version: str, digest: str) -> bool:
        """The worker has `digest` at `name`/`version`; forgive what other files did. Return whether a quarantine ended.

        An empty `digest` says nothing.
        """
        key = (name, version)
        if not digest:
            return False
        blame = self._blamed.get(key)
        if blame is not None and blame.digest != digest:
            if blame.digest:
                del self._blamed[key]
            else:
                blame.digest = digest
        quarantined = self._quarantined.get(key)
        if quarantined is None or quarantined.digest == digest:
            return False
        if quarantined.digest:
            del self._quarantined[key]
            return True
        self._quarantined[key] = replace(quarantined, digest=digest)
        return False


def _reason(key: Key, guilty: Sequence[Key], last: str) -> str:
    others = [f"{name}/{version}" for name, version in guilty if (name, version) != key]
    named = ", ".join(others[:NAMED]) + (" …" if len(others) > NAMED else "")
    who = f"it, or {named} beside it," if others else "it"
    return (
        f"{who} ended its worker {DEATHS_IN_A_ROW} times in a row ({last});"
        " replace its file or restart the node"
    )
