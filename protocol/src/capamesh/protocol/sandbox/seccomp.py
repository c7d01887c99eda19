"""Takes system calls from this process that a closed one never needs. IO: system calls, by ctypes; Linux alone.

It runs native code on what strangers wrote. What gets hold of it shall find no way to start a program, to look into another process, or to reach the parts of the kernel that are seldom used and often broken.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_X86_64: Final = ("x86_64", 0xC000_003E, 317)
_AARCH64: Final = ("aarch64", 0xC000_00B7, 277)
"""`platform.machine()`, AUDIT_ARCH of linux/audit.h, and the number of seccomp(2)."""

_CALLS: Final[dict[str, tuple[int, int]]] = {
    # programs and processes
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, -1),
    "vfork": (58, -1),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    # file systems
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    # the kernel itself
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (
        425,
        425,
    ),  # not io_uring_enter: libuv waits by the ring that it has made already
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "unshare": (272, 97),
    "setns": (308, 268),
    "acct": (163, 89),
    "syslog": (103, 116),
    "lookup_dcookie": (212, 18),
    "vhangup": (153, 58),
    "uselib": (134, -1),
    "modify_ldt": (154, -1),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    # the machine's name and clock
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
}
"""The system calls that are refused with EPERM, by their numbers on x86-64 and aarch64 (asm/unistd_64.h,
asm-generic/unistd.h); -1 where a machine has none."""
_CLONE: Final = (56, 220)
_CLONE3: Final = (435, 435)
_SOCKET: Final = (41, 198)
_KILL_CALLS: Final = ((62, 129), (234, 131))
"""kill and tgkill, whose first argument is the process: it may signal itself, as abort and Python's exit do."""
_PRLIMIT: Final = (302, 261)
_CLONE_THREAD: Final = 0x0001_0000
NET_FAMILIES: Final = (2, 10, 16)
"""AF_INET, AF_INET6, and AF_NETLINK, by which the C library learns of addresses."""
UNIX: Final = 1
"""AF_UNIX: services of the machine that start programs listen there. A socketpair is another call."""
_X32: Final = 0x4000_0000
"""Numbers of x86-64's second set of calls begin here."""

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_HAS_BITS: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
"""The places in struct seccomp_data; of an argument the lower half, since both machines are little-endian."""
_ALLOW: Final = 0x7FFF_0000
_KILL: Final = 0x8000_0000
_ERROR: Final = 0x0005_0000
_REFUSE: Final = _ERROR | errno.EPERM
_UNKNOWN: Final = _ERROR | errno.ENOSYS
_SET_FILTER, _ALL_THREADS = 1, 1

Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def program(machine: str, pid: int, socket_families: Iterable[int]) -> bytes:
    """Return the filter of process `pid` on a machine, as the kernel takes it; nothing where that is not known here.

    `socket_families` are those of the sockets that it may make.
    """
    known = (_X86_64, _AARCH64)
    at = next((at for at, one in enumerate(known) if one[0] == machine), None)
    if at is None:
        return b""
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, known[at][1]),
        (_RETURN, 0, 0, _KILL),  # another machine's calls have other numbers
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if at == 0:
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]
    for numbers in _CALLS.values():
        if numbers[at] >= 0:
            code += [(_EQUAL, 0, 1, numbers[at]), (_RETURN, 0, 0, _REFUSE)]
    # Its arguments lie in memory, where no filter can look: the C library then takes clone.
    code += [(_EQUAL, 0, 1, _CLONE3[at]), (_RETURN, 0, 0, _UNKNOWN)]
    for numbers in _KILL_CALLS:
        code += [
            (_EQUAL, 0, 4, numbers[at]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
            (_EQUAL, 1, 0, pid),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        ]
    code += [
        (_EQUAL, 0, 5, _PRLIMIT[at]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_EQUAL, 2, 0, 0),  # itself, which is how the C library asks for its own limits
        (_EQUAL, 1, 0, pid),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    families = tuple(socket_families)
    code += [
        (_EQUAL, 0, 4, _CLONE[at]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_HAS_BITS, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _REFUSE),  # a process
        (_RETURN, 0, 0, _ALLOW),  # a thread
        (_EQUAL, 0, len(families) + 2, _SOCKET[at]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
    ]
    code += [(_EQUAL, len(families) - index, 0, family) for index, family in enumerate(families)]
    code += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *one) for one in code)


def filter_calls(socket_families: Iterable[int]) -> str:
    """Filter the calls of all threads of this process, for good; return why that cannot be, "" where it is done.

    The process must have given up new privileges. `socket_families`: as `program`.
    """
    if sys.platform != "linux":
        return f"{sys.platform} has none"
    machine = platform.machine()
    code = program(machine, os.getpid(), socket_families)
    if not code:
        return f"it has no list of calls for {machine}"
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    filled = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    number = next(one[2] for one in (_X86_64, _AARCH64) if one[0] == machine)
    result = libc.syscall(ctypes.c_long(number), _SET_FILTER, _ALL_THREADS, ctypes.byref(filled))
    if result:
        return "the kernel refuses it" + (
            f" ({errno.errorcode.get(ctypes.get_errno(), '')})" if result < 0 else ""
        )
    return ""
