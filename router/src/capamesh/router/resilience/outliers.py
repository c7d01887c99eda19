"""Finds replicas of a model that fail so much more than the others that it is no chance. Pure.

Envoy ejects a host whose success rate is below the mean by 1.9 standard deviations, of at least 5 replicas with 100
requests each, or that fails 85 % of 50. That is for fleets of many replicas: among 3 or 4 none can be as far from
the mean as 1.9 deviations; and where all fail alike, one of many replicas is so by chance at every other look. So
here a replica stands out when it fails more than the *other* replicas (the mean of their rates, so that a busy one
does not speak for all), and when that is a matter of significance:

- 85 % failed, 15 points more than the others, z >= 5 (once in 3 million looks by chance): out at once;
- 15 points more, z >= 3.5, in two windows that follow each other: out. Two, because a bad batch fails many
  requests at one place once;
- the same for 5 points and Envoy's 1.9 deviations, where there are its 5 replicas with 100 requests each. A replica
  that fails less than that, or 10 % in a small fleet, keeps a smaller share of requests (see health.py): to eject it
  would cost more than it saves.

A window lasts 10 s (Envoy's interval), or only 2 s where there are requests enough: the tests count requests,
not seconds, and each second less is a second of errors less. Where there are few it waits for more, up to 60 s.

Refusals and missed deadlines are not to be recorded: under overload they hit the best replicas as well.
A slow replica is reported and not ejected: policies see latency themselves, and a fleet of unlike devices has
slow ones that are as good as others for what they take on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic

from typing_extensions import override

from capamesh.router.resilience.health import CircuitState
from capamesh.router.resilience.verdicts import H, Outlier, Slow

INTERVAL_S = 10.0
"""Envoy, gRPC A50."""
FAST_INTERVAL_S = 2.0
SLOW_INTERVAL_S = 60.0
"""Windows of replicas with few requests last at most this long (guess: older errors say little of now)."""
FAST_REQUESTS = 20
MIN_REQUESTS = 10
"""Requests a replica, on average, that end a window after 2 s and after 10 s (guess); nobody is judged by fewer
than the second, where Envoy has 50: one of three replicas at 3 requests a second has 10 in 10 s."""
MIN_FAILURES = 5
"""The fewest failures for which a replica is ejected: as many as in a row (Envoy)."""
FAILING = 0.85
"""Envoy's failure percentage."""
GAP = 0.15
SMALL_GAP = 0.05
"""The smallest difference to the failure rate of the others that counts (guess)."""
SURE_Z = 5.0
LIKELY_Z = 3.5
"""Standard errors by which it does (guess: 3e-7, and 5e-8 for twice the second, in each look at a replica)."""
DEVIATIONS = 1.9
DEVIATION_REPLICAS = 5
DEVIATION_REQUESTS = 100
"""Envoy, gRPC A50."""
MOST_EJECTED = 0.33
"""The largest share of the replicas that is ejected, but one in any case; Envoy's 10 % are less than one of a small fleet."""
PANIC = 0.5
"""Envoy's panic threshold."""
FORGET_WINDOWS = 5
"""A replica without requests counts as one of the fleet for so long (guess)."""
SLOW_FACTOR = 3.0
SLOW_SAMPLES = 50
"""A replica is reported as slow from this many samples on (guess)."""
MEDIAN_STEP = 1.05
"""The running median moves by 5 % a sample (guess: from a tenth of the truth to it in 50)."""


def is_panic(eligible: int, replicas: int) -> bool:
    """Return whether so few of `replicas` remain that ejections must be ignored, since the rest could not bear the load."""
    return eligible < PANIC * replicas


class _Tally:
    """One replica's counts in the present window, and its running median."""

    __slots__ = ("failures", "idle", "is_slow", "median_s", "requests", "samples", "strikes")

    def __init__(self) -> None:
        self.requests = 0
        self.failures = 0
        self.strikes = 0
        self.idle = 0
        self.samples = 0
        self.median_s = 0.0
        self.is_slow = False

    @property
    def rate(self) -> float:
        return self.failures / self.requests


class _Fleet:
    """The replicas that one is compared with: at least two that had enough requests, each counted once."""

    __slots__ = ("_inverse", "_others", "_rates", "deviant")

    def __init__(self, tallies: Sequence[_Tally]) -> None:
        rates = [tally.rate for tally in tallies]
        self._others = len(tallies) - 1
        self._rates = sum(rates)
        self._inverse = sum(1.0 / tally.requests for tally in tallies)
        self.deviant = math.inf
        """The failure rate above which Envoy ejects; infinity when there is too little to tell."""
        if len(rates) >= DEVIATION_REPLICAS and all(
            tally.requests >= DEVIATION_REQUESTS for tally in tallies
        ):
            mean = self._rates / len(rates)
            variance = sum((rate - mean) ** 2 for rate in rates) / len(rates)
            self.deviant = mean + DEVIATIONS * math.sqrt(variance)

    def rest(self, tally: _Tally) -> float:
        """Return the mean failure rate of the others."""
        return max(0.0, self._rates - tally.rate) / self._others

    def error(self, tally: _Tally) -> float:
        """Return the standard error of the replica's distance from the others, were all alike."""
        mean = self._rates / (self._others + 1)
        own = 1.0 / tally.requests
        spread = own + (self._inverse - own) / self._others**2
        return math.sqrt(mean * (1.0 - mean) * spread)


class OutlierWatch(Generic[H]):
    """Counts one model's outcomes by replica and tells who stands out. It ejects nobody itself."""

    def __init__(self) -> None:
        self._tallies: dict[H, _Tally] = {}
        self._requests = 0
        self._began_s = -math.inf

    @override
    def __repr__(self) -> str:
        return f"OutlierWatch({self._requests} requests at {len(self._tallies)} hosts)"

    def record(self, replica: H, is_ok: bool, latency_s: float, now_s: float) -> None:
        """Count an outcome. `latency_s` is in seconds and matters only of answers; an error of the caller's is one."""
        if self._requests == 0:
            self._began_s = now_s
        tally = self._tallies.get(replica)
        if tally is None:
            tally = self._tallies[replica] = _Tally()
        self._requests += 1
        tally.requests += 1
        if not is_ok:
            tally.failures += 1
            return
        # the median moves a step towards the sample: where as many are above as below, it stays
        tally.samples += 1
        if tally.median_s <= 0.0:
            tally.median_s = max(latency_s, 1e-6)
        elif latency_s > tally.median_s:
            tally.median_s *= MEDIAN_STEP
        elif latency_s < tally.median_s:
            tally.median_s /= MEDIAN_STEP

    def tick(self, now_s: float) -> list[Outlier[H] | Slow[H]]:
        """Return who stands out, worst first, when a window has passed. To be called about every second."""
        if self._requests == 0:
            return []
        age_s = now_s - self._began_s
        if age_s < 0:
            self._began_s = now_s  # a clock set back: begin the window anew
            return []
        a_replica = self._requests / len(self._tallies)
        if not (
            (age_s >= FAST_INTERVAL_S and a_replica >= FAST_REQUESTS)
            or (age_s >= INTERVAL_S and a_replica >= MIN_REQUESTS)
            or age_s >= SLOW_INTERVAL_S
        ):
            return []
        self._forget()
        verdicts: list[Outlier[H] | Slow[H]] = [*self._outliers(now_s), *self._slow()]
        for tally in self._tallies.values():
            tally.idle = 0 if tally.requests else tally.idle + 1
            tally.requests = tally.failures = 0
        self._requests = 0
        return verdicts

    def _forget(self) -> None:
        for replica in [
            replica
            for replica, tally in self._tallies.items()
            if replica.is_gone or (not tally.requests and tally.idle >= FORGET_WINDOWS)
        ]:
            del self._tallies[replica]

    def _outliers(self, now_s: float) -> list[Outlier[H]]:
        is_out = {
            replica: replica.health.state(now_s) is CircuitState.EJECTED
            for replica in self._tallies
        }
        judged = [
            (replica, tally)
            for replica, tally in self._tallies.items()
            if tally.requests >= MIN_REQUESTS and not is_out[replica]
        ]
        if len(judged) < 2:
            return []
        fleet = _Fleet([tally for _, tally in judged])
        found: list[tuple[float, Outlier[H]]] = []
        for replica, tally in judged:
            rest = fleet.rest(tally)
            if self._stands_out(tally, rest, fleet):
                text = f"{tally.rate:.0%} of {tally.requests} requests failed, {rest:.0%} elsewhere"
                found.append((tally.rate, Outlier(replica, text)))
        found.sort(key=lambda item: item[0], reverse=True)
        replicas, ejected = len(is_out), sum(is_out.values())
        most = min(max(1, int(MOST_EJECTED * replicas)), replicas - 1)
        room = max(0, most - ejected)
        return [outlier for _, outlier in found[:room]]

    @staticmethod
    def _stands_out(tally: _Tally, rest: float, fleet: _Fleet) -> bool:
        gap = tally.rate - rest
        least = SMALL_GAP if tally.rate > fleet.deviant else GAP
        if gap < least or tally.failures < MIN_FAILURES:
            tally.strikes = 0
            return False
        z = gap / fleet.error(tally)
        tally.strikes = tally.strikes + 1 if z >= LIKELY_Z else 0
        return tally.strikes >= 2 or (tally.rate >= FAILING and z >= SURE_Z)

    def _slow(self) -> list[Slow[H]]:
        known = {
            replica: tally
            for replica, tally in self._tallies.items()
            if tally.samples >= SLOW_SAMPLES
        }
        if len(known) < 3:
            return []
        medians = sorted(tally.median_s for tally in known.values())
        fleet_s = medians[(len(medians) - 1) // 2]
        found: list[Slow[H]] = []
        for replica, tally in known.items():
            is_slow = tally.median_s >= SLOW_FACTOR * fleet_s
            if is_slow and not tally.is_slow:
                text = f"half of its answers take over {tally.median_s * 1e3:.0f} ms, {fleet_s * 1e3:.0f} ms elsewhere"
                found.append(Slow(replica, text))
            tally.is_slow = is_slow
        return found
