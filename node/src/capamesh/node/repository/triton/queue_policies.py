"""Reads what Triton's `config.pbtxt` says of requests that wait: priorities, timeouts, how many. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from capamesh.node.repository.limits import MAX_PRIORITY_LEVELS, MAX_QUEUE_LIMIT, MAX_TIMEOUT_US
from capamesh.node.repository.rules import QueuePolicy, QueueRules
from capamesh.node.repository.triton.message import Message

ACTIONS: Final = {"REJECT": False, "DELAY": True}


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """The configuration of waiting requests by `dynamic_batching`."""

    rules: QueueRules
    max_queue: int
    """The most requests that wait where there are no priorities; 0: the node's own limit."""
    notes: tuple[str, ...] = ()


def read_queue(fields: Message) -> QueueConfig:
    """Return the queue's rules in `dynamic_batching`. Raises ModelInvalid where they contradict each other."""
    levels = fields.integer("priority_levels", 0, MAX_PRIORITY_LEVELS)
    default_level = fields.integer("default_priority_level", 0, MAX_PRIORITY_LEVELS)
    if levels and not 1 <= default_level <= levels:
        raise fields.refused(
            "default_priority_level", f"is {default_level}; with {levels} levels it is one of them"
        )
    if default_level and not levels:
        raise fields.refused("default_priority_level", "needs priority_levels")
    notes: list[str] = []
    default = QueuePolicy()
    policy = fields.message("default_queue_policy")
    if policy is not None:
        default = _policy(policy, "default_queue_policy", notes)
    by_level: list[tuple[int, QueuePolicy]] = []
    for key, entry in fields.number_entries("priority_queue_policy", MAX_PRIORITY_LEVELS):
        if not 1 <= key <= levels:
            raise fields.refused(
                "priority_queue_policy", f"key {key} is none of the {levels} priority_levels"
            )
        value = entry.message("value")
        if value is None:
            raise entry.refused("value", "is missing")
        by_level.append((key, _policy(value, f"priority_queue_policy[{key}]", notes)))
    rules = QueueRules(default, levels, default_level, tuple(by_level))
    if levels:
        return QueueConfig(rules, 0, tuple(notes))
    # without priorities one number counts all that wait, which the engine has a bound for already
    alone = QueuePolicy(default.timeout_us, default.is_delaying)
    return QueueConfig(QueueRules(alone), default.max_queue, tuple(notes))


def _policy(fields: Message, where: str, notes: list[str]) -> QueuePolicy:
    if "allow_timeout_override" in fields and not fields.flag("allow_timeout_override"):
        notes.append(
            f"dynamic_batching.{where}.allow_timeout_override is ignored: a request's own timeout always counts, "
            "and can only shorten the time"
        )
    return QueuePolicy(
        timeout_us=fields.integer("default_timeout_microseconds", 0, MAX_TIMEOUT_US),
        is_delaying=fields.choice("timeout_action", ACTIONS, ACTIONS["REJECT"]),
        max_queue=fields.integer("max_queue_size", 0, MAX_QUEUE_LIMIT),
    )
