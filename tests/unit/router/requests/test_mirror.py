from __future__ import annotations

from replicas import Draws

from capamesh.protocol.ids import ModelVersion
from capamesh.router.requests.mirror import Mirror
from capamesh.router.rules.model_rules import MirrorRule

V1, V3 = ModelVersion("1"), ModelVersion("3")
KEYS = [f"sequence {index}" for index in range(2000)]


def test_share_of_the_requests_is_mirrored() -> None:
    mirror = Mirror(MirrorRule(V3, 0.1))
    assert mirror.wants(Draws(0.099))
    assert not mirror.wants(Draws(0.1))
    assert Mirror(MirrorRule(V3, 1.0)).wants(Draws(0.999))


def test_requests_of_one_key_are_mirrored_all_or_none() -> None:
    mirror = Mirror(MirrorRule(V3, 0.1))
    wanted = [mirror.wants(Draws(), key=key) for key in KEYS]
    assert wanted == [mirror.wants(Draws(), key=key) for key in KEYS]
    assert sum(wanted) == 201


def test_requests_of_the_shadow_itself_are_not_mirrored() -> None:
    assert not Mirror(MirrorRule(V3, 1.0)).wants(Draws(), served=V3)
    assert Mirror(MirrorRule(V3, 1.0)).wants(Draws(0.0), served=V1)


def test_slow_shadow_gets_no_more_than_so_many_copies_at_a_time() -> None:
    mirror = Mirror(MirrorRule(V3, 1.0), most=2)
    mirror.began()
    mirror.began()
    assert not mirror.wants(Draws())
    mirror.ended()
    assert mirror.wants(Draws(0.5))
