"""What a router shows of itself: its state through its life, and why it refuses requests when it is no member any more."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fleet_fakes import linked
from fleet_members import Members
from signed_adverts import NOW, says

from capamesh.protocol.data_dir import DataDir, read_status
from capamesh.protocol.membership_upkeep import MembershipUpkeep
from capamesh.protocol.network import RevocationList
from capamesh.router.process.standing import Standing

ADDRESSES = ("/ip4/0.0.0.0/tcp/4001/p2p/Q",)


class Router(Members):
    """A router's membership, and its standing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        log: Any = self.log
        home = DataDir(folder)
        self.sidecar: Any = SimpleNamespace(pid=7, addrs=ADDRESSES)  # it listens on all
        self.folder = folder
        self.standing = Standing(
            home,
            self.membership,
            MembershipUpkeep(
                home,
                self.membership,
                self.trust,
                token_file=None,
                on_renewed=lambda _: None,
                log=log,
            ),
            self.fleet,
            self.hearing,
            self.clocks,
            self.sidecar,
            name="front",
            mesh_host="10.1.2.3",
            today=lambda: NOW + dt.timedelta(seconds=self.clocks.passed_s),
            log=log,
        )

    @property
    def shown(self) -> tuple[str, str]:
        """The state and the reason in the status file."""
        status = read_status(self.folder)
        return status["state"], status["reason"]


@pytest.fixture
def router(tmp_path: Path) -> Router:
    return Router(tmp_path)


@pytest.fixture
def serving(router: Router) -> Router:
    """A router that serves, with a node that is linked."""
    router.members.heard(says(router.network.member()))
    linked(router.dialled[0])
    router.standing.enter("serving")
    return router


def test_router_that_serves_is_ready_once_a_node_can_be_reached(router: Router) -> None:
    router.standing.write()
    assert router.shown == ("starting", "")
    router.standing.enter("serving")
    assert router.shown == ("waiting", "no node has been heard of")
    router.members.heard(says(router.network.member()))
    router.standing.write()
    assert router.shown == ("waiting", "none of the nodes that are known (1) can be reached")
    linked(router.dialled[0])
    router.standing.tick()
    assert router.shown == ("ready", "")
    router.standing.enter("draining")
    assert router.shown == ("draining", "")


def test_router_is_not_ready_before_its_mesh_is_up_and_stays_so_while_it_is_started_anew(
    router: Router,
) -> None:
    router.sidecar.addrs = ()
    router.members.heard(says(router.network.member()))
    linked(router.dialled[0])
    router.standing.enter("serving")
    assert router.shown == ("starting", "its mesh is not up yet")
    assert read_status(router.folder)["mesh_addresses"] == []
    router.sidecar.addrs = ADDRESSES
    router.standing.write()
    assert router.shown == ("ready", "")
    assert read_status(router.folder)["mesh_addresses"] == ["/ip4/10.1.2.3/tcp/4001/p2p/Q"]
    router.sidecar.addrs = ()
    router.standing.write()
    assert router.shown == ("ready", "")


def test_router_that_is_revoked_refuses_requests_also_while_nodes_are_linked(
    serving: Router,
) -> None:
    assert serving.standing.shut_out == ""
    encoded = serving.network.revoking(peer=serving.membership.identity.peer_id)
    serving.trust.update(RevocationList.decode(encoded, serving.network.owner.ca_der))
    serving.standing.revoked()
    assert serving.shown[0] == "revoked"
    assert serving.standing.shut_out.startswith("this router's membership has ended (")


def test_router_whose_membership_has_expired_serves_while_a_node_takes_its_requests(
    serving: Router,
) -> None:
    serving.clocks.passed_s = 2 * 24 * 3600.0
    serving.standing.beat()
    assert (serving.shown[0], serving.standing.shut_out) == ("expired", "")
    serving.dialled[0].link = None
    serving.standing.tick()
    assert serving.standing.shut_out.startswith("this router's membership has ended (")
