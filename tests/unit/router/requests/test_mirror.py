from __future__ import annotations

from replicas import Draws

from capamesh.protocol.ids import ModelVersion
from capamesh.router.requests.mirror import Mirror
from capamesh.router.rules.model_rules import MirrorRule

V1, V3 = ModelVersion("1"), ModelVersion("3")


def test_share_of_the_requests_is_mirrored() -> None:
    mirror = Mirror(MirrorRule(V3, 0.1))
    assert mirror.wants(Draws(0.099))
    assert not mirror.wants(Draws(0.1))
    assert Mirror(MirrorRule(V3, 1.0)).wants(Draws(0.999))


def test_slow_shadow_gets_no_more_than_so_many_copies_at_a_time() -> None:
    mirror = Mirror(MirrorRule(V3, 1.0), most=2)
    mirror.began()
    mirror.began()
    assert not mirror.wants(Draws())
    mirror.ended()
    assert mirror.wants(Draws(0.5))
