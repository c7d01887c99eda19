"""The ways in which the work on a shard ends without a manifest. Pure."""

from __future__ import annotations

from typing import cast


class ShardEnd(Exception):
    """The work on a shard ends; the text says why, for a person."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ShardFailed(ShardEnd):
    """The shard failed here: it is given back as one that failed, and tried again by whoever leases it next."""


class ShardGivenBack(ShardEnd):
    """Nobody could be asked for a while: the shard is given back, which is no failure of it."""


class JobHeld(ShardEnd):
    """The job cannot go on until a person has done something, and then it can: it is paused."""


class JobFailed(ShardEnd):
    """The job can never be done."""


def first_of(error: BaseException) -> BaseException:
    """Return the error that ended a group: the others came of that."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
