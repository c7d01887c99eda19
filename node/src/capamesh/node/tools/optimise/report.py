"""The report of an optimisation, as a value and as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from capamesh.node.tools.optimise.agreement import overall

if TYPE_CHECKING:
    from capamesh.node.scheduling.service_profile import ServiceProfile
    from capamesh.node.tools.optimise.agreement import OutputAgreement


SLOWER: Final = 0.95
"""A model that is less than this many times as fast is slower (guess: more than the scatter of medians on a machine that does
other work)."""


@dataclass(frozen=True, slots=True)
class Gain:
    """The speed of one model as times another's: above 1 is faster."""

    one_row: float
    best_batch: float
    """The gain in rows a second, each model at its own best batch."""

    @classmethod
    def of(cls, before: ServiceProfile, after: ServiceProfile) -> Gain:
        """Return the gain from what was measured of both."""
        return cls(before.seconds_at(1) / after.seconds_at(1), before.row_s / after.row_s)

    @property
    def is_slower(self) -> bool:
        """Return whether it is slower both for one row and at the best batch: then it is good for no load."""
        return max(self.one_row, self.best_batch) < SLOWER

    @property
    def note(self) -> str:
        """Return what a person must be told; "" where it is as fast or faster throughout."""
        slow = [
            f"{where} ({speed:.2f} x as fast)"
            for where, speed in (("one row", self.one_row), ("the best batch", self.best_batch))
            if speed < SLOWER
        ]
        return f"it is slower at {' and at '.join(slow)}" if slow else ""


@dataclass(frozen=True, slots=True)
class Side:
    """The model before, or after."""

    name: str
    version: str
    digest: str
    size_bytes: int
    profile: ServiceProfile

    @property
    def rows_per_s(self) -> float:
        """Return the rows a second at the best batch."""
        return 1 / self.profile.row_s

    def to_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "model": self.name,
            "version": self.version,
            "digest": self.digest,
            "size_bytes": self.size_bytes,
            "one_row_s": self.profile.seconds_at(1),
            "best_rows": self.profile.best_rows,
            "best_rows_per_s": self.rows_per_s,
            **self.profile.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one optimisation: what was done, and what it gained and cost."""

    conversion: str
    before: Side
    after: Side
    outputs: tuple[OutputAgreement, ...]
    min_agreement: float
    inputs: str
    """The inputs that the outputs were compared on, for people."""
    rows: int
    """The number of rows, or of runs of a model that takes no batch, that were compared."""
    runtime: str
    provider: str
    notes: tuple[str, ...] = ()

    @property
    def gain(self) -> Gain:
        """Return the speed of the new model as times the original's."""
        return Gain.of(self.before.profile, self.after.profile)

    @property
    def agreement(self) -> float:
        """Share of the same decisions of the worst output."""
        return overall(self.outputs)

    def to_json(self) -> dict[str, object]:
        """Return it as JSON values; shares are from 0 to 1, times in seconds."""
        return {
            "conversion": self.conversion,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "one_row_speed": self.gain.one_row,
            "best_batch_speed": self.gain.best_batch,
            "is_slower": self.gain.is_slower,
            "agreement": self.agreement,
            "min_agreement": self.min_agreement,
            "outputs": [
                {**asdict(output), "measure": output.measure.value} for output in self.outputs
            ],
            "inputs": self.inputs,
            "rows": self.rows,
            "runtime": self.runtime,
            "provider": self.provider,
            "notes": list(self.notes),
        }
