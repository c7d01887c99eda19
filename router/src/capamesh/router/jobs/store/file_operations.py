"""The store's operations on uploaded files: functions of a `Turn`. IO: the turn's connection.

The store says which files there are; their bytes lie in a folder. A file is in the store before its first byte is on the disk, and
its row is gone before its bytes are removed: bytes that no row names are garbage, whenever a router dies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Double,
    Integer,
    Text,
    bindparam,
    delete,
    false,
    func,
    insert,
    select,
    update,
)

from capamesh.protocol.errors import FileConflict, FileNotFound, StorageFull, TooManyRequests
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.tables import FILE_SITES, FILES, FORMATS, IS_UNDER_WAY, JOBS
from capamesh.router.jobs.stored_files import (
    ARRIVAL_S,
    MAX_FILES,
    MAX_OWN_FILES,
    FileId,
    Owner,
    Purpose,
    Requests,
    StoredFile,
    Whole,
)
from capamesh.router.jobs.values import JobId

MAX_PAGE: Final = 1000
"""The most files of one answer."""
MAX_ARRIVING: Final = 2000
"""The most files of one name that arrive and are told of: more than an upload has parts."""
MAX_EXPIRED: Final = 100
"""The most files that one look at their times removes."""
_FIRST_ID, _LAST_ID = "", "~"
"""Are less and greater than any id."""

_FILE: Final = bindparam("the_file", type_=Text)
_TENANT: Final = bindparam("the_tenant", type_=Text)
_COUNT: Final = bindparam("the_count", type_=Integer)
_GET: Final = select(FILES).where(FILES.c.id == _FILE)
_HELD: Final = select(func.count(), func.coalesce(func.sum(FILES.c.size_bytes), 0))
_HELD_BY_TENANT: Final = _HELD.where(FILES.c.tenant == _TENANT)
_HELD_BY_SITE: Final = _HELD.join_from(FILE_SITES, FILES, FILES.c.id == FILE_SITES.c.file).where(
    FILE_SITES.c.site == bindparam("the_site", type_=Text)
)
_ONE_BY_ONE: Final = select(FORMATS.c.number).with_for_update()
"""Has the routers of a server make room one after another: none sees the files that another is beginning."""
_SITE: Final = select(FILE_SITES.c.site).where(FILE_SITES.c.file == _FILE)
_INSERT_SITE: Final = insert(FILE_SITES)
_DELETE_SITE: Final = delete(FILE_SITES).where(FILE_SITES.c.file == _FILE)
_COUNT_ALL: Final = select(func.count()).select_from(FILES)
_INSERT: Final = insert(FILES)
_RESERVE: Final = (
    update(FILES)
    .where(FILES.c.id == _FILE, FILES.c.is_ready.is_(false()))
    .values(size_bytes=bindparam("the_size", type_=BigInteger), expires_s=bindparam("the_expiry_s"))
    .returning(FILES.c.id)
)
_FINISH: Final = (
    update(FILES)
    .where(FILES.c.id == _FILE, FILES.c.is_ready.is_(false()))
    .values(
        is_ready=True,
        purpose=bindparam("the_purpose", type_=Text),
        size_bytes=bindparam("the_size", type_=BigInteger),
        sha256=bindparam("the_sha256", type_=Text),
        expires_s=FILES.c.created_s + bindparam("the_keep_s", type_=Double),
        lines=bindparam("the_lines", type_=Integer),
        endpoint=bindparam("the_endpoint", type_=Text),
        model=bindparam("the_model", type_=Text),
    )
    .returning(FILES.c.id)
)
_ARRIVING: Final = (
    select(FILES)
    .where(
        FILES.c.tenant == _TENANT,
        FILES.c.is_ready.is_(false()),
        FILES.c.name == bindparam("the_name", type_=Text),
    )
    .order_by(FILES.c.id)
    .limit(_COUNT)
)
_DELETE: Final = delete(FILES).where(FILES.c.id == _FILE)
_READERS: Final = (
    select(JOBS.c.id)
    .where(
        JOBS.c.tenant == _TENANT,
        IS_UNDER_WAY,
        JOBS.c.spec.contains(bindparam("the_url", type_=Text)),
    )
    .limit(1)
)
"""The jobs under way that read a file: a tenant has a bounded number of these, and a file is seldom deleted."""
_EXPIRED: Final = (
    select(FILES.c.id, FILES.c.tenant)
    .where(
        FILES.c.expires_s <= bindparam("the_now_s"), FILES.c.id > bindparam("the_last", type_=Text)
    )
    .order_by(FILES.c.id)
    .limit(_COUNT)
)
_KNOWN: Final = select(FILES.c.id).where(FILES.c.id.in_(bindparam("the_files", expanding=True)))


def _page(*, is_newest_first: bool, has_tenant: bool, has_purpose: bool) -> Any:  # noqa: ANN401 - a statement
    last = bindparam("the_last", type_=Text)
    found = select(FILES).where(FILES.c.is_ready)
    found = found.where(FILES.c.id < last if is_newest_first else FILES.c.id > last)
    if has_tenant:
        found = found.where(FILES.c.tenant == _TENANT)
    if has_purpose:
        found = found.where(FILES.c.purpose == bindparam("the_purpose", type_=Text))
    return found.order_by(FILES.c.id.desc() if is_newest_first else FILES.c.id).limit(_COUNT)


_FLAGS: Final = (False, True)
_PAGES: Final = {
    (newest, tenant, purpose): _page(is_newest_first=newest, has_tenant=tenant, has_purpose=purpose)
    for newest in _FLAGS
    for tenant in _FLAGS
    for purpose in _FLAGS
}


def begin(
    turn: Turn,
    file_id: FileId,
    owner: Owner,
    name: str,
    purpose: Purpose,
    size_bytes: int,
    keep_s: float,
    most_bytes: int | None = None,
) -> StoredFile:
    """Keep a file whose bytes are to arrive, with room for `size_bytes` of them, and return it.

    It is to be kept for `keep_s` seconds once it is ready. `most_bytes` are those of all files of its owner; None: the router makes it,
    whatever there is.

    Raises:
        TooManyRequests: its owner, or the store, has the most files.
        StorageFull: its owner has as many bytes as it may.
    """
    if most_bytes is not None:
        _make_room(turn, owner, size_bytes, most_bytes, files=1)
    values = {
        "id": file_id,
        "tenant": owner.tenant,
        "name": name,
        "purpose": purpose.value,
        "is_ready": False,
        "size_bytes": size_bytes,
        "created_s": turn.now_s,
        "keep_s": keep_s,
        "expires_s": turn.now_s + ARRIVAL_S,
        "sha256": "",
        "lines": 0,
        "endpoint": "",
        "model": "",
    }
    turn.connection.execute(_INSERT, values)
    if owner.site:
        turn.connection.execute(_INSERT_SITE, {"file": file_id, "site": owner.site})
    return get(turn, file_id)


def reserve(turn: Turn, file_id: FileId, size_bytes: int, most_bytes: int) -> None:
    """Take room for so many bytes of a file that arrives, and keep what is there for as long again.

    Raises:
        FileNotFound: it was deleted, or is ready.
        StorageFull: its owner has as many bytes as it may, which are `most_bytes`.
    """
    file = get(turn, file_id)
    site = turn.connection.execute(_SITE, {"the_file": file_id}).scalar()
    owner = Owner(file.tenant, site or "")
    _make_room(turn, owner, size_bytes - file.size_bytes, most_bytes, files=0)
    asked = {"the_file": file_id, "the_size": size_bytes, "the_expiry_s": turn.now_s + ARRIVAL_S}
    if turn.connection.execute(_RESERVE, asked).first() is None:
        raise _not_found(file_id)


def finish(turn: Turn, file_id: FileId, whole: Whole) -> StoredFile:
    """Say that a file is whole, and return it; one that is so already stays as it is. Raises `FileNotFound`: it was deleted."""
    requests = whole.requests
    asked = {
        "the_file": file_id,
        "the_purpose": whole.purpose.value,
        "the_keep_s": whole.keep_s,
        "the_size": whole.size_bytes,
        "the_sha256": whole.sha256,
        "the_lines": requests.lines,
        "the_endpoint": requests.endpoint,
        "the_model": requests.model,
    }
    turn.connection.execute(_FINISH, asked)
    return get(turn, file_id)


def get(turn: Turn, file_id: FileId, tenant: str | None = None) -> StoredFile:
    """Return a file; `tenant` is whose it must be, None: anybody's. Raises `FileNotFound`."""
    row = turn.connection.execute(_GET, {"the_file": file_id}).first()
    if row is None or tenant not in {None, row.tenant}:
        raise _not_found(file_id)
    return _file_of(row)


def arriving(turn: Turn, tenant: str, name: str) -> list[StoredFile]:
    """Return a tenant's files of one name whose bytes still arrive."""
    asked = {"the_tenant": tenant, "the_name": name, "the_count": MAX_ARRIVING}
    return [_file_of(row) for row in turn.connection.execute(_ARRIVING, asked)]


def page(
    turn: Turn,
    tenant: str | None,
    purpose: str,
    last: FileId | None,
    count: int,
    *,
    is_newest_first: bool = True,
) -> list[StoredFile]:
    """Return files that are ready: those behind `last`, which ended the page before; None: the first page.

    `purpose` is the one that they are for; "": any.
    """
    asked: dict[str, Any] = {
        "the_last": last or (_LAST_ID if is_newest_first else _FIRST_ID),
        "the_count": min(count, MAX_PAGE),
        "the_tenant": tenant,
        "the_purpose": purpose,
    }
    statement = _PAGES[is_newest_first, tenant is not None, bool(purpose)]
    return [_file_of(row) for row in turn.connection.execute(statement, asked)]


def remove(turn: Turn, file_id: FileId, tenant: str | None = None) -> StoredFile:
    """Forget a file, whose bytes are to be removed then, and return it as it was.

    Raises:
        FileNotFound: there is no such file, or it is not the tenant's.
        FileConflict: a job under way reads it.
    """
    file = get(turn, file_id, tenant)
    reader = reader_of(turn, file_id, file.tenant)
    if reader is not None:
        raise FileConflict(
            f"the job {reader} reads the file {file_id}; wait until it has ended, or cancel it"
        )
    _forget(turn, file_id)
    return file


def reader_of(turn: Turn, file_id: FileId, tenant: str) -> JobId | None:
    """Return a job under way that reads a tenant's file; None: there is none."""
    asked = {"the_tenant": tenant, "the_url": f'"upload:{file_id}"'}
    found = turn.connection.execute(_READERS, asked).scalar()
    return None if found is None else JobId(found)


def expire(turn: Turn, last: FileId | None) -> tuple[list[tuple[FileId, str]], FileId | None]:
    """Forget files whose time has come, behind the one that ended the look before, and return their ids and tenants.

    Those that a job under way reads stay until it has ended. The other result is where to go on; None: all were looked at.
    """
    asked = {"the_now_s": turn.now_s, "the_last": last or _FIRST_ID, "the_count": MAX_EXPIRED}
    found = turn.connection.execute(_EXPIRED, asked).all()
    gone: list[tuple[FileId, str]] = []
    for row in found:
        if reader_of(turn, row.id, row.tenant) is None:
            _forget(turn, row.id)
            gone.append((FileId(row.id), row.tenant))
    return gone, FileId(found[-1].id) if len(found) == MAX_EXPIRED else None


def known(turn: Turn, files: Sequence[FileId]) -> Collection[FileId]:
    """Return those of some files that the store has."""
    if not files:
        return set()
    rows = turn.connection.execute(_KNOWN, {"the_files": list(files)}).scalars()
    return {FileId(each) for each in rows}


def _forget(turn: Turn, file_id: FileId) -> None:
    turn.connection.execute(_DELETE, {"the_file": file_id})
    turn.connection.execute(_DELETE_SITE, {"the_file": file_id})


def _make_room(turn: Turn, owner: Owner, more_bytes: int, most_bytes: int, *, files: int) -> None:
    run = turn.connection.execute
    run(_ONE_BY_ONE)
    statement = _HELD_BY_SITE if owner.site else _HELD_BY_TENANT
    count, held = run(statement, {"the_tenant": owner.tenant, "the_site": owner.site}).one()
    if files and count >= MAX_OWN_FILES:
        raise TooManyRequests(
            f"{owner.words} have {count} files here, the most that they may; delete some: DELETE /v1/files/FILE"
        )
    if more_bytes > 0 and int(held) + more_bytes > most_bytes:
        raise StorageFull(
            f"{owner.words} have {int(held)} bytes of files here, and {more_bytes} more are over the {most_bytes} that they may have;"
            " delete some: DELETE /v1/files/FILE, or ask the router's operator for a larger --upload-mib"
        )
    if files and run(_COUNT_ALL).scalar_one() >= MAX_FILES:
        raise TooManyRequests(
            f"the store has {MAX_FILES} files, the most that it may; try again later", 60.0
        )


def _not_found(file_id: FileId) -> FileNotFound:
    return FileNotFound(f"there is no file {file_id[:80]!r}; GET /v1/files lists them")


def _file_of(row: Any) -> StoredFile:  # noqa: ANN401 - a row of the table
    return StoredFile(
        FileId(row.id),
        row.tenant,
        row.name,
        Purpose(row.purpose),
        row.is_ready,
        row.size_bytes,
        row.created_s,
        row.expires_s,
        row.keep_s,
        row.sha256,
        Requests(row.lines, row.endpoint, row.model),
    )
