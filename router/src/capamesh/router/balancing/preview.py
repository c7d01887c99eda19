"""A look ahead: where a request would go now, and why. It books nothing, moves no rotation and draws nothing. Pure."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.balancing.explanation import Explanation, explained

if TYPE_CHECKING:
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.policies.request_shape import RequestShape
    from capamesh.router.rules.constraints import Constraints


def foreseen(
    served: ServedModel,
    constraints: Constraints,
    shape: RequestShape,
    deadline_s: float,
    now_s: float,
    rng: random.Random,
    *,
    policy: str = "",
    is_let_in: bool = True,
) -> Explanation:
    """Return where a request would go if chance went on as `rng` does; a `policy` of "" is the model's.

    Nobody is chosen for a request that is not let in. Raises what making a policy of that name raises.
    """
    replicas = served.hosted.replicas
    asked = served.rules.constraints.both(constraints)
    chooser = served.foreseen_chooser(policy, rng)
    chosen: tuple[Replica, ...] = ()
    if is_let_in:
        is_panicking = served.panic.would_be_on(replicas, now_s)
        rules = Eligibility(asked, deadline_s, (), now_s, rng.random(), is_panicking)
        is_eligible = rules.allows_bound if shape.is_pinned else rules.allows
        replica = chooser.preview(replicas, is_eligible, shape, now_s, rng)
        if replica is None:
            replica = rules.last_resort(replicas, is_extra=False)
        if replica is not None:
            chosen = (replica,)
    else:
        rules = Eligibility(asked, deadline_s, now_s=now_s)
    return explained(
        served.model,
        served.version,
        chooser.name,
        replicas=replicas,
        rules=rules,
        chosen=chosen,
    )
