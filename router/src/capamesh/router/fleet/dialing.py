"""Lets dials begin when their budget has room. IO: asyncio's timers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.router.fleet.dial_budget import Dial, DialBudget

if TYPE_CHECKING:
    from capamesh.protocol.links.keeper import Over


class Dialling:
    """The queue of all who want to dial."""

    def __init__(self, share: float = 1.0) -> None:
        """`share` is the part of the budget that this process of a router has."""
        self._loop = asyncio.get_running_loop()
        self._budget = DialBudget(self._loop.time(), share)
        self._waiting: dict[Dial, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @override
    def __repr__(self) -> str:
        return f"Dialling({self._budget!r})"

    @property
    def waiting(self) -> int:
        """The number of dials that wait for their turn."""
        return len(self._waiting)

    async def permit(self, invite: str, *, is_known: bool) -> Over:
        """Wait until a member of `invite` may be dialled; return what is to be told how it went."""
        dial = self._budget.want(invite, is_known=is_known, now_s=self._loop.time())
        turn = self._waiting[dial] = self._loop.create_future()
        self._begin()
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.pop(dial, None)
            self._over(dial, has_answered=False)
            raise
        return lambda has_answered: self._over(dial, has_answered=has_answered)

    def _over(self, dial: Dial, *, has_answered: bool) -> None:
        if not dial.is_over:
            self._budget.over(dial, has_answered=has_answered, now_s=self._loop.time())
            self._begin()

    def _begin(self) -> None:
        now_s = self._loop.time()
        for dial in self._budget.due(now_s):
            turn = self._waiting.pop(dial)
            if not turn.done():  # else it is cancelled, and says so next
                turn.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait_s = self._budget.wait_s(now_s)
        if wait_s is not None:
            self._timer = self._loop.call_later(wait_s, self._begin)
        elif not self._waiting:
            self._budget.forget_idle(now_s)
