"""Stands in for fastecdsa 2.3.2: has the names that libp2p imports, and computes nothing. Pure."""

from __future__ import annotations

from typing import NoReturn


class NotSupported(NotImplementedError):
    """A call needs the real fastecdsa, which this is not."""


def refuse(*_arguments: object, **_named: object) -> NoReturn:
    """Raise NotSupported, whatever the arguments are."""
    raise NotSupported(
        "this fastecdsa is Capamesh's stand-in, which computes nothing; for the real one install gcc and "
        "libgmp-dev, then: pip install --force-reinstall --no-binary fastecdsa fastecdsa==2.3.2"
    )
