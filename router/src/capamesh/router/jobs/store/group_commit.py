"""Runs operations on the store of jobs in one thread, those that wait together in one transaction. IO: the database; a thread.

A commit waits for the disk, so ten that wait are to wait once. An operation is a function of a `Turn`; what it returns is told
once the transaction that it ran in is committed. If one raises, all that the group did is undone and each runs again, alone,
so that no operation harms another and none needs a savepoint: the usual one pays for nothing. An operation may therefore run
twice, and must do nothing but use the turn's connection.

Only what must last waits for the disk. An operation that seldom has something to tell, such as a claim that finds that its job has failed,
says so with `Turn.must_last`: then all is undone, and done again so that it lasts.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Any, Final, Generic, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from typing_extensions import TypeIs, override

from capamesh.protocol.errors import CapameshError, Overloaded
from capamesh.router.access.engines.reasons import reason_of
from capamesh.router.jobs.errors import JobsUnavailable
from capamesh.router.jobs.store.database import Change, Database
from capamesh.router.jobs.values import JobId

MAX_GROUP: Final = 64
"""The most operations of one transaction (guess: some 20 ms of work, for which others wait)."""
MAX_WAITING: Final = 1024
"""The most operations that wait; another one is refused."""
_DEADLOCKS: Final = ("40001", "40P01")
"""PostgreSQL's codes of transactions that were broken off for one another, and may be tried again."""

_Result = TypeVar("_Result")
_Params = ParamSpec("_Params")


@dataclass(slots=True)
class Turn:
    """The connection and the time that an operation works with."""

    connection: Connection
    now_s: float
    """The store's clock when the transaction began."""
    takes_results: dict[JobId, bool] = field(default_factory=dict[JobId, bool])
    """The jobs whose state the transaction has read and holds fast, and whether they take results."""
    change: Change = Change.LASTING
    """The greatest change that an operation of the transaction may make."""
    at_end: dict[Hashable, Callable[[Turn], None]] = field(
        default_factory=dict[Hashable, Callable[["Turn"], None]]
    )
    """The things to do once when all operations are done, by what they are about: of several about one thing, the last that was asked for."""

    def must_last(self) -> None:
        """Have what the transaction does be on the disk before it is told. Whoever calls it expects that it may not return."""
        if self.change is not Change.LASTING:
            raise MustLast


class MustLast(Exception):
    """Ends a transaction that turns out to change what must last."""


Operation = Callable[[Turn], _Result]


class JointOperation(ABC, Generic[_Result]):
    """An operation that is done in one go with those of its kind that wait beside it."""

    @property
    @abstractmethod
    def kind(self) -> Hashable:
        """Return what operations must have in common with this one to be done with it."""

    @abstractmethod
    def run_all(self, turn: Turn, asked: Sequence[Any]) -> list[_Result]:
        """Do operations of one kind, of which this is the first, and return their results, each in its place."""

    def __call__(self, turn: Turn) -> _Result:
        """Do it alone."""
        (result,) = self.run_all(turn, (self,))
        return result


@dataclass(slots=True)
class Waiting(Generic[_Result]):
    """An operation that waits, and where its result goes."""

    operation: Operation[_Result]
    future: Future[_Result]
    change: Change = Change.LASTING
    """The change that the operation makes as a rule."""


def run_group(database: Database, group: Sequence[Waiting[Any]]) -> None:
    """Run operations in one transaction and resolve their futures once it is committed, or has failed."""
    try:
        results = _transaction(database, group)
    except SQLAlchemyError as exc:
        if _is_for_all(exc):
            _fail(group, _unavailable(database, exc))
        else:
            _run_each(database, group)
    except Exception:  # noqa: BLE001 - one operation's fault; which one is seen when each runs alone
        _run_each(database, group)
    else:
        for each, result in zip(group, results, strict=True):
            each.future.set_result(result)


def _run_each(database: Database, group: Sequence[Waiting[Any]]) -> None:
    for index, each in enumerate(group):
        for is_last in (False, True):
            try:
                (result,) = _transaction(database, (each,))
            except CapameshError as exc:
                each.future.set_exception(exc)
            except SQLAlchemyError as exc:
                if _is_for_all(exc):
                    _fail(group[index:], _unavailable(database, exc))
                    return
                if not is_last:  # somebody else made the same at the same time: it is there now
                    continue
                each.future.set_exception(_unavailable(database, exc))
            except Exception as exc:  # noqa: BLE001 - a bug of the operation, told to whoever asked for it
                each.future.set_exception(exc)
            else:
                each.future.set_result(result)
            break


def _transaction(database: Database, group: Sequence[Waiting[Any]]) -> list[Any]:
    try:
        return _changing(database, group, max(each.change for each in group))
    except MustLast:
        return _changing(database, group, Change.LASTING)


def _changing(database: Database, group: Sequence[Waiting[Any]], change: Change) -> list[Any]:
    with database.transaction(change) as connection:
        turn = Turn(connection, database.now_s(connection), change=change)
        results = _results(turn, [each.operation for each in group])
        for each in turn.at_end.values():
            each(turn)
        return results


def _is_joint(operation: Operation[Any]) -> TypeIs[JointOperation[Any]]:
    return isinstance(operation, JointOperation)


def _results(turn: Turn, operations: Sequence[Operation[Any]]) -> list[Any]:
    """Do operations in their order, those of one kind with the first of them, and return their results in that order."""
    joint: dict[Hashable, list[int]] = {}
    for at, each in enumerate(operations):
        if _is_joint(each):
            joint.setdefault(each.kind, []).append(at)
    results: dict[int, Any] = {}
    for at, each in enumerate(operations):
        if at in results:
            continue
        if _is_joint(each):
            places = joint[each.kind]
            found = each.run_all(turn, [operations[place] for place in places])
            results.update(zip(places, found, strict=True))
        else:
            results[at] = each(turn)
    return [results[at] for at in range(len(operations))]


def _fail(group: Sequence[Waiting[Any]], error: JobsUnavailable) -> None:
    for each in group:
        each.future.set_exception(error)


def _is_for_all(error: SQLAlchemyError) -> bool:
    """Return whether a failure is the database's and not one operation's: to try each alone would be no use."""
    if isinstance(error, IntegrityError):
        return False
    if isinstance(error, DBAPIError) and not error.connection_invalidated:
        return getattr(error.orig, "sqlstate", None) not in _DEADLOCKS
    return True


def _unavailable(database: Database, error: SQLAlchemyError) -> JobsUnavailable:
    return JobsUnavailable(
        f"the store of jobs {database.name} fails: {reason_of(error)}; what was asked may or may not be done: ask again"
    )


class _DaemonThread(Executor):
    """A thread that does one thing after another, and does not hold up the end of the process: a database may stand still."""

    def __init__(self, name: str) -> None:
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._name: str | None = name
        """The thread's name, until it is started for the first thing."""

    @override
    def submit(
        self, fn: Callable[_Params, _Result], /, *args: _Params.args, **kwargs: _Params.kwargs
    ) -> Future[_Result]:
        future: Future[_Result] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as exc:  # noqa: BLE001 - whoever asked is told
                future.set_exception(exc)

        self._asked.put(run)
        if self._name is not None:
            Thread(target=self._run, name=self._name, daemon=True).start()
            self._name = None
        return future

    @override
    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        self._asked.put(None)

    def _run(self) -> None:
        while (run := self._asked.get()) is not None:
            run()


class StoreThread:
    """The one thread that uses a store: an executor's, so that a loop that simulates runs it itself."""

    def __init__(self, database: Database, most_waiting: int = MAX_WAITING) -> None:
        """Begin with nothing to do."""
        self._database = database
        self._most_waiting = most_waiting
        self._waiting: deque[Waiting[Any]] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._is_running = False
        self._thread = _DaemonThread("job store")

    def put(
        self, operation: Operation[_Result], change: Change = Change.LASTING
    ) -> Future[_Result]:
        """Have an operation run that changes no more than that; the future, cancelled before its turn, takes it back.

        Raises:
            Overloaded: too many wait.
            JobsUnavailable: the store is closed.
        """
        future: Future[_Result] = Future()
        with self._changed:
            if self._is_closed:
                raise JobsUnavailable("the store of jobs is closed: the router is stopping")
            if len(self._waiting) >= self._most_waiting:
                raise Overloaded(
                    f"{len(self._waiting)} operations wait for the store of jobs, the most that may; try again later",
                    1.0,
                )
            self._waiting.append(Waiting(operation, future, change))
            if not self._is_running:
                self._is_running = True
                asyncio.get_running_loop().run_in_executor(self._thread, self._run)
        return future

    def close(self, patience_s: float) -> bool:
        """Take no more, and wait so long for what was taken; return whether all of it ended."""
        with self._changed:
            self._is_closed = True
            self._thread.shutdown()
            if not self._changed.wait_for(lambda: not self._is_running, patience_s):
                return False
        self._database.engine.dispose()
        return True

    def _run(self) -> None:
        while group := self._next_group():
            running = [each for each in group if each.future.set_running_or_notify_cancel()]
            if running:
                run_group(self._database, running)

    def _next_group(self) -> list[Waiting[Any]]:
        """Return operations that wait; none: the next one starts the thread anew."""
        with self._changed:
            self._is_running = bool(self._waiting)
            self._changed.notify_all()
            return [self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))]
