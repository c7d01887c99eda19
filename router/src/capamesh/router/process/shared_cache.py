"""The kept answers that this router shares with others, where it was told of a store. Does no IO before it is run."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from capamesh.router.cache.shared import Seal, SharedAnswers
from capamesh.router.cache.store_address import address_of
from capamesh.router.cache.valkey import ValkeyStore
from capamesh.router.telemetry import metrics

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.requests.answer_cache import AnswerCache
    from capamesh.router.settings import RouterSettings
    from capamesh.router.telemetry import Telemetry


def shared_store(
    settings: RouterSettings,
    network: str,
    cache: AnswerCache,
    telemetry: Telemetry,
    log: FilteringBoundLogger,
) -> ValkeyStore | None:
    """Return the store by which `cache` shares answers from now on, of which `run` is to be called; None: it shares none.

    Raises `ConfigError` for a URL that names none.
    """
    if not settings.cache_url:
        return None
    store = ValkeyStore(
        address_of(settings.cache_url),
        log,
        clock=time.monotonic,
        rng=random.Random(),  # noqa: S311 - waits between attempts
    )
    shared = cache.shared = SharedAnswers(
        store,
        Seal(settings.cache_secret, network),
        limits=settings.limits,
        wall_clock=time.time,
    )
    telemetry.watch_each(
        metrics.SHARED_CACHE,
        lambda: [
            (("found",), store.found - shared.refused),
            (("refused",), shared.refused),
            (("missed",), store.missed),
            (("late",), store.late),
            (("skipped",), store.skipped),
        ],
    )
    return store
