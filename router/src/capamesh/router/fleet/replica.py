"""One model version at one endpoint: what is known of it, kept for as long as it is hosted. Holds state, does no IO."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.answer_form import AnswerForm
from capamesh.router.resilience.health import Health
from capamesh.router.resilience.verdicts import Watched

if TYPE_CHECKING:
    from capamesh.protocol.adverts import ModelOffer, NodeAdvert
    from capamesh.router.fleet.endpoint import Endpoint


BYTES_A_TOKEN: Final = 4
"""The bytes of a prompt that are taken for a token (English has about 4)."""


class Replica(Watched):
    """One endpoint for one model version, which policies choose among. Compared by identity."""

    __slots__ = (
        "advert",
        "answered_s",
        "bulk_rows",
        "busy_s",
        "endpoint",
        "failed_s",
        "form",
        "health",
        "is_away",
        "is_gone",
        "is_out",
        "load",
        "load_s",
        "loads",
        "missed",
        "offer",
        "others_bulk_rows",
        "peak_cost_s",
        "peak_seen_s",
        "proved_s",
        "refuted_s",
        "rif",
        "service_s",
        "streams",
        "told_s",
        "unheard",
    )

    def __init__(self, endpoint: Endpoint, offer: ModelOffer, advert: NodeAdvert) -> None:
        self.endpoint = endpoint
        self.offer = offer
        self.form: AnswerForm | None = None
        """The form of its answers by its offer of now; None: see `answer_form`."""
        self.advert = advert
        self.rif = 0
        """This router's requests in flight there, for this model version."""
        self.bulk_rows = 0
        """This router's rows of jobs in flight there, for this model version."""
        self.others_bulk_rows = 0
        """The rows of bulk requests there that are not this router's jobs', by the newest report."""
        self.streams = 0
        """The requests among these of whose answers a part has come: they say nothing while their readers stall."""
        self.busy_s = -math.inf
        """The time since which there are requests of which nothing has come."""
        self.load = LoadReport()
        """The newest load report of this model, from a reply to a probe or from an answer."""
        self.load_s = -math.inf
        """The time of that report on the caller's clock; minus infinity while there is none."""
        self.told_s = -math.inf
        """The time of the newest report that was not asked for and was listened to."""
        self.service_s = offer.row_us / 1e6
        """The latency to expect at the load that was last told, network excluded; 0: unknown."""
        self.answered_s = -math.inf
        """The last time at which it answered a request of this router; minus infinity if never."""
        self.proved_s = -math.inf
        """The last time at which a request was sent there that it answered, or a part of an answer came."""
        self.health = Health()
        """The health of this model there; the endpoint has one of its own, for what ends all its models."""
        self.peak_cost_s = 0.0
        """Peak-sensitive moving average of latency (Finagle's peak EWMA)."""
        self.peak_seen_s = -math.inf
        self.failed_s = -math.inf
        """The last time at which it failed a request or was silent on one; minus infinity if never."""
        self.refuted_s = -math.inf
        """The last time at which it blamed the caller for what another replica answered; minus infinity if never."""
        self.unheard = 0
        """Requests in a row that others answered, or nobody, while it told nothing of itself."""
        self.missed = 0
        """The number of requests that it failed or refused since it last answered: see `serving`."""
        self.is_gone = False
        """True once it is hosted no more; answers under way still come."""
        self.is_away = False
        """True while its node says that it loads the model, which it had ready before: it is to be back."""
        self.loads = 0
        """Counts how often its node has begun to load the model anew."""
        self.is_out = False
        """True if `is_gone` or `is_away`: nothing may be sent there."""

    @override
    def __repr__(self) -> str:
        return f"Replica({self.offer.name!r} {self.offer.version} at {self.endpoint!r}, {self.rif} in flight)"

    def answer_form(self) -> AnswerForm:
        """Return the form that its answers must have by its offer of now; it is made when it is first asked for."""
        form = self.form
        if form is None:
            form = self.form = AnswerForm(self.offer)
        return form

    def advertised(self, offer: ModelOffer, advert: NodeAdvert) -> None:
        """Take over what the node says of the model now."""
        if offer is not self.offer:
            self.offer = offer
            self.form = None
        self.advert = advert
        self.service_s = service_us(self.load, offer) / 1e6

    def set_away(self, is_away: bool) -> None:
        """Take over whether the node loads the model anew."""
        if is_away and not self.is_away:
            self.loads += 1
        self.is_away = is_away
        self.is_out = is_away or self.is_gone

    def set_gone(self) -> None:
        """The model is hosted there no more."""
        self.is_gone = self.is_out = True

    def reported(self, load: LoadReport, now_s: float) -> None:
        """Take over what the node says of its load."""
        self.load = load
        self.load_s = now_s
        self.unheard = 0
        others = load.bulk_in_flight - self.bulk_rows
        self.others_bulk_rows = max(0, others)
        # as `service_us`, without a call: each answer and each probe brings a report
        self.service_s = (load.latency_us or load.queue_us + load.run_us or self.offer.row_us) / 1e6

    def latency_s(self, size_bytes: int) -> float:
        """Return the latency to expect of a request of `size_bytes`, network included; of a prompt, until the first token."""
        latency_s = self.service_s + self.endpoint.network.transfer_s(size_bytes)
        if self.load.token_ns:
            latency_s += size_bytes / BYTES_A_TOKEN * self.load.token_ns / 1e9
        return latency_s


def service_us(load: LoadReport, offer: ModelOffer) -> int:
    """Return the latency to expect at a load, in microseconds; where that tells none, the one that is advertised."""
    return load.latency_us or load.queue_us + load.run_us or offer.row_us
