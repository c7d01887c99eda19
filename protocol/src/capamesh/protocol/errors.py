"""Every error the network knows, in one tree split by whose fault it is. Pure.

`ClientError`: the caller's fault, never retried. `PeerError`: another peer's fault or state: count it and
try another. `LocalError`: this process's own set-up or bug. Each has a wire code; the router alone maps
codes to HTTP.
"""

from __future__ import annotations

from typing import ClassVar

from capamesh.protocol.plain_text import plain


class CapameshError(Exception):
    """The root: a message that gives the value, the limit and what to do."""

    code: ClassVar[str] = "error"
    """The name of the error on the wire; it never changes once released."""
    is_retryable: ClassVar[bool] = False
    """True if the same request may succeed at another peer, or later."""
    retry_after_s: float = 0.0
    """Seconds after which to ask the same again, as the one who answered estimates; 0 when it does not say."""
    load: object = None
    """The load that the peer told with the error, as it travels; `links.calls.load_with` reads it."""
    parts: int = 0
    """The parts of an answer that came before the error, which broke it off."""

    @property
    def message(self) -> str:
        """The text for a person."""
        return str(self.args[0]) if self.args else self.code


class ClientError(CapameshError):
    """The caller asked for something that no peer can do."""

    code = "client_error"


class InvalidRequest(ClientError):
    """The request's form or content is wrong: name, dtype, shape, size, JSON."""

    code = "invalid_request"


class InputInvalid(InvalidRequest):
    """The input of a job cannot be read, or does not fit the model."""

    code = "input_invalid"


class SequenceUnknown(InvalidRequest):
    """The request continues a sequence of which the peer knows nothing."""

    code = "sequence_unknown"


class Unsupported(ClientError):
    """The caller asked for a part of a protocol that this network has not."""

    code = "unsupported"


class TooLarge(ClientError):
    """The request or its answer is over a size limit."""

    code = "too_large"


class ContextExceeded(TooLarge):
    """The prompt, with what its answer needs at least, has more tokens than the model has room for."""

    code = "context_length_exceeded"
    param: str | None = None
    """The field of the request that has the prompt; None where that is not known."""


class ModelNotFound(ClientError):
    """No peer hosts this model or this version of it."""

    code = "model_not_found"


class Unauthenticated(ClientError):
    """The router asks for a key, and the caller has sent none that it takes."""

    code = "unauthenticated"


class Forbidden(ClientError):
    """The caller's key is not for what was asked."""

    code = "forbidden"


class KeyUsed(ClientError):
    """The request's idempotency key was used for another, or for one whose answer is not kept any more."""

    code = "key_used"


class FileNotFound(ClientError):
    """There is no such uploaded file, or it is another tenant's."""

    code = "file_not_found"


class FileConflict(ClientError):
    """The uploaded file is in a state in which it cannot do what was asked."""

    code = "file_conflict"


class JobNotFound(ClientError):
    """There is no such job, or it is another tenant's."""

    code = "job_not_found"


class JobConflict(ClientError):
    """The job is in a state in which it cannot do what was asked."""

    code = "job_conflict"


class InputChanged(ClientError):
    """The input of a job is not what it was when the job was planned."""

    code = "input_changed"


class DeadlineExceeded(ClientError):
    """The time the caller allowed has passed."""

    code = "deadline_exceeded"


class Cancelled(ClientError):
    """The caller withdrew the request."""

    code = "cancelled"


class PeerError(CapameshError):
    """A peer failed or refused; another may do better."""

    code = "peer_error"
    is_retryable = True


class Overloaded(PeerError):
    """The peer has as much to do as it can; it did not run the request."""

    code = "overloaded"

    def __init__(self, message: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message or self.code)
        self.retry_after_s = retry_after_s
        """Seconds after which to ask this peer again, as it estimates; 0 when it does not say."""


class TooManyRequests(Overloaded):
    """The caller has its share under way where there is not enough for all, or its key is at a limit; the request was not run."""

    code = "too_many_requests"


class SizeRefused(Overloaded):
    """The peer does not run requests as large as this one now; it runs smaller ones, and did not run this one."""

    code = "size_refused"


class Draining(PeerError):
    """The peer is leaving and takes no new work; it did not run the request."""

    code = "draining"


class ModelUnavailable(PeerError):
    """The peer knows the model but cannot run it now; it did not run the request."""

    code = "model_unavailable"

    def __init__(self, message: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message or self.code)
        self.retry_after_s = retry_after_s
        """Seconds after which it may be run again; 0 when that is not known."""


class ModelFailed(ModelUnavailable):
    """Each peer that has the model has failed to load it; to wait does not help."""

    code = "model_failed"
    is_retryable = False


class LinkLost(PeerError):
    """The connection to the peer ended before its answer was complete."""

    code = "link_lost"
    is_sudden: bool = False
    """True if the peer's end closed without a word: its process may have ended."""
    peer: str = ""
    """The id of the peer that so ended while it had the request; empty if that is not told."""
    others: int = 0
    """The other requests of this process that the peer had then: its process may have ended of any of them."""


class RunFailed(PeerError):
    """The model's run failed on the peer."""

    code = "run_failed"


class RequestKills(RunFailed):
    """Workers end when they run the request: it is not sent to another."""

    code = "request_kills"
    is_retryable = False
    deaths: int = 2
    """The number of workers that ended."""


class SequenceLost(PeerError):
    """The sequence that the request continues was lost with its state: start it anew. No other peer has it."""

    code = "sequence_lost"
    is_retryable = False


class NoEndpoint(PeerError):
    """Peers host the model, but none can be reached now."""

    code = "no_endpoint"

    def __init__(self, message: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message or self.code)
        self.retry_after_s = retry_after_s
        """Seconds after which one may be reached again; 0 when that is not known."""


class Unsatisfiable(NoEndpoint):
    """Peers host the model, but none may have the request, as it or the operator asks; to wait does not help."""

    code = "nobody_fits"
    is_retryable = False


class ShutOut(NoEndpoint):
    """The router's own membership has ended, so that no node takes anything from it; another router may do better."""

    code = "shut_out"


class KeysUnavailable(PeerError):
    """The router cannot read its keys, so that it cannot tell whether the caller's is one; another router may."""

    code = "keys_unavailable"


class StorageFull(PeerError):
    """The disk for uploaded files and results has no room."""

    code = "storage_full"


class JobsUnavailable(PeerError):
    """The store of jobs cannot be used now; what was asked may be done or not, and may be asked again."""

    code = "jobs_unavailable"


class PlaceUnavailable(PeerError):
    """A place of a job's data does not answer now; later it may."""

    code = "place_unavailable"


class OutputFailed(PeerError):
    """A part of a job's results cannot be written or read; another router, or this one later, may do better."""

    code = "output_failed"


class ProtocolViolation(PeerError):
    """The peer broke the wire's rules; the link to it is closed."""

    code = "protocol_violation"


class NotMember(PeerError):
    """The peer did not prove that it belongs to this network in this role."""

    code = "not_member"


class AdvertRejected(PeerError):
    """An advert is not accepted; `reason` names why."""

    code = "advert_rejected"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class LocalError(CapameshError):
    """This process's own configuration, files or code are at fault."""

    code = "local_error"


class NotInJson(LocalError):
    """The answer has a value that JSON cannot hold: nobody's fault, and binary data carries it."""

    code = "not_in_json"


class ConfigError(LocalError):
    """A setting, token or file cannot be used as given."""

    code = "config_error"


class KeyExposed(LocalError):
    """A private key's file can be read by other users."""

    code = "key_exposed"


class ModelInvalid(LocalError):
    """A model's folder or file cannot be hosted."""

    code = "model_invalid"


_REFUSALS = frozenset(
    {
        Overloaded.code,
        TooManyRequests.code,
        SizeRefused.code,
        Draining.code,
        ModelUnavailable.code,
    }
)


def is_refusal(error: CapameshError) -> bool:
    """Return whether the peer certainly did not run the request, so that asking another is always safe."""
    return error.code in _REFUSALS


def _walk(root: type[CapameshError]) -> dict[str, type[CapameshError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _walk(child)
    return found


_BY_CODE = _walk(CapameshError)


def from_wire(code: str, message: str, retry_after_s: float = 0.0) -> CapameshError:
    """Return the error that a peer sent as `code` and `message`; an unknown code is a `PeerError`.

    The message is a peer's text: what could drive a terminal is taken out of it.
    """
    message = plain(message)
    kind = _BY_CODE.get(code, PeerError)
    if issubclass(kind, Overloaded | NoEndpoint):
        return kind(message, retry_after_s)
    if kind is AdvertRejected or not issubclass(kind, ClientError | PeerError):
        kind = PeerError  # what is local to the peer is, seen from here, the peer's fault
    return kind(message)
