# ruff: noqa: T201  # what it prints is the service's log
"""Makes the network of docker-compose.yml once and keeps its members' tokens fresh. Does file IO.

The service `network` runs it in a router's image at every `docker compose up`, with these folders mounted:

/network/owner         the network's owner: its key is in no other container
/network/router        the router's data folder, which gets its identity here, so that tokens can name it
/network/router-token  one file, `token`, that admits routers
/network/node-token    one file, `token`, that admits nodes
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

from capamesh.protocol.errors import ConfigError, LocalError
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import (
    IDENTITY_FILE,
    OWNER_KEY_FILE,
    JoinToken,
    NetworkOwner,
    Role,
)
from capamesh.protocol.private_files import read_private, replace_private

NAME = "compose"
ROUTER_ADDRESS = "/dns4/router/tcp/4001"
"""The router's service name, looked up anew at each dial, and the port that docker-compose.yml gives its mesh."""
LIFE = dt.timedelta(days=365)
RENEW_BEFORE = LIFE / 2
"""A member's own certificate ends with its token's, so a fleet must be brought up once in this time (guess)."""


def network_owner(folder: Path, now: dt.datetime) -> NetworkOwner:
    """Return the network's owner, made when there is none."""
    if (folder / OWNER_KEY_FILE).exists():
        return NetworkOwner.load(folder)
    owner = NetworkOwner.create(NAME, now)
    owner.save(folder)
    return owner


def hand_over(
    owner: NetworkOwner, role: Role, file: Path, bootstrap: list[str], now: dt.datetime
) -> dt.datetime:
    """See that `file` holds a token that will do for a while; return when it expires."""
    if file.exists():
        try:
            token = JoinToken.decode(read_private(file, "the token").decode(), now)
        except ConfigError as exc:
            print(f"a new {role} token: {exc.message}")
        else:
            is_right = (token.network_id, token.role, token.bootstrap) == (
                owner.network_id,
                role,
                tuple(bootstrap),
            )
            if is_right and token.expires_at - now > RENEW_BEFORE:
                return token.expires_at
    token = owner.invite(role, expires_at=now + LIFE, bootstrap=bootstrap, now=now)
    replace_private(file, token.encode().encode())
    return token.expires_at


def main(folder: Path) -> int:
    """Make what is missing and say what is there; secrets are not printed."""
    now = dt.datetime.now(dt.UTC)
    try:
        owner = network_owner(folder / "owner", now)
        router = Identity.load_or_create(folder / "router" / IDENTITY_FILE)
        bootstrap = [f"{ROUTER_ADDRESS}/p2p/{router.peer_id}"]
        print(f"network {owner.network_id}, router {bootstrap[0]}")
        # A router's token needs no bootstrap address: this router is the first.
        for role, addresses in ((Role.ROUTER, []), (Role.NODE, bootstrap)):
            expires_at = hand_over(owner, role, folder / f"{role}-token" / "token", addresses, now)
            print(f"{role} token until {expires_at:%Y-%m-%d}")
    except LocalError as exc:
        print(f"make_network: {exc.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path("/network")))
