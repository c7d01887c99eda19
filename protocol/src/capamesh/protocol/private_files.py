"""Reads and writes key and certificate files: whole or not at all, keys for their owner alone. Does file IO."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import IO, Any

from capamesh.protocol.errors import ConfigError, KeyExposed

MAX_FILE_BYTES = 64 * 1024
"""The largest private file (guess: a key file has 119 bytes and a chain about 2 KB; a larger file is another file)."""

_PRIVATE_MODE = 0o600
_PUBLIC_MODE = 0o644
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""The errors of file systems without hard links (link(2)): FAT, and some that are reached over a network."""
_OTHERS = 0o077
_OTHERS_READ = 0o044


def make_folder(folder: Path) -> None:
    """Make `folder` with mode 0700 unless it exists; raise `ConfigError` when that fails."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"cannot make the folder {folder}: {exc.strerror}") from exc


def reason_of(error: OSError | ValueError) -> str:
    """Return why a file could not be read or parsed, without the number and the path that `str` repeats."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def is_exposed(file: IO[Any]) -> bool:
    """Return whether an open file is a plain one that users besides its owner may read; a pipe never is."""
    status = os.fstat(file.fileno())
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & _OTHERS_READ)


def read_private(path: Path, what: str) -> bytes:
    """Return the contents of the key file `path`; `what` names it in messages.

    Raises:
        KeyExposed: the group or the world has any right on the file.
        ConfigError: it is missing, unreadable, no plain file or over `MAX_FILE_BYTES`.
    """
    return _read(path, what, is_private=True, limit_bytes=MAX_FILE_BYTES)


def read_public(path: Path, what: str, *, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the contents of `path`; `what` names it in messages.

    Raises:
        ConfigError: it is missing, unreadable, no plain file or over `limit_bytes`.
    """
    return _read(path, what, is_private=False, limit_bytes=limit_bytes)


def create_private(path: Path, data: bytes) -> bool:
    """Write a new file of mode 0600; return False, changing nothing, when `path` already exists.

    A reader sees all of `data` or no file. Raises `ConfigError` when the file system refuses.
    """
    make_folder(path.parent)
    try:
        temporary = _write_beside(path, data, _PRIVATE_MODE)
        try:
            path.hardlink_to(
                temporary
            )  # fails when the name is taken, where a rename would replace it
        except FileExistsError:
            return False
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            # Two that create it at once could both succeed there; our folders are locked, or a person's.
            if os.path.lexists(path):
                return False
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as exc:
        raise ConfigError(f"cannot create {path}: {exc.strerror}") from exc
    return True


def replace_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 over whatever `path` holds; raise `ConfigError` when that fails."""
    _replace(path, data, _PRIVATE_MODE)


def replace_public(path: Path, data: bytes) -> None:
    """Write a file of mode 0644 over whatever `path` holds; raise `ConfigError` when that fails."""
    _replace(path, data, _PUBLIC_MODE)


def append_private(path: Path, line: bytes) -> None:
    """Add `line` and a line feed to a file of mode 0600, made where there is none, and wait until the disk has it.

    A line that was cut off before is ended first, so that it does not spoil this one. Raises `KeyExposed` when others have
    rights on the file, `ConfigError` when the file system refuses, or the file is no plain one.
    """
    make_folder(path.parent)
    try:
        is_new = not os.path.lexists(path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, _PRIVATE_MODE)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path} is not a plain file")
            if stat.S_IMODE(status.st_mode) & _OTHERS:
                raise KeyExposed(f"other users have rights on {path}: chmod 600 {path}")
            is_torn = status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n"
            data = (b"\n" if is_torn else b"") + line + b"\n"
            if file.write(data) != len(data):  # the disk is full: the next line ends this one
                raise ConfigError(f"cannot write {path}: the disk has no room")
            os.fsync(descriptor)
        if is_new:
            _sync_folder(path.parent)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc


def replace_passing(path: Path, data: bytes) -> None:
    """Write as `replace_public` does, but without waiting for the disk: a power cut may bring the old contents back."""
    _replace(path, data, _PUBLIC_MODE, is_durable=False)


def overwrite(path: Path, data: bytes) -> None:
    """Write over the beginning of the file `path`, which needs no room on a full disk; never make it longer.

    A reader may see a part of it. Raises `ConfigError` when the file is shorter than `data`, or not there.
    """
    try:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size < len(data):
                raise ConfigError(f"cannot write {path}: it has no room for {len(data)} bytes")
            file.write(data)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file, in the place of the one that was set aside before; None: the disk refuses, or it is gone."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
    except OSError:
        return None
    return aside


def _replace(path: Path, data: bytes, mode: int, *, is_durable: bool = True) -> None:
    make_folder(path.parent)
    try:
        temporary = _write_beside(path, data, mode, is_durable=is_durable)
        try:
            temporary.replace(path)
        except OSError:
            temporary.unlink()
            raise
        if is_durable:
            _sync_folder(path.parent)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc


def _read(path: Path, what: str, *, is_private: bool, limit_bytes: int) -> bytes:
    try:
        # Non-blocking, so that opening a named pipe cannot hang; the checks are on the open file itself.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{what} {path} is not a plain file")
            mode = stat.S_IMODE(status.st_mode)
            if is_private and mode & _OTHERS:
                raise KeyExposed(
                    f"{what} {path} has mode {mode:04o}, so other users may use it; "
                    f"it must be 0600: chmod 600 {path}"
                )
            data = file.read(limit_bytes + 1)
    except FileNotFoundError as exc:
        raise ConfigError(f"{what} {path} does not exist") from exc
    except OSError as exc:
        raise ConfigError(f"cannot read {what} {path}: {exc.strerror}") from exc
    if len(data) > limit_bytes:
        raise ConfigError(f"{what} {path} has over {limit_bytes} bytes: it is another kind of file")
    return data


def _write_beside(path: Path, data: bytes, mode: int, *, is_durable: bool = True) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if is_durable:
                os.fsync(descriptor)
    except OSError:
        temporary.unlink()
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
