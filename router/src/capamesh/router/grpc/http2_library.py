"""The choice of the library that speaks HTTP/2: nghttp2, and h2 where that has no wheel. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.router.grpc.http2 import Http2Session


def library() -> Callable[[], Http2Session]:
    """Return what makes the session of a connection."""
    try:
        from capamesh.router.grpc.http2_by_ngh2 import SessionByNgh2  # noqa: PLC0415 - may be absent
    except ImportError:
        from capamesh.router.grpc.http2_by_h2 import SessionByH2  # noqa: PLC0415 - read in only then

        return SessionByH2
    return SessionByNgh2
