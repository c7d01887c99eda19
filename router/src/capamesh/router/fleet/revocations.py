"""Takes over revocation lists, from an operator or from the mesh: who is revoked is gone at once. IO: keeps the list."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError, InvalidRequest, ProtocolViolation
from capamesh.protocol.network import REVOCATIONS_FILE, Membership, NetworkTrust, RevocationList

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.data_dir import DataDir
    from capamesh.router.fleet.membership import FleetMembers


class Revocations:
    """The newest revocation list of the network, and what follows from a newer one."""

    def __init__(
        self,
        trust: NetworkTrust,
        membership: Membership,
        home: DataDir,
        members: FleetMembers,
        *,
        disown: Callable[[RevocationList], None],
        recheck_links: Callable[[], None],
        pass_on: Callable[[bytes], None],
        on_taken: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        """A list must be signed by the owner whom `membership` names.

        `disown` takes from who is revoked the say on models' files, once they have left. `recheck_links` ends the links of who is no member any more, `pass_on` gives the mesh a list that an operator
        posted, `on_taken` is called once a newer list holds: it may name this router itself.
        """
        self._trust = trust
        self._membership = membership
        self._home = home
        self._members = members
        self._disown = disown
        self._recheck_links = recheck_links
        self._pass_on = pass_on
        self._on_taken = on_taken
        self._log = log

    def renew(self, membership: Membership) -> None:
        """Go by a renewed membership: it may name a later key of the owner."""
        self._membership = membership

    def post(self, encoded: bytes) -> tuple[RevocationList, bool]:
        """Take over a list that an operator posted, and return the newest, and whether it is on the disk.

        Raises `InvalidRequest` when it is not the owner's.
        """
        try:
            revocations = RevocationList.decode(encoded, self._membership.ca_der)
            if self._take(revocations):
                self._pass_on(encoded)
        except (ProtocolViolation, ConfigError) as exc:
            raise InvalidRequest(exc.message) from exc
        return self._trust.revocations, self._home.is_kept(REVOCATIONS_FILE)

    def heard(self, encoded: bytes) -> None:
        """Take over a list that the mesh delivered."""
        self._take(RevocationList.decode(encoded, self._membership.ca_der))

    def _take(self, revocations: RevocationList) -> bool:
        if not self._trust.update(revocations):
            return False
        is_kept = self._home.keep_revocations(revocations)
        self._recheck_links()
        self._members.expel(revocations)
        self._disown(revocations)
        self._log.info("revocations_updated", version=revocations.version, is_kept=is_kept)
        self._on_taken()
        return True
