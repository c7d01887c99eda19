"""A stream of samples, cut into the windows that its model declares, each of which becomes a request. No IO of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.oip import InferRequest
from capamesh.protocol.tensors import Tensor
from capamesh.protocol.windows import constant_data, one_element
from capamesh.router.ws.arriving import ArrivingMessage, no_room

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.oip import Parameters
    from capamesh.protocol.windows import Windows
    from capamesh.router.http.body_budget import BodyBudget


class Samples:
    """The samples of one stream that have come and are in no request yet, and what each request has beside them."""

    __slots__ = (
        "_arriving",
        "_budget",
        "_constants",
        "_context",
        "_context_bytes",
        "_on_no_room",
        "_on_room",
        "_shape",
        "_site",
        "_spec",
        "window_bytes",
    )

    def __init__(
        self,
        windows: Windows,
        offer: ModelOffer,
        budget: BodyBudget,
        on_room: Callable[[], None],
        on_no_room: Callable[[], None],
        site: str = "",
    ) -> None:
        """A client of the `site` sends them. `windows` fit the model that `offer` describes; `on_room` and `on_no_room` are told as by `ArrivingMessage`."""
        self._budget = budget
        self._on_room = on_room
        self._on_no_room = on_no_room
        self._site = site
        specs = {spec.name: spec for spec in offer.inputs}
        self._spec = spec = specs[windows.input]
        size_bytes = spec.datatype.itemsize_bytes or 1
        self.window_bytes = windows.samples * size_bytes
        """The bytes of a window's new samples."""
        self._context_bytes = windows.context * size_bytes
        self._shape = (*one_element(spec.shape[:-1]), windows.context + windows.samples)
        self._constants = tuple(
            Tensor(
                name,
                specs[name].datatype,
                one_element(specs[name].shape),
                constant_data(specs[name], value) or b"",
            )
            for name, value in windows.constants
        )
        self._context = bytes(self._context_bytes)
        self._arriving: ArrivingMessage | None = None

    @property
    def is_waiting(self) -> bool:
        """Return whether there is no room for what has come."""
        return self._arriving is not None and self._arriving.is_waiting

    @property
    def filled_bytes(self) -> int:
        """Return how many bytes of the next window are here."""
        return 0 if self._arriving is None else self._arriving.filled_bytes

    def take(self, data: bytes, now_s: float) -> tuple[memoryview | None, bytes]:
        """Take bytes of samples up to the end of a window.

        Returns the window's new samples, for which the budget holds `window_bytes` then, or None, and the bytes behind it.

        Raises:
            Overloaded: there is no room for them.
        """
        missing_bytes = self.window_bytes - self.filled_bytes
        here, rest = data[:missing_bytes], data[missing_bytes:]
        arriving = self._arriving
        if arriving is None and len(here) == missing_bytes:
            if not self._budget.hold(self.window_bytes):
                raise no_room(self._budget)
            return memoryview(here), rest
        if arriving is None:
            arriving = ArrivingMessage(
                self._budget,
                self._on_room,
                self._on_no_room,
                is_text=False,
                since_s=now_s,
                site=self._site,
            )
            if not arriving.begin():
                raise no_room(self._budget)
            self._arriving = arriving
        arriving.add(here)
        if len(here) < missing_bytes:
            return None, rest
        self._arriving = None
        window = arriving.arrived(self.window_bytes)
        if window is None:
            raise no_room(self._budget)
        return window, rest

    def last(self) -> memoryview:
        """Return the samples that are left, with zeros behind them to a whole window, for which the budget holds room then.

        Raises:
            Overloaded: there is no room for them.
        """
        arriving, self._arriving = self._arriving, None
        if arriving is None:
            if not self._budget.hold(self.window_bytes):
                raise no_room(self._budget)
            return memoryview(bytes(self.window_bytes))
        arriving.pad(self.window_bytes)
        window = arriving.arrived(self.window_bytes)
        if window is None:
            raise no_room(self._budget)
        return window

    def request(
        self, window: memoryview, number: int, parameters: Parameters, *, is_binary: bool
    ) -> InferRequest:
        """Return the request for the window with that number, whose samples are the next one's context."""
        spec, data = self._spec, b"".join((self._context, window))
        if self._context_bytes:
            self._context = data[-self._context_bytes :]
        samples = Tensor(spec.name, spec.datatype, self._shape, data)
        return InferRequest(
            "",
            "",
            str(number),
            (samples, *self._constants),
            is_binary_default=is_binary,
            parameters=parameters,
        )

    def begin_anew(self) -> None:
        """Forget the context, as the model's state is gone."""
        self._context = bytes(self._context_bytes)

    def drop(self) -> None:
        """Forget what has come."""
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            arriving.drop()
