"""Gives up what a process may do beyond its files: new privileges, root's capabilities, core dumps. IO: system calls."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from typing import Final

_NO_NEW_PRIVILEGES: Final = 38  # prctl
_DROP_FROM_BOUND: Final = 24  # prctl
_CLEAR_AMBIENT: Final = (47, 4)  # prctl
_CAPABILITIES: Final = 64
"""The number of capabilities to drop, more than there are."""
_VERSION_3: Final = 0x2008_0522  # linux/capability.h
_READ_ALL: Final = 2
"""CAP_DAC_READ_SEARCH: a node that is run as root may have a models folder of another user."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def give_up() -> tuple[str, ...]:
    """Give them up, for good; return the names of what was given up."""
    done: list[str] = []
    with contextlib.suppress(OSError, ValueError):  # a core would hold the member's key
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return ()
    libc = ctypes.CDLL(None, use_errno=True)
    if _drop_capabilities(libc):
        done.append("no capabilities")
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0:
        done.append("no_new_privs")
    return tuple(done)


def _drop_capabilities(libc: ctypes.CDLL) -> bool:
    """Drop all but the right to read, which root alone keeps; return whether none is left that could do harm."""
    for number in range(_CAPABILITIES):
        libc.prctl(_DROP_FROM_BOUND, number, 0, 0, 0)  # refused where there is nothing to drop
    libc.prctl(*_CLEAR_AMBIENT, 0, 0, 0)
    kept = 1 << _READ_ALL if os.geteuid() == 0 else 0
    header = _Header(_VERSION_3, 0)
    for mask in (kept, 0):  # in a container root may not have even that
        sets = (_Sets * 2)(_Sets(mask, mask, 0), _Sets(0, 0, 0))
        if libc.capset(ctypes.byref(header), ctypes.byref(sets)) == 0:
            return True
    return False
