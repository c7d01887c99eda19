"""Brings what a worker hosts in line with its folder and with what routers ask. IO: a timer, model files in threads.

One change is made after the other.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.node.models.asked_changes import AskedChanges
from capamesh.node.models.changes import TRY_AGAIN_S, ModelChanges, key_of
from capamesh.node.models.dependencies import members_first
from capamesh.node.models.eviction import Room
from capamesh.node.models.folder_watch import FolderWatch
from capamesh.node.models.loader import ModelLoading
from capamesh.node.models.shortage import TRIES, Reserve
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.errors import CapameshError, ConfigError, InvalidRequest, Overloaded
from capamesh.protocol.links.calls import ControlAction, ControlCall

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.contract.settings import WorkerSettings
    from capamesh.node.contract.verdict import Verdict
    from capamesh.node.devices.in_flight_journal import InFlightJournal
    from capamesh.node.models.preparation import Preparation
    from capamesh.node.models.registry import Key, ModelRegistry
    from capamesh.node.repository import ModelSource, Scan
    from capamesh.node.runtime.api import Backend
    from capamesh.node.scheduling import MemoryBudget

MAX_CHANGES = 64
"""The most changes asked for by routers that wait (guess: more is an operator's script gone wrong)."""
Changed = Callable[[CapameshError | None], None]


class ModelLifecycle:
    """The changes to one worker's models."""

    def __init__(
        self,
        settings: WorkerSettings,
        folder: Path,
        models: ModelRegistry,
        backend: Backend,
        preparation: Preparation,
        *,
        verdicts: Sequence[Verdict] = (),
        compute_capability: str = "",
        budget: MemoryBudget,
        marks: InFlightJournal,
        on_change: Callable[[], None],
        on_stuck: Callable[[str], None],
        on_moved: Callable[[], None],
        on_survived: Callable[[], None],
        reserve: Reserve,
        log: FilteringBoundLogger,
    ) -> None:
        """Host the models in `folder`, less those that `verdicts` hold back because they ended earlier workers.

        `compute_capability` is the GPU's, by which a model may have a file of its own; empty: none.
        `on_stuck` is told why this process must end: a load that takes too long holds up all others.

        `on_moved` is told, more than once, that another folder lies where the models' did, which this process may
        not read: the kernel holds it to the folder that was there when it started. `on_survived` is told, in any thread, that a request
        which was suspected has ended well.
        """
        self._reserve = reserve
        self._settings = settings
        self._folder = folder
        self._models = models
        self._on_change = on_change
        self._log = log
        loading = ModelLoading(
            models,
            backend,
            preparation,
            settings=settings,
            budget=budget,
            verdicts=verdicts,
            marks=marks,
            on_stuck=on_stuck,
            on_survived=on_survived,
            log=log,
        )
        self._room = Room(
            models,
            backend,
            preparation.needed_bytes,
            lambda: loading.held_bytes,
            limit_bytes=settings.memory_limit_bytes,
        )
        self._changes = ModelChanges(
            models,
            loading,
            self._room,
            shown_root=f"{os.path.realpath(folder)}/",
            on_change=on_change,
            reserve=reserve,
            log=log,
        )
        self._watch = FolderWatch(
            folder,
            models,
            self._changes,
            compute_capability=compute_capability,
            on_moved=on_moved,
            log=log,
        )
        self._asked_changes = AskedChanges(models, self._changes, self._watch)
        self._followed: Scan | None = None
        """The scan that the models were last brought in line with."""
        self._verdicts = {(one.name, one.version): one for one in verdicts if one.held_s}
        """The verdicts on models that were not met in the folder yet."""
        self._asked: asyncio.Queue[tuple[ControlCall, Changed]] = asyncio.Queue(MAX_CHANGES)

    async def run(self) -> None:
        """Load the folder, then follow it and what is asked, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._changes.begin(tasks)
            await self._reserve.lasting(partial(self._follow, is_first=True))
            while True:
                await self._reserve.lasting(self._make_changes)
                await self._reserve.lasting(partial(self._follow, is_first=False))

    async def _make_changes(self) -> None:
        """Make the changes that are asked for, until the folder is due to be read again."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._settings.poll_s if self._settings.poll_s else None
        while due_s is None or loop.time() < due_s:
            try:
                async with asyncio.timeout_at(due_s):
                    call, done = await self._asked.get()
            except TimeoutError:
                return
            await self._reserve.lasting(partial(_tell, done, await self._made(call)))

    async def _made(self, call: ControlCall) -> CapameshError | None:
        """Make one change; return why it could not be made."""
        try:
            await self._reserve.lasting(partial(self._control, call), tries=TRIES)
        except CapameshError as error:
            return error
        except MemoryError:
            return Overloaded("this node has no memory to make the change", TRY_AGAIN_S)
        return None

    def change(self, call: ControlCall, done: Changed) -> None:
        """Do what a router asks, in turn; `done` gets None or why not. Raises when it is refused at once."""
        if call.action is not ControlAction.WANT and not self._settings.is_controllable:
            raise InvalidRequest(
                "this node's operator does not let routers load or unload models"
                " (capamesh node run --control does)"
            )
        try:
            self._asked.put_nowait((call, done))
        except asyncio.QueueFull as exc:
            raise Overloaded(f"{MAX_CHANGES} changes of models wait already") from exc

    def close(self) -> None:
        """Let go of all models."""
        for hosted in list(self._models):
            hosted.runner.close()

    # the folder

    async def _follow(self, *, is_first: bool) -> None:
        now_ns = None if is_first else time.time_ns()
        try:
            found = await self._watch.look(now_ns)
        except ConfigError as error:
            if is_first:
                raise
            self._log.warning("models_folder_unreadable", reason=error.message)
            return
        if self._models.sign(found.models):
            self._on_change()
        is_known = found == self._followed
        if is_known and not self._changes.away:
            return
        wanted = {(source.name, source.version): source for source in found.models}
        refused = self._watch.refuse(found)
        for key in self._models.known_keys() - wanted.keys() - refused:
            await self._changes.unload(key, "its files are gone", is_gone=True)
        due = [source for key, source in wanted.items() if self._is_due(key, source)]
        if is_known and not due:
            return
        for source in due:
            if self._models.find(source.name, source.version) is None:
                self._models.say(key_of(source), ModelState.LOADING, digest=source.digest)
        if is_first and not found.models:
            self._log.warning(
                "no_models",
                folder=str(self._folder),
                expected="NAME/VERSION/model.onnx or NAME.onnx",
            )
        self._on_change()
        for source in members_first(due):
            await self._changes.load(source)
            self._on_change()
        await self._changes.remake_pipelines({key_of(source) for source in due})
        self._followed = found  # last: what found no memory half way is gone through again

    def _is_due(self, key: Key, source: ModelSource) -> bool:
        if self._changes.held.get(key) == source:
            return False
        self._changes.held.pop(key, None)
        if self._changes.away.get(key) == source:
            return self._room.fits(source)
        verdict = self._verdicts.pop(key, None)
        if verdict is not None and verdict.digest in {"", source.digest}:
            self._changes.held[key] = source
            self._models.say(key, ModelState.FAILED, verdict.reason, source.digest)
            self._log.error("model_held", model=key[0], version=key[1], reason=verdict.reason)
            loop = asyncio.get_running_loop()
            loop.call_later(verdict.held_s, self._try_again, key, source)
            return False
        return self._changes.sources.get(key) != source

    def _try_again(self, key: Key, source: ModelSource) -> None:
        """Have a model loaded that was held back, unless something else has happened to it since."""
        if self._changes.held.get(key) != source:
            return
        try:
            self._asked.put_nowait((ControlCall(ControlAction.LOAD, *key), _unheard))
        except asyncio.QueueFull:
            asyncio.get_running_loop().call_later(TRY_AGAIN_S, self._try_again, key, source)

    async def _control(self, call: ControlCall) -> None:
        try:
            await self._asked_changes.make(call)
        finally:
            self._on_change()  # one that fails may have changed something all the same


async def _tell(done: Changed, error: CapameshError | None) -> None:
    done(error)


def _unheard(error: CapameshError | None) -> None:
    """Stand for a router where there is none."""
