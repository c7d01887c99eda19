"""Makes the changes that routers ask for: load, unload, load what a request came for. IO: model files, by the folder's watch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from capamesh.node.models.changes import key_of
from capamesh.node.models.eviction import NoRoom
from capamesh.protocol.errors import ModelInvalid, ModelUnavailable, Overloaded
from capamesh.protocol.links.calls import ControlAction, ControlCall

if TYPE_CHECKING:
    from capamesh.node.models.changes import ModelChanges
    from capamesh.node.models.folder_watch import FolderWatch
    from capamesh.node.models.registry import Key, ModelRegistry
    from capamesh.node.repository import ModelSource
    from capamesh.protocol.ids import ModelVersion


class AskedChanges:
    """The changes to one worker's models that somebody else asks for."""

    def __init__(self, models: ModelRegistry, changes: ModelChanges, folder: FolderWatch) -> None:
        self._models = models
        self._changes = changes
        self._folder = folder

    async def make(self, call: ControlCall) -> None:
        """Make one change. Raises a CapameshError: why it was not made."""
        match call.action:
            case ControlAction.LOAD:
                await self._load(call)
            case ControlAction.UNLOAD:
                await self._unload(call)
            case ControlAction.WANT:
                await self._load_wanted(call)

    def _keys(self, call: ControlCall) -> list[Key]:
        return [
            key
            for key in self._models.known_keys()
            if key[0] == call.model and call.version in {"", key[1]}
        ]

    async def _unload(self, call: ControlCall) -> None:
        keys = self._keys(call)
        if not keys:
            raise _not_there(call)
        for key in keys:
            source = self._changes.sources.get(key)
            if source is not None:
                self._changes.held[key] = source
            await self._changes.unload(key, "unloaded on request", is_gone=False)

    async def _load_wanted(self, call: ControlCall) -> None:
        keys = self._keys(call)
        away = [key for key in keys if key in self._changes.away]
        if not away and not any(map(self._models.is_coming, keys)):
            offers = [offer for key in keys if (offer := self._models.offer(key)) is not None]
            why = offers[0].reason if offers else "it is not in this node's folder"
            raise ModelUnavailable(
                f"model {call.model!r} version {call.version or 'any'!r} is not away for want of memory: {why}"
            )
        if not away:  # another router's request has had it loaded
            return
        # its file may have been replaced or removed since it gave way
        found = await self._folder.look()
        refused = self._folder.refuse(found)
        sources = {key_of(source): source for source in found.models}
        for key in away:
            if key not in sources and key not in refused:
                await self._changes.unload(key, "its files are gone", is_gone=True)
        there = [sources[key] for key in away if key in sources]
        if not there:
            raise ModelUnavailable(
                f"the files of model {call.model!r} on this node have been removed or are refused since it gave way"
            )
        await self._load_all(there)

    async def _load(self, call: ControlCall) -> None:
        for key in self._keys(call):
            self._changes.held.pop(key, None)
        found = await self._folder.look()
        self._folder.refuse(found)
        sources = [
            source
            for source in found.models
            if source.name == call.model and call.version in {"", source.version}
        ]
        if not sources:
            reasons = [r.reason for r in found.refused if r.name == call.model]
            raise _not_there(call, f": {reasons[0]}" if reasons else "")
        await self._load_all(sources)

    async def _load_all(self, sources: Sequence[ModelSource]) -> None:
        """Load what a router wants; raise `Overloaded` where room is to be had later, `ModelUnavailable` where not."""
        failed: list[tuple[ModelVersion, ModelInvalid]] = []
        for source in sources:
            hosted = self._models.find(source.name, source.version)
            if hosted is not None and hosted.source == source:
                continue
            if problem := await self._changes.load(source, is_asked_for=True):
                failed.append((source.version, problem))
        await self._changes.remake_pipelines({key_of(source) for source in sources})
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


def _not_there(call: ControlCall, why: str = "") -> ModelUnavailable:
    return ModelUnavailable(
        f"model {call.model!r} version {call.version or 'any'!r} is not in this node's folder{why}"
    )
