"""Runs one model's generation in a thread of its own, and hands parts to the event loop. IO: threads, the loop.

The engine decides; here the model is run, for that is what takes time. What a step gives to all sequences crosses to the loop at once.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from typing_extensions import override

from capamesh.node.generation import (
    Constraint,
    GenerationEngine,
    GenerationLoad,
    GenerationRequest,
    GenerationSettings,
    Sequence,
    Slots,
    StepPlan,
    TokenPart,
    TokenText,
)
from capamesh.node.generation.slots import Logits
from capamesh.protocol.errors import CapameshError, ModelUnavailable, Overloaded, RunFailed
from capamesh.protocol.threads import SystemThreads, Threads, WorkQueue

MAX_INBOX: Final = 1024
"""The most requests that the thread has not looked at yet (guess: it looks after each step)."""

Receive: TypeAlias = Callable[[int, TokenPart], None]
"""The way of a part to whoever asked, in the event loop: the choice's number and the part."""


class Generation:
    """One request that was handed to a runner, by which it is cancelled."""

    __slots__ = ("new_constraint", "new_text", "receive", "request", "sequences")

    def __init__(
        self,
        request: GenerationRequest,
        receive: Receive,
        new_text: Callable[[], TokenText],
        new_constraint: Callable[[], Constraint] | None,
    ) -> None:
        self.request = request
        self.receive: Receive | None = receive
        """The way of its parts; None once nothing more is wanted. Of the event loop."""
        self.new_text = new_text
        self.new_constraint = new_constraint
        self.sequences: tuple[Sequence, ...] = ()
        """The choices, once the engine has taken the request. Of the thread."""


_Order: TypeAlias = tuple[Generation, bool]
"""An order to the thread: to begin with a request, or, if true, to end it."""
_Delivery: TypeAlias = tuple[Generation, int, TokenPart]


class GenerationRunner:
    """One model's engine with its thread. Made, used and closed in one event loop."""

    def __init__(
        self,
        slots: Slots,
        settings: GenerationSettings,
        *,
        clock: Callable[[], float],
        on_broken: Callable[[str], None],
        threads: Threads | None = None,
    ) -> None:
        """`clock` is the one of requests' deadlines. `on_broken` is called in the loop, with the reason, if the thread ends of a bug."""
        self._slots = slots
        self._engine = GenerationEngine(slots, settings)
        self._max_inbox = MAX_INBOX
        self._clock = clock
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        threads = threads or SystemThreads()
        self._inbox: WorkQueue[_Order | None] = threads.queue()
        self._owners: dict[Sequence, Generation] = {}
        """The request of each sequence that has not ended. Of the thread."""
        self._masks: ThreadPoolExecutor | None = None
        self._closed: str = ""
        """The reason why nothing is taken any more; empty while it is."""
        self.load: GenerationLoad = self._engine.load()
        """The load after the last step."""
        self._cancelled = self._taken = self._left = 0
        """The cancellations that were ordered, those that the engine was told, and those that `load` knows of."""
        self.run_since_s: float | None = None
        """The time at which the run began that goes on now; None between two runs."""
        self._stepping = threads.start(self._work, "generation")

    @override
    def __repr__(self) -> str:
        return f"GenerationRunner({self._engine!r})"

    def submit(
        self,
        request: GenerationRequest,
        receive: Receive,
        new_text: Callable[[], TokenText],
        new_constraint: Callable[[], Constraint] | None = None,
    ) -> Generation:
        """Hand over `request`; `receive` is called with each part, the last of each choice has its end or an error.

        `new_text` and `new_constraint` are called in the thread, once for each choice, and must be quick: a grammar is compiled before.

        Raises:
            ModelUnavailable: the runner is closed, or its thread has ended.
            Overloaded: more requests were handed over than the thread could look at.
        """
        if self._closed:
            raise ModelUnavailable(self._closed)
        if self._inbox.qsize() >= self._max_inbox:
            raise Overloaded(
                f"{self._max_inbox} requests are not looked at yet; ask again later", 1.0
            )
        generation = Generation(request, receive, new_text, new_constraint)
        self._inbox.put((generation, False))
        return generation

    def cancel(self, generation: Generation) -> None:
        """End `generation`, which receives nothing more; its slots are free after the step that runs."""
        if generation.receive is not None:
            generation.receive = None
            self._cancelled += 1
            self._inbox.put((generation, True))

    @property
    def is_load_current(self) -> bool:
        """Return whether `load` counts nothing that was cancelled."""
        return self._left == self._cancelled or bool(self._closed)

    def stop(self, reason: str) -> None:
        """End all sequences with `ModelUnavailable` of `reason`; in another thread than the loop's. Blocks until the run that goes on has ended."""
        if not self._closed:
            self._closed = reason
            self._inbox.put(None)
        self._stepping.join()

    # in the thread

    def _work(self) -> None:
        try:
            while self._take_orders():
                self._step()
            self._engine.cancel_all(ModelUnavailable(self._closed))
        except Exception as exc:  # noqa: BLE001 - whoever waits must hear of a bug, too
            reason = f"the generation has ended of a bug: {exc!r}"
            self._engine.cancel_all(RunFailed(reason))
            self._call(self._break, reason)
        finally:
            self._hand_over()
            self._engine.forget_prefixes()
            if self._masks is not None:
                self._masks.shutdown()

    def _take_orders(self) -> bool:
        """Do what was ordered since the last step, or wait for an order if there is nothing to run; return false to end."""
        while True:
            try:
                order = self._inbox.get(block=not self._owners)
            except queue.Empty:
                return True
            if order is None:
                return False
            generation, is_cancelled = order
            if is_cancelled:
                self._taken += 1
                for sequence in generation.sequences:
                    self._engine.cancel(sequence)
                    self._owners.pop(sequence, None)
            elif generation.receive is not None:
                self._begin(generation)
            if not self._owners:  # slots are emptied before it waits
                self._step()

    def _begin(self, generation: Generation) -> None:
        try:
            generation.sequences = self._engine.submit(
                generation.request,
                self._clock(),
                generation.new_text,
                generation.new_constraint,
            )
        except CapameshError as error:
            self._refuse(generation, error)
        except Exception as exc:  # noqa: BLE001 - a tokenizer's or a grammar's bug refuses one request
            self._refuse(generation, RunFailed(f"the request cannot be begun: {exc!r}"))
        else:
            self._owners.update(dict.fromkeys(generation.sequences, generation))

    def _refuse(self, generation: Generation, error: CapameshError) -> None:
        error = error.with_traceback(None)
        first = generation.request.first_choice
        self._call(
            _deliver,
            [
                (generation, first + number, TokenPart((), "", error=error))
                for number in range(generation.request.choices)
            ],
        )

    def _step(self) -> None:
        plan = self._engine.plan(self._clock())
        self._hand_over()  # what needed no run does not wait for the one that comes
        if plan is not None:
            began_s = self.run_since_s = self._clock()
            try:
                logits = self._run(plan)
            except CapameshError as error:
                self._engine.failed(plan, error.with_traceback(None))
            else:
                now_s = self._clock()
                self._engine.stepped(plan, logits, now_s, now_s - began_s)
            self.run_since_s = None
        self._hand_over()
        self._engine.settle()
        self.load = self._engine.load()
        self._left = self._taken

    def _run(self, plan: StepPlan) -> Logits | None:
        """Run the model; return scores in the shape that `StepPlan.run` tells. Meanwhile another thread makes the masks of grammars."""
        constraints = plan.constraints()
        if not constraints:
            return plan.run(self._slots)
        if self._masks is None:
            self._masks = ThreadPoolExecutor(1, "generation-masks")
        made = self._masks.submit(_prepare, constraints)
        try:
            return plan.run(self._slots)
        finally:
            made.result()

    def _hand_over(self) -> None:
        deliveries: list[_Delivery] = []
        for each in self._engine.take_parts():
            sequence = each.sequence
            owners = self._owners
            owner = owners.pop(sequence, None) if each.part.is_last else owners.get(sequence)
            if owner is not None:
                deliveries.append((owner, sequence.choice, each.part))
        if deliveries:
            self._call(_deliver, deliveries)

    def _call(self, function: Callable[..., None], *values: object) -> None:
        """Let the loop call `function`, unless the loop is gone with all who waited."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *values)

    # in the loop

    def _break(self, reason: str) -> None:
        """Refuse what nobody will look at any more, and tell of it."""
        self._closed = reason
        while not self._inbox.empty():
            order = self._inbox.get()
            if order is not None and not order[1]:
                self._refuse(order[0], ModelUnavailable(reason))
        self._on_broken(reason)


def _prepare(constraints: list[Constraint]) -> None:
    for each in constraints:
        each.prepare()


def _deliver(deliveries: list[_Delivery]) -> None:
    for generation, choice, part in deliveries:
        if generation.receive is not None:
            generation.receive(choice, part)
