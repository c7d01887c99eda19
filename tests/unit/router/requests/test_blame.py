"""Who is to blame, as tables: every row is one case, and every case has its row."""

from __future__ import annotations

import pytest

from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    LocalError,
    ModelNotFound,
    ModelUnavailable,
    NotMember,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RequestKills,
    RunFailed,
    SequenceUnknown,
)
from capamesh.router.balancing.deaths import Stand
from capamesh.router.requests.blame import (
    Fault,
    fault_of,
    is_death,
    is_run,
    judged,
    killing,
)

# an error, what it says by itself, and what it says of a request of which no byte was sent
FAULTS: list[tuple[CapameshError, Fault, Fault]] = [
    (InvalidRequest("x"), Fault.CALLER, Fault.ROUTER),
    (DeadlineExceeded("x"), Fault.CALLER, Fault.ROUTER),
    (SequenceUnknown("x"), Fault.CALLER, Fault.ROUTER),
    (Overloaded("x"), Fault.REFUSED, Fault.REFUSED),
    (Draining("x"), Fault.REFUSED, Fault.REFUSED),
    (ModelUnavailable("x"), Fault.REFUSED, Fault.REFUSED),
    (RunFailed("x"), Fault.FAILED, Fault.REFUSED),
    (LinkLost("x"), Fault.FAILED, Fault.REFUSED),
    (ProtocolViolation("x"), Fault.FAILED, Fault.REFUSED),
    (NotMember("x"), Fault.FAILED, Fault.REFUSED),
    (PeerError("x"), Fault.FAILED, Fault.REFUSED),
    (LocalError("x"), Fault.ROUTER, Fault.ROUTER),
]


@pytest.mark.parametrize(("error", "sent", "unsent"), FAULTS, ids=str)
def test_fault_of_an_error_is_told_by_its_class(
    error: CapameshError, sent: Fault, unsent: Fault
) -> None:
    assert fault_of(error, is_unsent=False) is sent
    assert fault_of(error, is_unsent=True) is unsent


# an error, what it is taken for of a node that had hardly time, and of one that had time enough
VERDICTS: list[tuple[CapameshError, type[CapameshError], type[CapameshError]]] = [
    (ModelNotFound("x"), ModelUnavailable, ModelUnavailable),
    (Cancelled("x"), PeerError, PeerError),
    (RequestKills("x"), RunFailed, RunFailed),
    (DeadlineExceeded("x"), DeadlineExceeded, PeerError),
    (InvalidRequest("x"), InvalidRequest, InvalidRequest),
    (Overloaded("x"), Overloaded, Overloaded),
    (RunFailed("x"), RunFailed, RunFailed),
    (LinkLost("x"), LinkLost, LinkLost),
    (LocalError("x"), LocalError, LocalError),
]


@pytest.mark.parametrize(("error", "hardly", "enough"), VERDICTS, ids=str)
def test_error_that_can_only_be_the_node_s_fault_is(
    error: CapameshError, hardly: type[CapameshError], enough: type[CapameshError]
) -> None:
    for has_time_left, wanted in ((False, hardly), (True, enough)):
        found = judged(error, 1.5, has_time_left=has_time_left)
        assert type(found) is wanted
        if wanted is type(error):
            assert found is error
        else:
            assert found.message == f"the node answered {error.code} with 1.500 s left: x"


@pytest.mark.parametrize(
    ("is_sudden", "is_first", "is_alive", "wanted"),
    [
        (False, False, False, False),
        (False, False, True, False),
        (False, True, False, False),
        (False, True, True, False),
        (True, False, False, False),  # it may have ended with the last one
        (True, False, True, True),
        (True, True, False, True),
        (True, True, True, True),
    ],
)
def test_ends_of_links_that_count_as_deaths(
    is_sudden: bool, is_first: bool, is_alive: bool, wanted: bool
) -> None:
    assert is_death(is_sudden=is_sudden, is_first=is_first, is_alive=is_alive) is wanted


@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize(
    ("is_sudden", "is_death_", "is_before_last", "wanted"),
    [
        (True, False, False, False),
        (True, False, True, True),
        (True, True, False, True),
        (True, True, True, True),
        (False, False, False, None),  # it is a run unless it was silent
        (False, False, True, None),
    ],
)
def test_attempts_whose_links_ended_that_count_as_runs(
    is_sudden: bool, is_death_: bool, is_before_last: bool, wanted: bool | None, is_silent: bool
) -> None:
    found = is_run(
        is_sudden=is_sudden,
        is_death=is_death_,
        is_before_last=is_before_last,
        is_silent=is_silent,
    )
    assert found is (not is_silent if wanted is None else wanted)


@pytest.mark.parametrize(
    ("stand", "is_too_large", "deaths"),
    [
        (Stand.FREE, False, 0),
        (Stand.FREE, True, 1),
        (Stand.GUILTY, False, 2),
        (Stand.GUILTY, True, 2),
        *((stand, False, 0) for stand in Stand if stand not in {Stand.FREE, Stand.GUILTY}),
        *((stand, True, 1) for stand in Stand if stand not in {Stand.FREE, Stand.GUILTY}),
    ],
)
def test_requests_that_are_told_that_they_end_processes(
    stand: Stand, is_too_large: bool, deaths: int
) -> None:
    error = killing(stand, is_too_large=is_too_large)
    assert (0 if error is None else error.deaths) == deaths
