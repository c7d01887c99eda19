"""The file systems on which files of SQLite may lie: those of this machine's disks. IO: reads the kernel's table of mounts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from capamesh.protocol.errors import ConfigError

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb2",
        "smb3",
        "smbfs",
        "virtiofs",
    }
)
"""The kinds of file systems whose locks and shared memory SQLite cannot trust."""
_MOUNTS: Final = Path("/proc/self/mountinfo")


def check_is_local(path: Path) -> None:
    """Raise `ConfigError` for a file of SQLite that lies, or is to lie, on a network's file system."""
    kind = file_system_of(path)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(
            f"{path} is on a file system of the kind {kind}, which is reached over a network, where SQLite's file can be"
            " damaged; use a local disk, or PostgreSQL for routers of several machines"
        )


def file_system_of(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the kind of the file system that a file lies on, or is to lie on; "" where the kernel does not tell."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    real = path.absolute().resolve()
    best, kind = -1, ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        columns = fields.split()
        if len(columns) < 5 or not rest:
            continue
        point = Path(columns[4].encode().decode("unicode_escape"))
        # of two on one point the later hides the earlier
        if (real == point or point in real.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind
