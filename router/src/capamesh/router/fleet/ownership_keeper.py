"""Owners at work in a router: tells the fleet's view what they decide, logs it, and keeps the pins. IO: files, in a thread."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.fleet import Change, Changed, Joined, Left
from capamesh.protocol.private_files import read_public, replace_public
from capamesh.router.ownership.owners import Judged, Owners
from capamesh.router.ownership.pins import MAX_FILE_BYTES, Pin, pins_from_json, pins_to_json

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.ids import ModelName, PeerId
    from capamesh.protocol.network import RevocationList
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.rules.model_rules import RoutingRules

PIN_FILE = "model-pins.json"
SAVE_EVERY_S = 10.0
"""Pins are written no more often than this, whatever changes (guess: members can change something at any time; a router
that is killed forgets this much, and hears it anew)."""
HOLDERS_EVERY_S = 60.0
"""Pins are written this often because other nodes hold them than before (guess: their holders change seldom)."""
WARNED = frozenset({"model_digest_ignored", "model_digest_served", "model_version_on_trial"})


class OwnerKeeper:
    """The owners of one router's models; `fleet` is to be set before anything is heard."""

    def __init__(
        self,
        folder: Path,
        *,
        rules: RoutingRules,
        publishers: Iterable[str],
        invite_of: Callable[[PeerId], str],
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        is_writer: bool = True,
    ) -> None:
        """Take over the pins in the data folder; damaged ones are told and not used.

        `clock` is in seconds and goes on at any setting of the time of day: who is away is judged by it.
        Not `is_writer`: another process of the router, which hears the same, writes the file.
        """
        self._is_writer = is_writer
        self._folder = folder
        self._invite_of = invite_of
        self._log = log
        self.owners = Owners(rules=rules, publishers=tuple(publishers))
        self.fleet: FleetView | None = None
        self._clock = clock
        self._saving: asyncio.Future[None] | None = None
        self._turn = 0
        self._disk = threading.Lock()
        """Held to write the file, and to change the two below."""
        self._written = 0
        """The turn of the pins that are on the disk."""
        self._is_refused = False
        """True while the disk has refused the last write."""
        self._saved_s = -math.inf
        try:
            self.owners.remember(load_pins(folder), clock())
        except ConfigError as error:
            log.warning("model_pins_lost", error=error.message)

    @override
    def __repr__(self) -> str:
        return f"OwnerKeeper({self.owners!r} in {self._folder})"

    def take(self, changes: Iterable[Change]) -> None:
        """Take in what the membership says, and let the fleet's view do so."""
        now_s = self._clock()
        peers: set[PeerId] = set()
        models: set[ModelName] = set()
        listed = list(changes)
        for change in listed:
            match change:
                case Joined(advert) | Changed(advert):
                    judged = self.owners.heard(advert, self._invite_of(advert.peer), now_s)
                case Left(peer):
                    judged = self.owners.left(peer, now_s)
                case _:
                    continue
            peers |= judged.peers
            models |= judged.models
        assert self.fleet is not None  # noqa: S101 - set before anything is heard
        self.fleet.apply(listed)
        self._judged(Judged(peers, models))

    def tick(self) -> bool:
        """Look what time has brought, and keep the pins; to be called about every second. Return whether replicas changed."""
        judged = self.owners.tick(self._clock())
        self._judged(judged)
        self._keep()
        return bool(judged.peers or judged.models)

    def take_rules(self, rules: RoutingRules) -> None:
        """Judge by other rules of the operator from now on."""
        self._judged(self.owners.take_rules(rules, self._clock()))

    def take_publishers(self, publishers: Iterable[str]) -> None:
        """The router's renewed membership names these publishers."""
        self._judged(self.owners.take_publishers(tuple(publishers), self._clock()))

    def expel(self, revocations: RevocationList) -> None:
        """Take from those who are revoked the vote that they have had; to be called once they have left."""
        peers, invites = revocations.peers, revocations.invites
        self._judged(self.owners.expel(peers, invites, self._clock()))

    def close(self) -> None:
        """Keep what is not kept yet; the router ends."""
        if self._is_writer and (
            self.owners.is_changed or self.owners.has_new_holders or self._written < self._turn
        ):
            self._save(*self._next())

    def _judged(self, judged: Judged) -> None:
        if self.fleet is not None and (judged.peers or judged.models):
            self.fleet.judge_anew(judged)
        for news in self.owners.take_news():
            tell = self._log.warning if news.event in WARNED else self._log.info
            tell(news.event, model=news.model, version=news.version, **news.fields)

    def _keep(self) -> None:
        if not self._is_writer or (self._saving is not None and not self._saving.done()):
            return
        since_s = self._clock() - self._saved_s
        if since_s < SAVE_EVERY_S:
            return
        is_due = since_s >= HOLDERS_EVERY_S and self.owners.has_new_holders
        if self.owners.is_changed or is_due or self._is_refused:
            self._saved_s = self._clock()
            loop = asyncio.get_running_loop()
            self._saving = loop.run_in_executor(None, self._save, *self._next())

    def _next(self) -> tuple[int, list[Pin]]:
        self._turn += 1
        return self._turn, self.owners.pins()

    def _save(self, turn: int, pins: list[Pin]) -> None:
        """Write the pins, unless newer ones are on the disk by now: the last are written while others may be."""
        with self._disk:
            if turn < self._written:
                return
            try:
                replace_public(self._folder / PIN_FILE, pins_to_json(pins))
            except ConfigError as error:
                if not self._is_refused:
                    self._log.warning("model_pins_not_kept", error=error.message)
                self._is_refused = True
            else:
                self._written, self._is_refused = turn, False


def load_pins(folder: Path) -> list[Pin]:
    """Return the pins kept in `folder`, none where there is no file; raise `ConfigError` where it is damaged."""
    file = folder / PIN_FILE
    if not file.exists():
        return []
    try:
        return pins_from_json(read_public(file, "the file of pins", limit_bytes=MAX_FILE_BYTES))
    except ConfigError as exc:
        raise ConfigError(f"{file} is damaged: {exc.message}") from exc
