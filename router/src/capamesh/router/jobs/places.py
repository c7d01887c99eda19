"""The places that jobs may read from and write to, and no others: a client names them by URLs. IO: looks at links of the file system.

A router reads what its own user may read, so a URL that a client chooses must never lead to /etc/shadow, to the router's own
folder, or to another tenant's file. A local path is within a place only after its links and its `..` are resolved, anew each time
that it is opened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from capamesh.protocol.errors import ConfigError, InvalidRequest
from capamesh.protocol.plain_text import HARMFUL
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.folder import LocalFiles
from capamesh.router.jobs.inputs.source import Files, Folder, LocalFile, Source, Sources
from capamesh.router.jobs.outputs.sink import LocalSink, Sink
from capamesh.router.jobs.remote.files import RemoteFile, RemoteFiles, RemoteSink
from capamesh.router.jobs.remote.urls import RemoteUrl, is_remote, remote_url
from capamesh.router.jobs.values import JobId

UPLOAD: Final = "upload"
"""The scheme of a URL that names an uploaded file of the same tenant: `upload:file-…`."""
FILES_FOLDER: Final = "files"
RESULTS_FOLDER: Final = "results"
OPTION: Final = "--jobs-place"
_FILE_ID: Final = re.compile(r"file-[0-9A-Za-z]{1,64}", re.ASCII)


def is_file_id(text: str) -> bool:
    """Return whether a text is the id of an uploaded file, and so a name that leads out of no folder."""
    return _FILE_ID.fullmatch(text) is not None


def tenant_folder(jobs_folder: Path, tenant: str) -> Path:
    """Return the folder of a tenant's uploaded files: its name is made of the tenant's, which may have any characters."""
    return jobs_folder / FILES_FOLDER / hashlib.sha256(tenant.encode()).hexdigest()[:32]


def upload_path(jobs_folder: Path, tenant: str, file_id: str) -> Path:
    """Return the path of an uploaded file's bytes; raises `InputInvalid` for what is no id of a file."""
    if not is_file_id(file_id):
        raise InputInvalid(
            f"{file_id[:80]!r} is no id of an uploaded file; one is file- and letters and digits"
        )
    return tenant_folder(jobs_folder, tenant) / file_id


class Places(Sources):
    """The places of one router."""

    def __init__(
        self, jobs_folder: Path, prefixes: Sequence[str] = (), hidden: Sequence[Path] = ()
    ) -> None:
        """Let jobs read and write below `prefixes`, absolute paths or URLs; what is or lies in one of `hidden` is in no place.

        `jobs_folder` has uploaded files and results, which are reached by their own URLs alone. Raises `ConfigError`: a prefix
        is neither.
        """
        self.jobs_folder = jobs_folder.absolute()
        self._hidden = [each.absolute().resolve() for each in (jobs_folder, *hidden)]
        self._folders = [_place_of(each).resolve() for each in prefixes if not is_remote(each)]
        self._urls = [_remote_place_of(each) for each in prefixes if is_remote(each)]

    @override
    def source(self, url: str, tenant: str) -> Source:
        if is_upload(url):
            return LocalFile(self._upload(url, tenant))
        if is_remote(url):
            return RemoteFile(self._remote(url))
        return LocalFile(self._local(url))

    @override
    def folder(self, url: str, tenant: str) -> Folder:
        if is_upload(url):
            raise InputInvalid(f"{url[:80]!r} is an uploaded file, not a folder")
        if is_remote(url):
            return RemoteFiles(self._remote(url))
        return self._local_files(self._local(url), url)

    @override
    def beside(self, url: str, tenant: str) -> Files:
        if is_upload(url):
            raise InputInvalid(f"{url[:80]!r} is an uploaded file, beside which are no others")
        if is_remote(url):
            return RemoteFiles(self._remote(self._remote(url).folder.text()))
        return self._local_files(self._local(url).parent, url)

    def sink(self, url: str, job: JobId) -> Sink:
        """Return where the parts of a job go; "": the router's own results. Raises `InvalidRequest`."""
        if not url:
            return LocalSink(self.jobs_folder / RESULTS_FOLDER, job)
        if is_upload(url):
            raise InvalidRequest(
                f"the output {url[:80]!r} is an uploaded file; leave output.url out"
            )
        if is_remote(url):
            return RemoteSink(self._remote(url), job)
        return LocalSink(self._local(url), job)

    def _remote(self, url: str) -> RemoteUrl:
        """Return the parts of a URL of elsewhere, if it is within a place. Raises `InvalidRequest`."""
        parts = remote_url(url)
        if not any(parts.is_in(place) for place in self._urls):
            raise self.refusal(parts.text())
        return parts

    def _local_files(self, folder: Path, url: str) -> LocalFiles:
        """Return the files of a folder without links, none of which is hidden. Raises `InvalidRequest`."""
        is_within = any(_is_below(folder, place) for place in self._folders)
        if not is_within or any(_is_below(each, folder) for each in self._hidden):
            raise self.refusal(url)
        return LocalFiles(folder)

    def _upload(self, url: str, tenant: str) -> Path:
        file_id = url.partition(":")[2]
        path = upload_path(self.jobs_folder, tenant, file_id)
        if not path.is_file():  # another tenant's is not told from none
            raise InputInvalid(f"there is no uploaded file {file_id[:80]!r}")
        return path

    def _local(self, url: str) -> Path:
        """Return the path that a URL names, without links, if it is within a place. Raises `InvalidRequest`."""
        path = local_path(url)
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as exc:  # a circle of links
            raise InvalidRequest(f"{url[:200]!r} cannot be followed: {exc}") from exc
        is_within = any(_is_below(real, place) for place in self._folders)
        if not is_within or any(_is_below(real, each) for each in self._hidden):
            raise self.refusal(url)
        return real

    def refusal(self, url: str) -> InvalidRequest:
        """Return the error for a URL that is in no place."""
        return InvalidRequest(
            f"{url[:200]!r} is in no place that this router's jobs may use: upload the file, or ask the router's operator to"
            f" allow its folder with {OPTION}"
        )


def is_upload(url: str) -> bool:
    """Return whether a URL names an uploaded file."""
    return url.startswith(f"{UPLOAD}:")


def local_path(url: str) -> Path:
    """Return the path that a URL `file:///…` or an absolute path names; raises `InvalidRequest` for others."""
    if HARMFUL.search(url):  # before urlsplit, which leaves some of these out
        raise InvalidRequest(f"{url[:200]!r} has characters that no URL has")
    if url.startswith("/"):
        return Path(url)
    try:
        parts = urlsplit(url)
    except ValueError as exc:  # brackets that are no address
        raise InvalidRequest(f"{url[:200]!r} is no URL: {exc}") from exc
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"}:
        raise InvalidRequest(
            f"{url[:200]!r} is no place that this router knows: give upload:file-…, or an absolute path or a URL"
            f" below a folder of {OPTION}"
        )
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise InvalidRequest(f"{url[:200]!r} has ? or #, which a path has as %3F or %23")
    path = unquote(parts.path, errors="surrogateescape")
    if not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"{url[:200]!r} names no absolute path")
    return Path(path)


def _remote_place_of(prefix: str) -> RemoteUrl:
    try:
        return remote_url(prefix)
    except InvalidRequest as exc:
        raise ConfigError(f"{OPTION}: {exc.message}") from exc


def _place_of(prefix: str) -> Path:
    try:
        return local_path(prefix)
    except InvalidRequest as exc:
        raise ConfigError(
            f"{OPTION} {prefix[:200]!r} is no place; give an absolute path, or a URL such as file:///… or s3://…"
        ) from exc


def _is_below(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents
