"""A member's data folder: who it is, what it was told, where it stands. File IO.

Files besides those of the membership: `bootstrap.json` (addresses from the token), `revocations.bin` and
`drains.bin` (the newest heard), `boot_ns` (see `adverts.sequence`), `status.json` (for people and health checks) and
`lock`, held while a process lives in the folder. One that is found damaged is kept as `NAME.damaged`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from capamesh.protocol.adverts import SequenceSource, boot_ns_after
from capamesh.protocol.adverts.sequence import FUTURE_LIMIT_NS
from capamesh.protocol.errors import ConfigError, KeyExposed, NotMember
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import (
    CHAIN_FILE,
    IDENTITY_FILE,
    NETWORK_FILE,
    REVOCATIONS_FILE,
    JoinToken,
    Membership,
    RevocationList,
    Role,
)
from capamesh.protocol.network.authority import own_authority
from capamesh.protocol.network.chain import read_invite
from capamesh.protocol.network.folder import load_network
from capamesh.protocol.private_files import (
    make_folder,
    overwrite,
    read_public,
    reason_of,
    replace_passing,
    replace_public,
    set_aside,
)

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

BOOTSTRAP_FILE = "bootstrap.json"
BOOT_FILE = "boot_ns"
STATUS_FILE = "status.json"
LOCK_TRIES = 5
LOCK_RETRY_S = 0.02
"""`read_status` holds the lock for microseconds; that must not look like a second process."""
LOCK_FILE = "lock"
READ_TRIES = 5
STATUS_BLOCK_BYTES = 4096
"""A status is filled up to so much with blanks: the next one, a little longer, has room in its place on a full disk."""
STATUS_SPARE_BYTES = 1024
"""The bytes that are reserved for a longer status (guess: longer addresses and reasons)."""


class DataDir:
    """One folder, used by one running member at a time.

    A disk that is full or a file that is damaged keeps no member from serving: what can be had again, from the token,
    from the mesh or from the clock, is, and `log` is told of it.
    """

    def __init__(self, folder: Path, log: FilteringBoundLogger | None = None) -> None:
        self.folder = folder
        self._log = log
        self._lock: TextIO | None = None
        self._bootstrap: tuple[str, ...] | None = None
        self._unkept: dict[str, tuple[bytes, str]] = {}
        self._latest_boot_ns = 0
        """The latest boot time that any run has numbered with: while the clock was ahead, it may be one to come."""

    @property
    def disk(self) -> str:
        """Return what cannot be written and why, for a status; empty: all is kept."""
        if not self._unkept:
            return ""
        reasons = sorted({reason for _, reason in self._unkept.values()})
        return f"not kept: {', '.join(sorted(self._unkept))}: {'; '.join(reasons)}"

    def is_kept(self, name: str) -> bool:
        """Return whether what was last written to this file is on the disk."""
        return name not in self._unkept

    def lock(self) -> None:
        """Take the folder for this process until it ends; raise `ConfigError` when another has it."""
        make_folder(self.folder)
        try:
            file = (self.folder / LOCK_FILE).open("a", encoding="ascii")
        except OSError as exc:
            raise ConfigError(f"cannot use the folder {self.folder}: {exc.strerror}") from exc
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(LOCK_RETRY_S)
            else:
                self._lock = file
                self._unsay()
                return
        file.close()
        raise ConfigError(
            f"another process lives in {self.folder}: stop it, or give this one its own --data folder"
        )

    def _unsay(self) -> None:
        """Let the status say that this process starts: what the one before said of itself is over."""
        with suppress(ConfigError):
            before = read_status(self.folder)
            if "role" in before:
                said = {key: before.get(key) for key in ("role", "expires_at")}
                self.write_status(said | {"state": "starting", "pid": os.getpid()})

    def membership(self, token: str | None, role: Role, now: datetime) -> Membership:
        """Return the membership kept here, or join with `token`; raise `ConfigError` when neither works.

        A token for the network that the folder already belongs to keeps the identity, so a service may be
        started with the same token for ever. A token of another network is refused and changes nothing.
        """
        if token is not None:
            return self._joined(token, role, now)
        if not (self.folder / CHAIN_FILE).exists():
            raise ConfigError(
                f"{self.folder} holds no membership: give --token, from `capamesh network token`"
            )
        membership = Membership.load(self.folder, now)
        if membership.role is not role:
            raise ConfigError(
                f"{self.folder} is the home of a {membership.role}, this is a {role}: give another --data"
            )
        return membership

    def renewed(self, text: str, role: Role, now: datetime) -> Membership:
        """Return the membership that the token `text` gives to the identity kept here, and keep it.

        Raises `ConfigError` when the token cannot be used or the membership not be kept; then nothing has changed.
        """
        return self._join(self._invited(text, role), self._kept(role, now), now)

    def _joined(self, text: str, role: Role, now: datetime) -> Membership:
        invited = self._invited(text, role)
        kept = self._kept(role, now)
        is_over = now > invited.expires_at
        if kept is not None and not is_over and self._is_newer(kept, invited, now):
            self._warn(
                "token_older_than_membership",
                membership_ends=kept.expires_at.isoformat(),
                token_ends=invited.expires_at.isoformat(),
                what_to_do="start it with the newer token; to take the older one, remove chain.pem first",
            )
            self._keep_bootstrap(invited)
            return kept
        try:
            return self._join(invited, kept, now)
        except KeyExposed:
            raise
        except ConfigError as error:
            # The token is over or the disk full; a service is started with the same token for ever.
            if kept is None:
                raise
            expires_at = kept.expires_at.isoformat()
            self._warn("token_not_taken", error=error.message, expires_at=expires_at)
        self._keep_bootstrap(invited)
        return kept

    def _invited(self, text: str, role: Role) -> JoinToken:
        invited = JoinToken.parse(text)
        if invited.role is not role:
            raise ConfigError(
                f"the token admits a {invited.role}, this is a {role}: ask for one with --role {role}"
            )
        self._refuse_other_network(invited)
        return invited

    def _join(self, invited: JoinToken, kept: Membership | None, now: datetime) -> Membership:
        """Return the membership by this token: the one that is kept where that came by it, which writes nothing."""
        invited.check_time(now)
        is_same = kept is not None and kept.chain[1] == invited.invite_der
        if kept is None or not is_same or kept.ca_der != invited.ca_der:
            identity = Identity.load_or_create(self.folder / IDENTITY_FILE)
            kept = Membership.join(identity, invited, now)
            kept.save(self.folder)
        self._keep_bootstrap(invited)
        return kept

    def _is_newer(self, kept: Membership, invited: JoinToken, now: datetime) -> bool:
        """Return whether the membership that is kept is by a later owner's key than the token, or by the same and ends later.

        One that is revoked is not: the token is what brings the member back.
        """
        signer = read_invite(own_authority(invited.ca_der), invited.invite_der).signer
        if (len(kept.chain) - 2, kept.expires_at) <= (signer, invited.expires_at):
            return False
        try:
            kept.trust().with_revocations(self.revocations(kept)).verify(kept.chain, now)
        except (NotMember, ConfigError):
            return False
        return True

    def _keep_bootstrap(self, invited: JoinToken) -> None:
        self._bootstrap = invited.bootstrap
        data = json.dumps(list(invited.bootstrap)).encode()
        file = self.folder / BOOTSTRAP_FILE
        with suppress(OSError):
            if file.read_bytes() == data:
                return
        self.keep(BOOTSTRAP_FILE, data)

    def _kept(self, role: Role, now: datetime) -> Membership | None:
        """Return the membership that the folder holds, if it is good and of this role."""
        try:
            kept = Membership.load(self.folder, now)
        except KeyExposed:
            raise
        except ConfigError:
            return None
        return kept if kept.role is role else None

    def _refuse_other_network(self, invited: JoinToken) -> None:
        """Raise `ConfigError` when the folder belongs to another network than the token's."""
        if not (self.folder / NETWORK_FILE).exists():
            return
        try:
            network_id = own_authority(load_network(self.folder)).network_id
        except ConfigError as error:
            self.set_aside(NETWORK_FILE, error.message, "the token holds another copy")
            return
        if network_id != invited.network_id:
            raise ConfigError(
                f"the token admits to the network {invited.network_id}, {self.folder} belongs to "
                f"{network_id}: give another --data to be in both, or remove "
                f"{self.folder} to leave that network for good, its identity with it"
            )

    def bootstrap(self) -> tuple[str, ...]:
        """Return the addresses that the token named; none where they are lost, which `log` is told."""
        if self._bootstrap is not None:
            return self._bootstrap
        try:
            raw = cast(
                object, json.loads(read_public(self.folder / BOOTSTRAP_FILE, "the addresses"))
            )
        except FileNotFoundError:
            return ()
        except (ConfigError, ValueError) as exc:
            if not (self.folder / BOOTSTRAP_FILE).exists():
                return ()
            raw = str(exc)
        if isinstance(raw, list) and all(
            isinstance(address, str) for address in cast(list[object], raw)
        ):
            return tuple(cast(list[str], raw))
        self.set_aside(
            BOOTSTRAP_FILE,
            raw if isinstance(raw, str) else "it is not a list of addresses",
            "start it once with its token or with --bootstrap, or wait until a router dials it",
        )
        return ()

    def revocations(self, membership: Membership) -> RevocationList:
        """Return the newest list heard, or an empty one: the mesh tells the newest to whoever has an older one."""
        if not (self.folder / REVOCATIONS_FILE).exists():
            return RevocationList.empty(membership.network_id)
        try:
            return RevocationList.load(self.folder, membership.ca_der)
        except ConfigError as error:
            self.set_aside(
                REVOCATIONS_FILE, error.message, "it comes again with the first member that is met"
            )
            return RevocationList.empty(membership.network_id)

    def keep_revocations(self, revocations: RevocationList) -> bool:
        """Remember a newer list; False when the disk refuses, which must not stop its being enforced.

        What is not kept is tried again with each status.
        """
        return not revocations.version or self.keep(REVOCATIONS_FILE, revocations.encode())

    def next_boot_ns(self, time_ns: int) -> int:
        """Return the boot time for this run's sequence numbers, after those of all earlier runs.

        It is used whether it can be kept or not: the next run's is later by the clock, too.
        """
        file = self.folder / BOOT_FILE
        try:
            before = [int(text) for text in file.read_text().split()]  # the last, and the latest
        except (OSError, ValueError):
            before = []
        boot_ns = max([boot_ns_after(time_ns, each) for each in before], default=time_ns)
        self._latest_boot_ns = max(boot_ns, *before, 0)
        latest = f" {self._latest_boot_ns}" if self._latest_boot_ns > boot_ns else ""
        self.keep(BOOT_FILE, f"{boot_ns}{latest}".encode())
        return boot_ns

    def current(self, source: SequenceSource, time_ns: int) -> SequenceSource:
        """Return `source`, or a new one: where nobody would accept it, for the clock was set back, and where others accept what one said.

        That one was used while the clock was ahead: whoever repeated it would mute this member.
        """
        is_refused = source.boot_ns - time_ns > FUTURE_LIMIT_NS
        is_outdone = source.boot_ns < self._latest_boot_ns <= time_ns + FUTURE_LIMIT_NS
        if not (is_refused or is_outdone):
            return source
        return SequenceSource(self.next_boot_ns(time_ns))

    def write_status(self, status: Mapping[str, Any]) -> bool:
        """Replace what people and health checks see; False when the disk refuses, of which nobody must die.

        The time is added, and what the disk refuses. On a full disk, the last status is written over in its own place.
        """
        for name, (data, _) in list(self._unkept.items()):
            self.keep(name, data)
        text = json.dumps(
            {**status, "updated_at": datetime.now(UTC).isoformat(), "disk": self.disk}, indent=1
        )
        data = text.encode()
        room = STATUS_BLOCK_BYTES * (1 + (len(data) + STATUS_SPARE_BYTES) // STATUS_BLOCK_BYTES)
        file = self.folder / STATUS_FILE
        try:
            replace_passing(file, data.ljust(room))
        except ConfigError:
            try:
                overwrite(file, data.ljust(min(room, file.stat().st_size)))
            except (ConfigError, OSError):
                return False
        return True

    def keep(self, name: str, data: bytes) -> bool:
        """Write a file that a member can do without; what cannot be written now is tried again with each status."""
        try:
            replace_public(self.folder / name, data)
        except ConfigError as error:
            if name not in self._unkept:
                self._warn("file_not_kept", file=name, error=error.message)
            self._unkept[name] = (data, error.message.rpartition(": ")[2])
            return False
        if self._unkept.pop(name, None) is not None:
            self._warn("file_kept_again", file=name)
        return True

    def set_aside(self, name: str, error: str, remedy: str) -> None:
        """Keep a damaged file as `NAME.damaged`, and log what is wrong with it and what to do."""
        aside = set_aside(self.folder / name)
        self._warn(
            "damaged_file_set_aside",
            file=name,
            error=error,
            kept_as=None if aside is None else aside.name,
            what_to_do=remedy,
        )

    def _warn(self, event: str, **fields: object) -> None:
        if self._log is not None:
            self._log.warning(event, folder=str(self.folder), **fields)


def read_status(folder: Path) -> dict[str, Any]:
    """Return the status that a member in `folder` wrote last, with `is_running` added; `ConfigError` if none."""
    file = folder / STATUS_FILE
    raw: object = None
    for attempt in range(1, READ_TRIES + 1):
        try:
            raw = cast(object, json.loads(file.read_text()))
        except OSError as exc:
            raise _no_status(folder, reason_of(exc)) from exc
        except ValueError as exc:
            if attempt == READ_TRIES:
                raise _no_status(folder, reason_of(exc)) from exc
            time.sleep(LOCK_RETRY_S)  # on a full disk it is written in its own place
        else:
            break
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} does not hold a status; is {folder} a --data folder?")
    return {**cast(dict[str, Any], raw), "is_running": _is_locked(folder)}


def _no_status(folder: Path, why: str) -> ConfigError:
    return ConfigError(f"{folder} has no readable status: {why}; is it a --data folder?")


def _is_locked(folder: Path) -> bool:
    """Return whether a process holds the folder, whatever its pid is in another container."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
