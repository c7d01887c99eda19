"""Keeps a running member a member: takes new tokens from its token file, and says when the membership ends.

IO: looks at the token file, writes the membership, logs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.membership_life import (
    Ended,
    Ends,
    Lasts,
    LifeFigures,
    LifeLeft,
    MembershipLife,
)

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.data_dir import DataDir
    from capamesh.protocol.network import Membership, NetworkTrust
    from capamesh.protocol.token_file import TokenFile

BY_FILE = "put a new token of the network's owner (capamesh network token) into its --token-file, which a newer `capamesh join` line does: it is taken as this runs"
BY_START = "start it anew with a new token of the network's owner (capamesh network token), by --token-file: later ones are then taken as it runs"

BY_NEW_ID = "this id is shut out for good, whatever its token: to join again, stop it, remove its data folder {folder}, and start it with a token of the network's owner"


class MembershipUpkeep:
    """Looks after one member's own membership; its owner calls `beat` every few seconds."""

    def __init__(
        self,
        home: DataDir,
        membership: Membership,
        trust: NetworkTrust,
        *,
        token_file: TokenFile | None,
        on_renewed: Callable[[Membership], None],
        log: FilteringBoundLogger,
    ) -> None:
        """Watch `token_file`, None: there is none. `on_renewed` shows the new membership to whom it concerns."""
        self._home = home
        self._membership = membership
        self._life = MembershipLife(membership, trust)
        self._token_file = token_file
        self._on_renewed = on_renewed
        self._log = log
        self._last_refusal = ""

    @override
    def __repr__(self) -> str:
        return f"MembershipUpkeep({self._life!r})"

    @property
    def ended(self) -> Ended | None:
        """The way in which the membership has ended; None while it is good."""
        return self._life.ended

    def beat(self, now: datetime) -> None:
        """Take a new token if there is one, and say what is to be said."""
        if self._token_file is not None:
            text = self._token_file.new_token()
            if text:
                self._take(text, self._token_file, now)
        self.look(now)

    def look(self, now: datetime) -> bool:
        """Say what is to be said of the membership; return whether it has ended or begun again since."""
        news = self._life.look(now)
        match news:
            case Ends(left):
                self._log.warning(
                    "membership_ends",
                    left_s=round(left.total_seconds()),
                    expires_at=self._membership.expires_at.isoformat(),
                    life_ratio=round(self._life.ratio(now), 3),
                    what_to_do=self._what_to_do,
                )
            case Ended(state, reason):
                self._log.error(f"membership_{state}", reason=reason, what_to_do=self._what_to_do)
            case Lasts():
                self._log.info(
                    "membership_lasts", expires_at=self._membership.expires_at.isoformat()
                )
            case None:
                pass
        return isinstance(news, Ended | Lasts)

    def figures(self, now: datetime) -> LifeFigures:
        """Return how long the membership lasts."""
        return LifeFigures(self._life.left(now).total_seconds(), self._life.ratio(now))

    def fields(self, now: datetime) -> dict[str, Any]:
        """Return what a status says of it, with a warning for people from half of its life on, until it has ended."""
        fields = self._life.fields(now)
        part = {LifeLeft.HALF: "half", LifeLeft.TENTH: "a tenth"}.get(fields["life_left"])
        if part is None or self.ended is not None:
            return {**fields, "warning": ""}
        return {
            **fields,
            "warning": f"less than {part} of its membership's life is left: {self._what_to_do}",
        }

    @property
    def _what_to_do(self) -> str:
        if self.ended is not None and self.ended.is_of_peer:
            return BY_NEW_ID.format(folder=self._home.folder)
        return BY_START if self._token_file is None else BY_FILE

    def renewed(self, membership: Membership) -> None:
        """Go on as `membership`, the renewed one; raise `ConfigError` when it cannot be shown to whom it concerns."""
        self._on_renewed(membership)
        self._membership = membership
        self._life.renewed(membership)

    def _take(self, text: str, file: TokenFile, now: datetime) -> None:
        """Join again by a new token; what cannot be taken now is tried again, and told once."""
        try:
            membership = self._home.renewed(text, self._membership.role, now)
            if membership.chain != self._membership.chain:
                self.renewed(membership)
                self._log.info(
                    "membership_renewed",
                    expires_at=membership.expires_at.isoformat(),
                    file=str(file.path),
                )
        except CapameshError as error:
            if error.message != self._last_refusal:
                self._last_refusal = error.message
                self._log.error("token_refused", error=error.message, file=str(file.path))
            return
        self._last_refusal = ""
        file.settled()
