"""A member's data folder: who it is, what it was told, where it stands. File IO.

Files besides those of the membership: `bootstrap.json` (addresses from the token), `revocations.bin` (the
newest list heard), `boot_ns` (see `adverts.sequence`), `status.json` (for people and health checks) and
`lock`, held while a process lives in the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, cast

from capamesh.protocol.adverts import SequenceSource, boot_ns_after
from capamesh.protocol.adverts.sequence import FUTURE_LIMIT_NS
from capamesh.protocol.errors import ConfigError
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
from capamesh.protocol.network.chain import own_authority
from capamesh.protocol.network.folder import load_certificates
from capamesh.protocol.private_files import make_folder, reason_of, replace_public

BOOTSTRAP_FILE = "bootstrap.json"
BOOT_FILE = "boot_ns"
STATUS_FILE = "status.json"
LOCK_TRIES = 5
LOCK_RETRY_S = 0.02
"""`read_status` holds the lock for microseconds; that must not look like a second process."""
LOCK_FILE = "lock"


class MemberHome:
    """One folder, used by one running member at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: TextIO | None = None

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
                return
        file.close()
        raise ConfigError(
            f"another process lives in {self.folder}: stop it, or give this one its own --data folder"
        )

    def membership(self, token: str | None, role: Role, now: datetime) -> Membership:
        """Return the membership kept here, or join with `token`; raise `ConfigError` when neither works.

        A token for the network that the folder already belongs to keeps the identity, so a service may be
        started with the same token for ever. A token of another network is refused and changes nothing.
        """
        if token is not None:
            invited = JoinToken.decode(token, now)
            if invited.role is not role:
                raise ConfigError(
                    f"the token admits a {invited.role}, this is a {role}: ask for one with --role {role}"
                )
            self._refuse_other_network(invited)
            identity = Identity.load_or_create(self.folder / IDENTITY_FILE)
            joined = Membership.join(identity, invited, now)
            joined.save(self.folder)
            replace_public(
                self.folder / BOOTSTRAP_FILE, json.dumps(list(invited.bootstrap)).encode()
            )
            return joined
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

    def _refuse_other_network(self, invited: JoinToken) -> None:
        """Raise `ConfigError` when the folder belongs to another network than the token's."""
        if not (self.folder / NETWORK_FILE).exists():
            return
        (ca_der,) = load_certificates(self.folder / NETWORK_FILE, "the network's certificate", 1)
        if ca_der != invited.ca_der:
            raise ConfigError(
                f"the token admits to the network {invited.network_id}, {self.folder} belongs to "
                f"{own_authority(ca_der).network_id}: give another --data to be in both, or remove "
                f"{self.folder} to leave that network for good, its identity with it"
            )

    def bootstrap(self) -> tuple[str, ...]:
        """Return the addresses that the token named."""
        try:
            raw = cast(object, json.loads((self.folder / BOOTSTRAP_FILE).read_text()))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as exc:
            raise ConfigError(
                f"{self.folder / BOOTSTRAP_FILE} cannot be read: {reason_of(exc)}; join again with the token"
            ) from exc
        if not isinstance(raw, list) or not all(
            isinstance(address, str) for address in cast(list[object], raw)
        ):
            raise ConfigError(
                f"{self.folder / BOOTSTRAP_FILE} is not a list of addresses; join again with the token"
            )
        return tuple(cast(list[str], raw))

    def revocations(self, membership: Membership) -> RevocationList:
        """Return the newest list heard, or an empty one."""
        if not (self.folder / REVOCATIONS_FILE).exists():
            return RevocationList.empty(membership.network_id)
        return RevocationList.load(self.folder, membership.ca_der)

    def keep_revocations(self, revocations: RevocationList) -> bool:
        """Remember a newer list; False when the disk refuses, which must not stop its being enforced."""
        try:
            revocations.save(self.folder)
        except ConfigError:
            return False
        return True

    def next_boot_ns(self, time_ns: int) -> int:
        """Return the boot time for this run's sequence numbers, after those of all earlier runs."""
        file = self.folder / BOOT_FILE
        try:
            last_ns: int | None = int(file.read_text())
        except (OSError, ValueError):
            last_ns = None
        boot_ns = boot_ns_after(time_ns, last_ns)
        replace_public(file, str(boot_ns).encode())
        return boot_ns

    def current(self, source: SequenceSource, time_ns: int) -> SequenceSource:
        """Return `source`, or a new one when the clock was set back so far that nobody would accept it."""
        if source.boot_ns - time_ns <= FUTURE_LIMIT_NS:
            return source
        try:
            return SequenceSource(self.next_boot_ns(time_ns))
        except ConfigError:  # the disk refuses: numbers from the clock alone are better than none
            return SequenceSource(time_ns)

    def write_status(self, status: Mapping[str, Any]) -> bool:
        """Replace what people and health checks see; False when the disk refuses, of which nobody must die."""
        try:
            replace_public(self.folder / STATUS_FILE, json.dumps(status, indent=1).encode())
        except ConfigError:
            return False
        return True


def read_status(folder: Path) -> dict[str, Any]:
    """Return the status that a member in `folder` wrote last, with `is_running` added; `ConfigError` if none."""
    file = folder / STATUS_FILE
    try:
        raw = cast(object, json.loads(file.read_text()))
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"{folder} has no readable status: {reason_of(exc)}; is it a --data folder?"
        ) from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} does not hold a status; is {folder} a --data folder?")
    return {**cast(dict[str, Any], raw), "is_running": _is_locked(folder)}


def _is_locked(folder: Path) -> bool:
    """Whether a process holds the folder, whatever its pid is in another container."""
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
