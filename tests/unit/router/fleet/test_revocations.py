"""Revocation lists that a router takes over: who is revoked is gone at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet_members import Members
from signed_adverts import Network, says, says_goodbye

from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import InvalidRequest
from capamesh.router.fleet.revocations import Revocations


class Router(Members):
    """A router's membership, its revocations, and what these told others."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.told: list[object] = []
        log: Any = self.log
        self.revocations = Revocations(
            self.trust,
            self.membership,
            DataDir(folder),
            self.members,
            disown=self.owners.expel,
            recheck_links=lambda: self.told.append("links"),
            pass_on=self.told.append,
            on_taken=lambda: self.told.append("taken"),
            log=log,
        )


@pytest.fixture
def router(tmp_path: Path) -> Router:
    return Router(tmp_path)


def test_revoked_invite_expels_all_that_it_admitted_and_nobody_else(router: Router) -> None:
    network = router.network
    revoked, kept = network.invite(), network.invite()
    out = [network.member(revoked) for _ in "ab"]
    stays = network.member(kept)
    for port, node in enumerate((*out, stays), 7001):
        router.members.heard(says(node, port))
    encoded = network.revoking(token=revoked)
    revocations, is_kept = router.revocations.post(encoded)
    assert (revocations.encode(), is_kept) == (encoded, True)
    assert router.peers == [stays.identity.peer_id]
    assert router.log.of("node_left") == [
        {"node": "gpu-1", "peer": node.identity.peer_id, "reason": "revoked"} for node in out
    ]
    assert router.told == ["links", "taken", encoded]
    router.members.heard(says(network.member(revoked), 7004))
    assert router.peers == [stays.identity.peer_id]
    assert [values["reason"] for values in router.log.of("advert_rejected")] == ["membership"]


def test_list_of_another_owner_is_refused(router: Router) -> None:
    other = Network()
    foreign = other.revoking(peer=other.member().identity.peer_id)
    with pytest.raises(InvalidRequest):
        router.revocations.post(foreign)
    assert router.told == []
    assert router.trust.revocations.version == 0


def test_revoked_node_loses_its_say_on_files_though_it_has_left_before(router: Router) -> None:
    node = router.network.member()
    peer = node.identity.peer_id
    router.members.heard(says(node))
    router.members.heard(says_goodbye(node))
    assert router.peers == []
    (pin,) = router.owners.owners.pins()
    assert [holder for holder, _ in pin.holders] == [peer]
    router.revocations.heard(router.network.revoking(peer=peer))
    (pin,) = router.owners.owners.pins()
    assert pin.holders == ()
