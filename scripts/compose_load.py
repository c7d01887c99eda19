"""The load on the compose project: pictures of digits, and requests that go on while something breaks. Asks over HTTP."""

from __future__ import annotations

import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from compose_stack import SAMPLES, Stack

STREAMS = 4
"""The streams of requests at once; more than one node serves at a time."""
MIN_ACCURACY = 0.95
"""The model's own on these pictures is above that (scripts/build_models.py prints it)."""


@dataclass(slots=True)
class Report:
    """The checks that were made, in their order."""

    rows: list[tuple[bool, str, str]] = field(default_factory=list)

    def check(self, claim: str, held: bool, detail: object = "") -> None:
        """Note whether `claim` held."""
        self.rows.append((held, claim, str(detail)))
        print(f"{'held  ' if held else 'FAILED'}  {claim}  {detail}", flush=True)

    @property
    def all_held(self) -> bool:
        """Return whether every claim held."""
        return bool(self.rows) and all(held for held, _, _ in self.rows)

    def table(self) -> str:
        """Return what held as text."""
        width = max(len(claim) for _, claim, _ in self.rows)
        return "\n".join(
            f"{'held' if held else 'FAILED':<7} {claim:<{width}}  {detail}"
            for held, claim, detail in self.rows
        )


class Digits:
    """The pictures of the sample model, and what it says to them."""

    def __init__(self, stack: Stack) -> None:
        with np.load(SAMPLES / "cases/digits.npz", allow_pickle=False) as cases:
            self.rows = cases["rows"]
            self.expected = cases["expected"]
            self._input, self._output = str(cases["input"]), str(cases["output"])
        self._stack = stack

    def classify(self, first: int, count: int) -> np.ndarray:
        """Return the class of `count` pictures, int64 [count], by one request."""
        rows = self.rows[first : first + count]
        reply = self._stack.get(
            "/v2/models/digits/infer",
            {
                "inputs": [
                    {
                        "name": self._input,
                        "datatype": "FP32",
                        "shape": list(rows.shape),
                        "data": rows.ravel().tolist(),
                    }
                ],
                "outputs": [{"name": self._output}],
            },
        )
        (output,) = reply["outputs"]
        scores = np.array(output["data"], dtype=np.float32).reshape(output["shape"])
        return np.asarray(np.argmax(scores, axis=1))

    def check(self, report: Report, when: str) -> np.ndarray:
        """Classify all pictures; note whether that is as good as the model is."""
        classes = self.classify(0, len(self.rows))
        accuracy = float((classes == self.expected).mean())
        report.check(
            f"digits are recognised {when}",
            accuracy >= MIN_ACCURACY,
            f"{accuracy:.3f} of {len(classes)}",
        )
        return classes


class Traffic:
    """Requests one after the other on a few threads, each compared with what the model said before."""

    def __init__(self, digits: Digits, truth: np.ndarray) -> None:
        self._digits, self._truth = digits, truth
        self._stop = threading.Event()
        self.answered = 0
        self.slowest_s = 0.0
        self.failures: list[str] = []
        self._lock = threading.Lock()

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Send until the block ends."""
        threads = [threading.Thread(target=self._send, args=(first,)) for first in range(STREAMS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _send(self, index: int) -> None:
        while not self._stop.is_set():
            row = index % len(self._truth)
            index += STREAMS
            begun_s = time.monotonic()
            try:
                (found,) = self._digits.classify(row, 1)
                failure = "" if found == self._truth[row] else f"picture {row} became {found}"
            except urllib.error.HTTPError as exc:
                failure = f"{exc}: {exc.read(300).decode(errors='replace')}"
            except (OSError, ValueError, KeyError) as exc:
                failure = repr(exc)
            with self._lock:
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)
                if failure:
                    self.failures.append(failure)
                else:
                    self.answered += 1

    def check(self, report: Report, claim: str) -> None:
        """Note whether every request was answered rightly."""
        detail = (
            f"{self.answered} answered, {len(self.failures)} failed, slowest {self.slowest_s:.2f} s"
        )
        first = f"; first: {self.failures[0]}" if self.failures else ""
        report.check(claim, not self.failures and self.answered > 0, detail + first)
