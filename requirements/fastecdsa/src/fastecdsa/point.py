"""The type of a point on a curve, of which none can be made. Pure."""

from __future__ import annotations

from fastecdsa import refuse


class Point:
    """A point on a curve; making one raises NotSupported."""

    __init__ = refuse
