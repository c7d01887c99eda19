"""The file systems that a file of SQLite may lie on."""

from __future__ import annotations

from pathlib import Path

import pytest

from capamesh.router.access.engines.file_systems import file_system_of

MOUNTS = """\
1 0 254:0 / / rw,relatime - ext4 /dev/vda rw
2 1 0:5 / /proc rw - proc proc rw
3 1 0:40 / /mnt/data rw shared:1 - nfs4 server:/export rw
4 3 254:1 / /mnt/data/local\\040disk rw - xfs /dev/vdb rw
5 1 0:41 / /mnt/twice rw - ext4 /dev/vdc rw
6 1 0:42 / /mnt/twice rw - cifs //server/share rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/jobs.db", "ext4"),
        ("/mnt/data/jobs.db", "nfs4"),
        ("/mnt/data/deep/er/jobs.db", "nfs4"),
        ("/mnt/database/jobs.db", "ext4"),
        ("/mnt/data/local disk/jobs.db", "xfs"),
        ("/mnt/twice/jobs.db", "cifs"),
    ],
)
def test_file_system_is_that_of_the_innermost_mount(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(path), mounts) == kind


def test_file_system_is_not_known_where_the_kernel_tells_nothing(tmp_path: Path) -> None:
    assert file_system_of(tmp_path, tmp_path / "none") == ""
