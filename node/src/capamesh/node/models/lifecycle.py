"""Brings what a worker hosts in line with its folder and with what routers ask: load, reload, unload, make room.

One change after the other. What is replaced or withdrawn goes on until its requests are answered, and is closed
then.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.node.models.dependencies import is_member, members, members_first
from capamesh.node.models.eviction import NoRoom, Room
from capamesh.node.models.loader import ModelLoading, RanShort
from capamesh.node.models.refusals import MAX_SHOWN, keys_of
from capamesh.node.models.registry import HostedModel, Key, ModelRegistry
from capamesh.node.models.shortage import TRIES, Reserve
from capamesh.node.repository import ModelSource, Refused, Scan, scan
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    InvalidRequest,
    ModelInvalid,
    ModelUnavailable,
    Overloaded,
)
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import ControlAction, ControlCall

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.contract.settings import WorkerSettings
    from capamesh.node.contract.verdict import Verdict
    from capamesh.node.devices.in_flight_journal import InFlightJournal
    from capamesh.node.models.preparation import Preparation
    from capamesh.node.runtime.api import Backend
    from capamesh.node.scheduling import MemoryBudget

MAX_CHANGES = 64
"""Changes that routers asked for and that wait (guess: more is an operator's script gone wrong)."""
TRY_AGAIN_S = 5.0
"""When what found no place among the changes, or no memory, is tried again (guess: some changes are made by then)."""
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
        reserve: Reserve,
        log: FilteringBoundLogger,
    ) -> None:
        """Host the models in `folder`, less those that `verdicts` hold back because they ended earlier workers.

        `compute_capability` is the GPU's, by which a model may have a file of its own; empty: none.
        `on_stuck` is told why this process must end: a load that takes too long holds up all others.

        `on_moved` is told, more than once, that another folder lies where the models' did, which this process may
        not read: the kernel holds it to the folder that was there when it started.
        """
        self._on_moved = on_moved
        self._place = _place(folder)
        self._reserve = reserve
        self._settings = settings
        self._folder = folder
        self._compute_capability = compute_capability
        self._models = models
        self._on_change = on_change
        self._log = log
        self._loading = ModelLoading(
            models,
            backend,
            preparation,
            settings=settings,
            budget=budget,
            verdicts=verdicts,
            marks=marks,
            on_stuck=on_stuck,
            log=log,
        )
        self._root = f"{os.path.realpath(folder)}/"
        self._refused: frozenset[Refused] = frozenset()
        """What was refused at the last look, of which the log has told."""
        self._before: Scan | None = None
        """What was read last, so that it need not be read again."""
        self._followed: Scan | None = None
        """What the models were brought in line with last."""
        self._sources: dict[Key, ModelSource] = {}
        """What was tried last of each model version."""
        self._held: dict[Key, ModelSource] = {}
        """Unloaded on purpose, or held back: not loaded again unless asked for, or changed."""
        self._away: dict[Key, ModelSource] = {}
        """Not loaded for want of memory: loaded once there is some, or, others giving way, when a request comes."""
        self._verdicts = {(one.name, one.version): one for one in verdicts if one.held_s}
        """Those on models that were not met in the folder yet."""
        self._leaving: list[HostedModel] = []
        """Take no more requests, and go once the pipelines that were made of them are made anew."""
        self._asked: asyncio.Queue[tuple[ControlCall, Changed]] = asyncio.Queue(MAX_CHANGES)
        self._tasks: asyncio.TaskGroup | None = None
        self._room = Room(
            models,
            backend,
            preparation.needed_bytes,
            lambda: self._loading.held_bytes,
            limit_bytes=settings.memory_limit_bytes,
        )

    async def run(self) -> None:
        """Load the folder, then follow it and what is asked, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
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
            found = await self._look(now_ns)
        except ConfigError as error:
            if is_first:
                raise
            self._log.warning("models_folder_unreadable", reason=error.message)
            return
        if self._models.sign(found.models):
            self._on_change()
        is_known = found == self._followed
        if is_known and not self._away:
            return
        wanted = {(source.name, source.version): source for source in found.models}
        refused = self._refuse(found)
        for key in self._models.known_keys() - wanted.keys() - refused:
            await self._unload(key, "its files are gone", is_gone=True)
        due = [source for key, source in wanted.items() if self._is_due(key, source)]
        if is_known and not due:
            return
        for source in due:
            if self._models.find(source.name, source.version) is None:
                self._models.say(_key(source), ModelState.LOADING, digest=source.digest)
        if is_first and not found.models:
            self._log.warning(
                "no_models",
                folder=str(self._folder),
                expected="NAME/VERSION/model.onnx or NAME.onnx",
            )
        self._on_change()
        for source in members_first(due):
            await self._load(source)
            self._on_change()
        await self._remake_pipelines({_key(source) for source in due})
        self._followed = found  # last: what found no memory half way is gone through again

    async def _look(self, now_ns: int | None = None) -> Scan:
        try:
            self._before = await asyncio.to_thread(partial(self._scan, self._before, now_ns))
        except ConfigError:
            folder = self._folder
            if _place(folder) not in {None, self._place} and os.access(folder, os.R_OK | os.X_OK):
                self._on_moved()
            raise
        return self._before

    def _scan(self, before: Scan | None, now_ns: int | None = None) -> Scan:
        return scan(
            self._folder,
            before=before,
            now_ns=now_ns,
            compute_capability=self._compute_capability,
        )

    def _refuse(self, found: Scan) -> set[Key]:
        """Say of what the scan refused that it failed, and why; return of which model versions that is said.

        What was loaded before goes on. Of more than `MAX_SHOWN` the log alone tells.
        """
        for refused in found.refused:
            if refused not in self._refused:
                self._log.warning(
                    "model_refused",
                    model=refused.name,
                    version=refused.version,
                    reason=refused.reason,
                )
        self._refused = frozenset(found.refused)
        keys: set[Key] = set()
        said: set[Key] = set()
        for refused in found.refused:
            for key in keys_of(refused, self._models.known_keys()):
                if self._models.find(*key) is not None:
                    keys.add(key)
                elif key in said or len(said) < MAX_SHOWN:
                    said.add(key)
                    self._models.say(key, ModelState.FAILED, refused.reason)
                    self._sources.pop(key, None)
                    self._away.pop(key, None)
        return keys | said

    def _is_due(self, key: Key, source: ModelSource) -> bool:
        if self._held.get(key) == source:
            return False
        self._held.pop(key, None)
        if self._away.get(key) == source:
            return self._room.fits(source)
        verdict = self._verdicts.pop(key, None)
        if verdict is not None and verdict.digest in {"", source.digest}:
            self._held[key] = source
            self._models.say(key, ModelState.FAILED, verdict.reason, source.digest)
            self._log.error("model_held", model=key[0], version=key[1], reason=verdict.reason)
            loop = asyncio.get_running_loop()
            loop.call_later(verdict.held_s, self._try_again, key, source)
            return False
        return self._sources.get(key) != source

    def _try_again(self, key: Key, source: ModelSource) -> None:
        """Have a model loaded that was held back, unless something else has happened to it since."""
        if self._held.get(key) != source:
            return
        try:
            self._asked.put_nowait((ControlCall(ControlAction.LOAD, *key), _unheard))
        except asyncio.QueueFull:
            asyncio.get_running_loop().call_later(TRY_AGAIN_S, self._try_again, key, source)

    # loading

    async def _load(
        self,
        source: ModelSource,
        *,
        is_asked_for: bool = False,
        is_remade: bool = False,
        is_return: bool = False,
    ) -> ModelInvalid | None:
        """Load or replace one model version; return why it failed, None where it did not.

        Others give way only to one that `is_asked_for`. What cannot be replaced goes on as it was, unless it `is_remade`: a pipeline whose members go. What gave
        way to a model that then fails is loaded again: an `is_return` that asks for no room, for it had it before.
        """
        key = _key(source)
        self._sources[key] = source
        self._away.pop(key, None)
        evicted: list[ModelSource] = []
        try:
            hosted = await self._hosted(
                source, evicted, is_asked_for=is_asked_for, is_return=is_return
            )
        except ModelInvalid as error:
            self._log.warning(
                "model_has_no_room" if isinstance(error, NoRoom) else "model_failed",
                model=source.name,
                version=source.version,
                reason=error.message,
            )
            if is_remade and (before := self._models.withdraw(key)) is not None:
                self._leaving.append(before)
            if self._models.find(*key) is None:
                may_come = isinstance(error, NoRoom) and error.soon_s < math.inf
                state = ModelState.UNLOADED if may_come else ModelState.FAILED
                # The whole network is told of it, which need not know where the folder lies.
                reason = error.message.replace(self._root, "")
                self._models.say(key, state, reason, source.digest)
            await self._bring_back(evicted)
            return error
        replaced = self._models.ready(hosted)
        if replaced is not None:
            if is_member(source.name, self._models) or source.is_pipeline:
                self._leaving.append(replaced)
            else:
                self._close_later([replaced])
        for note in hosted.prepared.notes:
            self._log.info("model_note", model=source.name, version=source.version, note=note)
        self._log.info(
            "model_ready",
            model=source.name,
            version=source.version,
            batch_rows=hosted.prepared.plan.batch_rows,
        )
        return None

    async def _hosted(
        self,
        source: ModelSource,
        evicted: list[ModelSource],
        *,
        is_asked_for: bool,
        is_return: bool,
    ) -> HostedModel:
        """Return a model that can take requests; raise ModelInvalid where it cannot be had."""

        async def load() -> HostedModel:
            if not is_return:
                await self._make_room(source, evicted, is_asked_for=is_asked_for)
            return await self._loading.load(source)

        try:
            hosted = await self._reserve.lasting(load, tries=TRIES)
        except RanShort as short:
            self._away[_key(source)] = source
            raise self._room.ran_short(source, short.message) from short
        except MemoryError as exc:
            self._away[_key(source)] = source
            raise NoRoom("this node has no memory to load it", soon_s=TRY_AGAIN_S) from exc
        self._room.forget(_key(source))
        return hosted

    async def _remake_pipelines(self, changed: set[Key]) -> None:
        """Make the pipelines anew whose members have changed, then let go of what those held."""
        names = {name for name, _ in changed}
        for source in members_first(list(self._sources.values())):
            key = _key(source)
            if key in changed or not members(source) & names:
                continue
            names.add(source.name)
            await self._load(source, is_remade=True)
            self._on_change()
        leaving, self._leaving = self._leaving, []
        self._close_later(leaving)

    # unloading

    async def _unload(self, key: Key, reason: str, *, is_gone: bool) -> None:
        hosted = self._models.withdraw(key)
        if hosted is not None:
            self._leaving.append(hosted)
        self._sources.pop(key, None)
        self._away.pop(key, None)
        if is_gone:
            self._held.pop(key, None)
            self._room.forget(key)
            self._models.forget(key)
        else:
            self._models.say(key, ModelState.UNLOADED, reason)
        if not self._leaving:
            return
        self._log.info("model_unloaded", model=key[0], version=key[1], reason=reason)
        self._on_change()
        await self._remake_pipelines({key})

    def _close_later(self, leaving: list[HostedModel]) -> None:
        assert self._tasks is not None  # noqa: S101 - `run` has set it before anything was loaded
        if leaving:
            self._tasks.create_task(self._closed(leaving))

    async def _closed(self, leaving: list[HostedModel]) -> None:
        """Wait for the requests of models that take no more, then let go of them: pipelines and what they hold."""
        for hosted in leaving:
            await self._reserve.lasting(hosted.runner.wait_idle)
        for hosted in leaving:
            await self._reserve.lasting(partial(_close, hosted))
            self._loading.unloaded(hosted)

    async def _make_room(
        self, source: ModelSource, evicted: list[ModelSource], *, is_asked_for: bool
    ) -> None:
        """Unload what was not used for long until `source` fits, and add it to `evicted`.

        NoRoom: that cannot be, or was not, enough.
        """
        try:
            while (
                leaving := self._room.eviction_victim(source, is_asked_for=is_asked_for)
            ) is not None:
                key = _key(leaving.source)
                self._away[key] = leaving.source
                self._models.withdraw(key)
                reason = f"unloaded to make room for {source.name}/{source.version}"
                self._models.say(key, ModelState.UNLOADED, reason, leaving.source.digest)
                self._log.info("model_evicted", model=key[0], version=key[1], reason=reason)
                self._on_change()  # before the load, which takes long
                evicted.append(leaving.source)
                await self._closed([leaving])  # it is idle: this takes no time
        except NoRoom as error:
            self._away[_key(source)] = source
            if (
                evicted
            ):  # the device has less than is counted: others must not give way in vain again
                error.soon_s = math.inf
            raise

    async def _bring_back(self, evicted: list[ModelSource]) -> None:
        """Load again what gave way for nothing."""
        for source in evicted:
            await self._load(source, is_return=True)
            self._on_change()

    # what routers ask

    async def _control(self, call: ControlCall) -> None:
        try:
            match call.action:
                case ControlAction.LOAD:
                    await self._load_asked(call)
                case ControlAction.UNLOAD:
                    await self._unload_asked(call)
                case ControlAction.WANT:
                    await self._load_wanted(call)
        finally:
            self._on_change()  # one that fails may have changed something all the same

    def _asked_keys(self, call: ControlCall) -> list[Key]:
        return [
            key
            for key in self._models.known_keys()
            if key[0] == call.model and call.version in {"", key[1]}
        ]

    async def _unload_asked(self, call: ControlCall) -> None:
        keys = self._asked_keys(call)
        if not keys:
            raise ModelUnavailable(
                f"model {call.model!r} version {call.version or 'any'!r} is not in this node's folder"
            )
        for key in keys:
            source = self._sources.get(key)
            if source is not None:
                self._held[key] = source
            await self._unload(key, "unloaded on request", is_gone=False)

    async def _load_wanted(self, call: ControlCall) -> None:
        keys = self._asked_keys(call)
        away = [key for key in keys if key in self._away]
        if not away and not any(map(self._models.is_coming, keys)):
            offers = [offer for key in keys if (offer := self._models.offer(key)) is not None]
            why = offers[0].reason if offers else "it is not in this node's folder"
            raise ModelUnavailable(
                f"model {call.model!r} version {call.version or 'any'!r} is not away for want of memory: {why}"
            )
        if not away:  # another router's request has had it loaded
            return
        # its file may have been replaced or removed since it gave way
        found = await self._look()
        refused = self._refuse(found)
        sources = {_key(source): source for source in found.models}
        for key in away:
            if key not in sources and key not in refused:
                await self._unload(key, "its files are gone", is_gone=True)
        there = [sources[key] for key in away if key in sources]
        if not there:
            raise ModelUnavailable(
                f"the files of model {call.model!r} on this node have been removed or are refused since it gave way"
            )
        await self._load_all(there)

    async def _load_asked(self, call: ControlCall) -> None:
        for key in self._asked_keys(call):
            self._held.pop(key, None)
        found = await self._look()
        self._refuse(found)
        sources = [
            source
            for source in found.models
            if source.name == call.model and call.version in {"", source.version}
        ]
        if not sources:
            reasons = [r.reason for r in found.refused if r.name == call.model]
            raise ModelUnavailable(
                f"model {call.model!r} version {call.version or 'any'!r} is not in this node's folder"
                + (f": {reasons[0]}" if reasons else "")
            )
        await self._load_all(sources)

    async def _load_all(self, sources: Sequence[ModelSource]) -> None:
        """Load what a router wants; raise `Overloaded` where room is to be had later, `ModelUnavailable` where not."""
        failed: list[tuple[ModelVersion, ModelInvalid]] = []
        for source in sources:
            hosted = self._models.find(source.name, source.version)
            if hosted is not None and hosted.source == source:
                continue
            if problem := await self._load(source, is_asked_for=True):
                failed.append((source.version, problem))
        await self._remake_pipelines({_key(source) for source in sources})
        if not failed:
            return
        why = failed[0][1].message  # though what it was to replace may go on
        if len(sources) > 1:
            why = f"{len(failed)} of {len(sources)} versions were not loaded: " + "; ".join(
                f"version {version}: {problem.message}" for version, problem in failed
            )
        soon_s = min(
            (problem.soon_s for _, problem in failed if isinstance(problem, NoRoom)),
            default=math.inf,
        )
        if soon_s < math.inf:
            raise Overloaded(why, soon_s)
        raise ModelUnavailable(why)


def _place(folder: Path) -> tuple[int, int] | None:
    """Return which folder lies at a path, None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


async def _tell(done: Changed, error: CapameshError | None) -> None:
    done(error)


async def _close(hosted: HostedModel) -> None:
    hosted.runner.close()
    await asyncio.to_thread(hosted.prepared.close)


def _unheard(error: CapameshError | None) -> None:
    """Stand for a router where there is none."""


def _key(source: ModelSource) -> Key:
    return source.name, source.version
