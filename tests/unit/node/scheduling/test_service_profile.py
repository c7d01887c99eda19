from __future__ import annotations

import pickle

from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile


def test_profile_goes_to_another_process_as_it_is() -> None:
    profile = ServiceProfile((ProfilePoint(1, 0.1), ProfilePoint(2, 0.15)))
    assert pickle.loads(pickle.dumps(profile)) == profile  # noqa: S301 - made above
