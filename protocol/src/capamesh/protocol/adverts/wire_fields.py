"""The fields of an advert's body, as they are on the wire, with their limits. Pure.

The body of "advert" (text without control characters U+0000-1F and U+007F-9F; lengths in Unicode code points; every
field is required unless a default is given, which a field that is left out has; unknown fields are skipped, so a
field with a default can be added without a new wire version):

    "devices"           array, up to 64, of maps:
      "index"             integer 0..65,535, unique
      "kind"              text 1..32
      "name"              text 0..256
      "provider"          text 1..64
      "memory_total"      integer 0..2^63-1, bytes
      "memory_free"       integer 0.."memory_total", bytes
      "addresses"         array, up to 16, of "host:port" with port 1..65,535; IPv6 in brackets
      "runtime"           text 0..64, default ""
      "driver"            text 0..64, default ""
    "models"            array, up to 1,024, of maps, each name and version once:
      "name"              text 1..256
      "version"           text, 1..20 decimal digits; 1..18 without a leading zero where "ready"; "0" for a failed model
                          of which no version is known
      "digest"            text: "sha256-chunks:" and 64 lower-case hexadecimal digits; or "" unless "ready"
      "state"             text 1..32: "loading", "ready", "failed", "unloading", "unloaded"
      "reason"            text 0..512
      "inputs", "outputs" array, up to 1,024, of maps:
        "name"              text 0..256
        "datatype"          text 1..32: a datatype of the Open Inference Protocol
        "shape"             array, up to 32, of integers -1..2^53-1; -1 is any
      "provider"          text 0..64, default ""
      "precision"         text 0..32, default ""
      "scheduling"        text 0..32: "ensemble", "sequence", or "" for a model whose requests are independent, the
                          default; what a receiver does not know counts as ""
      "best_rows", "row_us", "max_rows", "memory", "parts"
                          integers 0..2^63-1, default 0: rows, microseconds, rows, bytes, parts of one answer
      "batch"             integer 0..2^31-1, default 0: `max_batch_size` in the sense of Triton's configurations
      "once", "varies"    0 or 1, default 0: 1 if a request must not be run again, 1 if equal requests have answers that differ
      "signed"            96 bytes, default none: a publisher's public key and its Ed25519 signature, see `publishing`
      "also_signed"       1 to 3 times 96 bytes, default none: other publishers' likewise
      "labelled"          array, up to 1,024, of text 0..256, default none: the outputs whose classes have names
      "formats"           map, up to 1,024, of text 0..256 to text 0..32, default none: inputs that are pictures, each
                          "NCHW" or "NHWC"; what a receiver does not know counts as none
      "task"              text 0..32: a task of `capamesh.protocol.tasks`, or "", the default; what a receiver does not
                          know counts as ""
      "windows"           map, default none: how samples of a stream become requests, see `windows`; one that does not fit
                          the model's inputs counts as none:
        "input"             text 1..256
        "samples"           integer 1..2^20
        "context"           integer 0..2^20, default 0
        "rate_hz"           integer 0..10,000,000, default 0
        "constants"         map, up to 64, of text 1..256 to finite numbers within 2^53-1 either way, default none
    "region"            text 0..64
    "price_per_million" finite number 0..1e12 (an integer will do)
    "agent_version"     text 0..64
    "draining"          boolean
    "interval_s"        integer 1..600, default 10: the next advert comes after so many seconds, give or take a tenth;
                        after 2.2 times as long a receiver suspects the node, after 3.5 times it forgets it
    "name"              text, default "": 1..63 of the characters A-Z a-z 0-9 . _ - of which the first is a letter or a
                        digit; see `member_name`

The body of "router": "link_addresses" (array, up to 64, as "addresses"), "region", "agent_version", "nodes"
(integer 0..2^63-1, default 0: how many are in the router's own view), and "name" (as a node's).
The body of "goodbye" has no fields.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from capamesh.protocol.adverts.addresses import MAX_ADDRESS_CHARS
from capamesh.protocol.adverts.interval import MIN_INTERVAL_S
from capamesh.protocol.adverts.sequence import MAX_COUNT
from capamesh.protocol.member_name import MAX_MEMBER_NAME_CHARS, MEMBER_NAME_PATTERN
from capamesh.protocol.model_digest import MAX_DIGEST_CHARS
from capamesh.protocol.publishing import MAX_OTHERS, SIGNED_BYTES
from capamesh.protocol.schema import PLAIN, Meta, Struct, field
from capamesh.protocol.windows import MAX_CONSTANT, MAX_CONSTANTS, MAX_RATE_HZ, MAX_SAMPLES

# Where no source stands, a limit is a guess: generous for people, small against an envelope.
MAX_DEVICES: Final = 64  # four times the accelerators of the largest single machines
MAX_MODELS: Final = 1024
MAX_TENSORS: Final = 1024  # a decoder with a cache has two a layer and direction
MAX_ADDRESSES: Final = 16
MAX_LINK_ADDRESSES: Final = 64  # one for each API process
MAX_DIMS: Final = 32  # as in a request's tensors
MAX_DIM: Final = 2**53 - 1  # exact in JavaScript
MAX_NAME_CHARS: Final = 256
MAX_REASON_CHARS: Final = 512
MAX_WORD_CHARS: Final = 32
MAX_LABEL_CHARS: Final = 64
MAX_DEVICE_INDEX: Final = 65_535
MAX_PRICE: Final = 1e12  # times any row count stays finite
MAX_REPORTED_INTERVAL_S: Final = (
    600  # five times what nodes choose, for later versions; a dead node stays 35 minutes
)

_Count: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
_Name: TypeAlias = Annotated[str, Meta(max_length=MAX_NAME_CHARS), PLAIN]
_Label: TypeAlias = Annotated[str, Meta(max_length=MAX_LABEL_CHARS), PLAIN]
_Word: TypeAlias = Annotated[str, Meta(max_length=MAX_WORD_CHARS), PLAIN]
_MemberName: TypeAlias = Annotated[
    str, Meta(max_length=MAX_MEMBER_NAME_CHARS, pattern=MEMBER_NAME_PATTERN)
]
_Address: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_ADDRESS_CHARS), PLAIN]


class WireDevice(Struct, frozen=True, gc=False):
    """A map of "devices"."""

    index: Annotated[int, Meta(ge=0, le=MAX_DEVICE_INDEX)]
    kind: Annotated[_Word, Meta(min_length=1)]
    name: _Name
    provider: Annotated[_Label, Meta(min_length=1)]
    memory_total: _Count
    memory_free: _Count
    addresses: Annotated[tuple[_Address, ...], Meta(max_length=MAX_ADDRESSES)]
    runtime: _Label = ""
    driver: _Label = ""


class WireTensor(Struct, frozen=True, gc=False):
    """A map of "inputs" or "outputs"."""

    name: _Name
    datatype: Annotated[_Word, Meta(min_length=1)]
    shape: Annotated[tuple[Annotated[int, Meta(ge=-1, le=MAX_DIM)], ...], Meta(max_length=MAX_DIMS)]


_Tensors: TypeAlias = Annotated[tuple[WireTensor, ...], Meta(max_length=MAX_TENSORS)]


class WireWindows(Struct, frozen=True, gc=False):
    """The map "windows"."""

    input: Annotated[_Name, Meta(min_length=1)]
    samples: Annotated[int, Meta(ge=1, le=MAX_SAMPLES)]
    context: Annotated[int, Meta(ge=0, le=MAX_SAMPLES)] = 0
    rate_hz: Annotated[int, Meta(ge=0, le=MAX_RATE_HZ)] = 0
    constants: Annotated[
        dict[
            Annotated[_Name, Meta(min_length=1)],
            Annotated[float, Meta(ge=-MAX_CONSTANT, le=MAX_CONSTANT)],
        ],
        Meta(max_length=MAX_CONSTANTS),
    ] = field(default_factory=dict)


class WireModel(Struct, frozen=True, gc=False):
    """A map of "models"."""

    name: Annotated[_Name, Meta(min_length=1)]
    version: _Word
    digest: Annotated[str, Meta(max_length=MAX_DIGEST_CHARS), PLAIN]
    state: Annotated[_Word, Meta(min_length=1)]
    reason: Annotated[str, Meta(max_length=MAX_REASON_CHARS), PLAIN]
    inputs: _Tensors
    outputs: _Tensors
    provider: _Label = ""
    precision: _Word = ""
    scheduling: _Word = ""
    best_rows: _Count = 0
    row_us: _Count = 0
    max_rows: _Count = 0
    batch: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    memory: _Count = 0
    parts: _Count = 0
    once: Annotated[int, Meta(ge=0, le=1)] = 0
    varies: Annotated[int, Meta(ge=0, le=1)] = 0
    signed: Annotated[bytes, Meta(min_length=SIGNED_BYTES, max_length=SIGNED_BYTES)] = b""
    also_signed: Annotated[
        bytes, Meta(min_length=SIGNED_BYTES, max_length=MAX_OTHERS * SIGNED_BYTES)
    ] = b""
    labelled: Annotated[tuple[_Name, ...], Meta(max_length=MAX_TENSORS)] = ()
    formats: Annotated[dict[_Name, _Word], Meta(max_length=MAX_TENSORS)] = field(
        default_factory=dict
    )
    task: _Word = ""
    windows: WireWindows | None = None


class WireModels(Struct, frozen=True, gc=False):
    """The models of an advert alone."""

    models: Annotated[tuple[WireModel, ...], Meta(max_length=MAX_MODELS)]


class WireAdvert(WireModels, frozen=True, gc=False):
    """The body of "advert"."""

    devices: Annotated[tuple[WireDevice, ...], Meta(max_length=MAX_DEVICES)]
    region: _Label
    price_per_million: Annotated[float, Meta(ge=0.0, le=MAX_PRICE)]
    agent_version: _Label
    draining: bool
    interval_s: Annotated[int, Meta(ge=1, le=MAX_REPORTED_INTERVAL_S)] = MIN_INTERVAL_S
    name: _MemberName = ""


class WireRouter(Struct, frozen=True, gc=False):
    """The body of "router"."""

    link_addresses: Annotated[tuple[_Address, ...], Meta(max_length=MAX_LINK_ADDRESSES)]
    region: _Label
    agent_version: _Label
    nodes: _Count = 0
    name: _MemberName = ""
