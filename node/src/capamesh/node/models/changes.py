"""Changes the models of a worker, one after the other: load, replace, unload, make room. IO: threads, by the loader.

What is replaced or withdrawn goes on until its requests are answered, and is closed then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from capamesh.node.models.dependencies import is_member, members, members_first
from capamesh.node.models.eviction import NoRoom, Room
from capamesh.node.models.loader import RanShort
from capamesh.node.models.shortage import TRIES, Reserve
from capamesh.node.repository import ContentChanged
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.models.loader import ModelLoading
    from capamesh.node.models.registry import HostedModel, Key, ModelRegistry
    from capamesh.node.repository import ModelSource

TRY_AGAIN_S = 5.0
"""Seconds after which a change that found no place, or no memory, is tried again (guess: some changes are made by then)."""

TELL_S = 20.0
"""Seconds between two words on a load that goes on (guess: a router is patient for a minute)."""


def key_of(source: ModelSource) -> Key:
    """Return the name and version of a source."""
    return source.name, source.version


class ModelChanges:
    """The single changes to one worker's models, and what is remembered of them."""

    def __init__(
        self,
        models: ModelRegistry,
        loading: ModelLoading,
        room: Room,
        *,
        shown_root: str,
        on_change: Callable[[], None],
        reserve: Reserve,
        log: FilteringBoundLogger,
    ) -> None:
        """Change `models`; `shown_root` is the folder's path, which the network is not told."""
        self._models = models
        self._loading = loading
        self._room = room
        self._shown_root = shown_root
        self._on_change = on_change
        self._reserve = reserve
        self._log = log
        self.sources: dict[Key, ModelSource] = {}
        """The source that was tried last, by model version."""
        self.held: dict[Key, ModelSource] = {}
        """The models unloaded on purpose, or held back: not loaded again unless asked for, or changed."""
        self.away: dict[Key, ModelSource] = {}
        """The models not loaded for want of memory: loaded once there is some, or, others giving way, when a request comes."""
        self._leaving: list[HostedModel] = []
        """The models that take no more requests, and go once the pipelines that were made of them are made anew."""
        self._tasks: asyncio.TaskGroup | None = None

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Close in `tasks` what is replaced; called before the first change."""
        self._tasks = tasks

    def forget_source(self, key: Key) -> None:
        """Forget what was tried of a model version, and that it waits for memory."""
        self.sources.pop(key, None)
        self.away.pop(key, None)

    # loading

    async def load(
        self,
        source: ModelSource,
        *,
        is_asked_for: bool = False,
        is_remade: bool = False,
        is_return: bool = False,
    ) -> ModelInvalid | None:
        """Load or replace one model version; return why it failed, None where it did not.

        Others give way only to one that `is_asked_for`. What cannot be replaced goes on as it was, unless it `is_remade`: a
        pipeline whose members go. What gave way to a model that then fails is loaded again: an `is_return` that asks
        for no room, for it had it before.
        """
        key = key_of(source)
        self.sources[key] = source
        self.away.pop(key, None)
        evicted: list[ModelSource] = []
        telling = asyncio.ensure_future(self._tell(source)) if is_asked_for else None
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
            # The whole network is told of it, which need not know where the folder lies.
            reason = error.message.replace(self._shown_root, "")
            if self._models.find(*key) is not None:
                self._models.outdate(key, reason)
            else:
                may_come = isinstance(error, NoRoom) and error.soon_s < math.inf
                state = ModelState.UNLOADED if may_come else ModelState.FAILED
                self._models.say(key, state, reason, source.digest)
            await self._bring_back(evicted)
            return error
        finally:
            if telling is not None:
                telling.cancel()
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
            provider=hosted.prepared.loaded.provider,
        )
        return None

    async def _tell(self, source: ModelSource) -> None:
        """Tell, while a model that routers wait for is loaded, that this goes on: nothing is told while nothing moves."""
        key, total_s = key_of(source), 0.0
        before = self._loading.work()
        while True:
            await asyncio.sleep(TELL_S)
            total_s += TELL_S
            work = self._loading.work()
            if work != before and self._models.find(*key) is None:
                reason = f"it is being loaded, for {total_s:g} s so far"
                self._models.say(key, ModelState.UNLOADED, reason, source.digest)
                self._on_change()
            before = work

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
            self.away[key_of(source)] = source
            raise self._room.ran_short(source, short.message) from short
        except ContentChanged:
            self.away[key_of(source)] = source  # until the folder tells what it is now
            raise
        except MemoryError as exc:
            self.away[key_of(source)] = source
            raise NoRoom("this node has no memory to load it", soon_s=TRY_AGAIN_S) from exc
        self._room.forget(key_of(source))
        return hosted

    async def remake_pipelines(self, changed: set[Key]) -> None:
        """Make the pipelines anew whose members have changed, then let go of what those held."""
        names = {name for name, _ in changed}
        for source in members_first(list(self.sources.values())):
            key = key_of(source)
            if key in changed or not members(source) & names:
                continue
            names.add(source.name)
            await self.load(source, is_remade=True)
            self._on_change()
        leaving, self._leaving = self._leaving, []
        self._close_later(leaving)

    # unloading

    async def unload(self, key: Key, reason: str, *, is_gone: bool) -> None:
        """Unload a model version; forget it where its files are gone (`is_gone`)."""
        hosted = self._models.withdraw(key)
        if hosted is not None:
            self._leaving.append(hosted)
        self.forget_source(key)
        if is_gone:
            self.held.pop(key, None)
            self._room.forget(key)
            self._models.forget(key)
        else:
            self._models.say(key, ModelState.UNLOADED, reason)
        if not self._leaving:
            return
        self._log.info("model_unloaded", model=key[0], version=key[1], reason=reason)
        self._on_change()
        await self.remake_pipelines({key})

    def _close_later(self, leaving: list[HostedModel]) -> None:
        assert self._tasks is not None  # noqa: S101 - `begin` has set it before anything was loaded
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
                key = key_of(leaving.source)
                self.away[key] = leaving.source
                self._models.withdraw(key)
                reason = f"unloaded to make room for {source.name}/{source.version}"
                self._models.say(key, ModelState.UNLOADED, reason, leaving.source.digest)
                self._log.info("model_evicted", model=key[0], version=key[1], reason=reason)
                self._on_change()  # before the load, which takes long
                evicted.append(leaving.source)
                await self._closed([leaving])  # it is idle: this takes no time
        except NoRoom as error:
            self.away[key_of(source)] = source
            # The device has less than is counted: others must not give way in vain again.
            if evicted:
                error.soon_s = math.inf
            raise

    async def _bring_back(self, evicted: list[ModelSource]) -> None:
        """Load again what gave way for nothing."""
        for source in evicted:
            await self.load(source, is_return=True)
            self._on_change()


async def _close(hosted: HostedModel) -> None:
    hosted.runner.close()
    await asyncio.to_thread(hosted.prepared.close)
