"""Limits the files and ports that this process may open from now on. IO: system calls, by ctypes; Linux alone.

Landlock: the kernel's own rules for unprivileged processes, since Linux 5.13; see its userspace-api/landlock.
What is open already stays usable. Threads that were started before are not held to it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
"""Numbers of the system calls, equal on all machines."""
_ASK_VERSION: Final = 1
_BENEATH, _PORT = 1, 2
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_DEVICES: Final = (1 << 6) | (1 << 11)  # MAKE_CHAR, MAKE_BLOCK
_MAKE_SOCKET: Final = 1 << 9
_TRUNCATE: Final = 1 << 14
_IOCTL_DEVICE: Final = 1 << 15
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
"""The rights that a rule on anything but a folder may have."""
_FILE_RIGHTS: Final = (0, 13, 14, 15, 15, 16)
"""The number of file rights that each version knows; later versions know as many as the last."""
_NET_VERSION: Final = 4
_BIND, _CONNECT = 1 << 0, 1 << 1
_SCOPE_VERSION: Final = 6
_SCOPES: Final = (1 << 0) | (1 << 1)
"""Abstract Unix sockets of others, and signals to them."""

_READ: Final = _READ_FILE | _READ_DIR
_LIBRARY: Final = _READ | _EXECUTE  # a library is mapped with the right to be executed


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    _fields_ = (("access", ctypes.c_uint64), ("port", ctypes.c_uint64))


@dataclass(frozen=True, slots=True)
class Allowed:
    """The paths that may be opened; those that are not there are left out."""

    libraries: tuple[Path, ...]
    """The paths that may be read, and mapped to be executed."""
    read: tuple[Path, ...]
    written: tuple[Path, ...]
    """The paths that may be read, and in which files and folders may be made, changed and removed."""
    devices: tuple[Path, ...]
    """The paths that may be read, written and spoken to by ioctl."""
    port: int | None = None
    """The TCP port to listen on; 0: any that the kernel chooses; None: it listens on none."""
    may_connect: bool = False
    """True if TCP connections may be opened."""


def version() -> int:
    """Return the version of Landlock that the kernel has; 0: none, or it is turned off."""
    if sys.platform != "linux":
        return 0
    return max(0, _call(_CREATE, None, 0, _ASK_VERSION))


def restrict(allowed: Allowed) -> str:
    """Allow nothing but `allowed` to this thread and all that it starts; return why that cannot be, "" where it is done.

    The process must have given up new privileges.
    """
    abi = version()
    if not abi:
        return "this kernel has none, or it is turned off"
    known = (1 << _FILE_RIGHTS[min(abi, len(_FILE_RIGHTS) - 1)]) - 1
    net = 0
    if abi >= _NET_VERSION:
        net = _BIND if allowed.may_connect else _BIND | _CONNECT
    scoped = _SCOPES if abi >= _SCOPE_VERSION else 0
    size = 24 if scoped else 16 if net else 8  # what that version knows of the structure
    rules = _call(_CREATE, ctypes.byref(_Ruleset(known, net, scoped)), size, 0)
    if rules < 0:
        return f"the kernel refuses its rules ({_error()})"
    try:
        writes = known & ~(_EXECUTE | _MAKE_DEVICES | _MAKE_SOCKET | _IOCTL_DEVICE)
        _allow(rules, allowed.libraries, _LIBRARY & known)
        _allow(rules, allowed.read, _READ & known)
        _allow(rules, allowed.written, writes)
        _allow(rules, allowed.devices, (_READ | _WRITE_FILE | _IOCTL_DEVICE) & known)
        if net and allowed.port is not None:
            _call(_ADD_RULE, rules, _PORT, ctypes.byref(_NetPort(_BIND, allowed.port)), 0)
        if _call(_RESTRICT, rules, 0):
            return f"the kernel refuses it ({_error()})"
    finally:
        os.close(rules)
    return ""


def _allow(rules: int, paths: Iterable[Path], access: int) -> None:
    for path in paths:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            rule = _Beneath(access if is_folder else access & _OF_FILES, descriptor)
            _call(_ADD_RULE, rules, _BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    whole = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    return int(libc.syscall(ctypes.c_long(number), *whole))


def _error() -> str:
    return errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))
