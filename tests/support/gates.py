"""An admission controller together with the replicas that it is asked about."""

from __future__ import annotations

import random
from typing import Any

from capamesh.router.admission.controller import AdmissionController, Permit
from capamesh.router.fleet.replica import Replica


class Gate:
    """A controller that is always asked about the same replicas; all else is the controller's."""

    def __init__(
        self, *replicas: Replica, seed: int = 1, weights: dict[str, float] | None = None
    ) -> None:
        self.replicas = replicas
        self.controller = AdmissionController("m", random.Random(seed), weights=weights)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.controller, name)

    def admit(self, *asked: Any) -> Permit:
        return self.controller.admit(self.replicas, *asked)

    def bulk_room(self, now_s: float) -> int:
        return self.controller.bulk_room(self.replicas, now_s)
