"""The check of where requests come from, for what stands behind no socket."""

from __future__ import annotations

from capamesh.router.access.origin_check import ANY_HOST, OriginCheck

ANYWHERE = OriginCheck((ANY_HOST,))
"""Takes every Host."""
