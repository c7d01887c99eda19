"""A log that takes everything and keeps nothing, for parts of a router that tell what they do. Pure."""

from __future__ import annotations

import logging
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

QUIET: Final[FilteringBoundLogger] = structlog.wrap_logger(
    None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
)
