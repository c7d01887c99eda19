"""The steps of what a client does with a job, and how each client takes them. IO: what the steps do.

What takes many requests (an upload, waiting, reading results) is a course: a generator that yields one step after the other, is
sent what came of it, and in which an error is thrown. So both clients do the same, and tests need neither sockets nor clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from capamesh.client.asks import Ask
from capamesh.client.jobs.patience import Patience
from capamesh.protocol.errors import CapameshError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pause:
    """The step of doing nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """The step of doing something that takes the disk's time, such as reading a file."""

    do: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Give:
    """The step of giving the caller what has come."""

    item: Any


@dataclass(frozen=True, slots=True)
class End(Generic[T]):
    """The end of a course."""

    result: T


Step: TypeAlias = Ask[Any] | Pause | Work | Give
Course: TypeAlias = Generator[Step, Any, T]
"""The steps of something, whose end is its result; to each is sent what came of it."""


def asked(ask: Ask[T], patience: Patience, *, is_progress: bool = True) -> Course[T]:
    """Ask until there is an answer, or no patience any more; `is_progress`: an answer fills the patience up again."""
    while True:
        try:
            found: T = yield ask
        except CapameshError as error:
            wait_s = patience.wait_s(error)
            if wait_s is None:
                raise
        else:
            if is_progress:
                patience.succeeded()
            return found
        yield Pause(wait_s)


def until_given(
    course: Course[T], exchange: Callable[[Ask[Any]], Any], sleep: Callable[[float], None]
) -> Give | End[T]:
    """Take the steps of a course until it gives something or ends."""
    try:
        step = course.send(None)
        while not isinstance(step, Give):
            try:
                match step:
                    case Pause(seconds=seconds):
                        sleep(seconds)
                        came: object = None
                    case Work(do=do):
                        came = do()
                    case ask:
                        came = exchange(ask)
            except CapameshError as error:
                step = course.throw(error)
            else:
                step = course.send(came)
    except StopIteration as end:
        return End(end.value)
    return step
