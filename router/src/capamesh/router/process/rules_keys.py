"""The keys of an operator's rules file, and how they become rules. IO: the file.

A table for each model by its name; the table "*" holds for all, and a model's own table replaces it key by key.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, cast

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import public_bytes_of
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.model_digest import DIGEST_PATTERN, EXPECTED
from capamesh.protocol.private_files import read_public
from capamesh.protocol.schema import DISTINCT, Meta, Mismatch, Table, given, meaning, quoted, shown
from capamesh.protocol.toml_text import read_toml
from capamesh.router.policies import POLICIES
from capamesh.router.rules.constraints import ANYWHERE
from capamesh.router.rules.model_rules import CacheRule, MirrorRule, ModelRules, RoutingRules

EVERY_MODEL: Final = "*"
MAX_RULES_BYTES: Final = 4 * 2**20  # 10,000 models of 400 bytes, which take 3 s (measured)
MAX_NAME_CHARS: Final = 256  # as of a model in an advert
MAX_LABEL_CHARS: Final = 64  # as of a region in an advert
MAX_WORD_CHARS: Final = 32  # as of a device's kind in an advert
MAX_MODELS: Final = 10_000  # guess: ten times what one node can advertise
MAX_NAMES: Final = 1024  # guess, of one list or table
MAX_WEIGHT: Final = 1e6  # guess: sums of them stay exact enough
MAX_PRICE: Final = 1e12  # as of a price in an advert
MAX_TTL_S: Final = (
    30 * 86_400.0
)  # guess: what is older was changed by something that no digest tells
_CONSTRAINTS: Final = ("max_price", "regions", "device_kinds")
"""The keys that are fields of `Constraints`."""
_SETS: Final = frozenset({"regions", "device_kinds"})
_PAIRS: Final = frozenset({"weights", "tenants"})
_PEER_ID_CHARS: Final = 52  # of an Ed25519 key, which is what a publisher is named by

_COUNT: Final = Meta(min_length=1, max_length=MAX_NAMES)
_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
_Label: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_LABEL_CHARS)]
_Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_WORD_CHARS)]
_Version: TypeAlias = Annotated[
    str,
    Meta(pattern=r"^[0-9]{1,18}$(?!\n)"),  # as in an advert
    meaning('the digits of a version as text, such as "2"'),
]
_Digest: TypeAlias = Annotated[
    str,
    Meta(pattern=DIGEST_PATTERN),
    meaning(f"{EXPECTED}, as `capamesh models` shows them; other forms are other versions'"),
]


class MirrorTable(Table, frozen=True):
    """Copies of a model's requests go to another version too; nobody waits for or sees its answers."""

    version: _Version
    """The version that gets the copies."""
    share: Annotated[float, Meta(gt=0, le=1)]
    """The part of the requests of which copies are made."""


class CacheTable(Table, frozen=True, kw_only=True, rename={"is_shared": "shared"}):
    """Answers of a model are kept, and given to whoever asks the same."""

    ttl_s: Annotated[float, Meta(gt=0, le=MAX_TTL_S)]
    """The seconds for which an answer is kept."""
    is_shared: bool = False
    """True if tenants get one another's answers; else each gets those that were run for it."""


class ModelTable(
    Table, frozen=True, kw_only=True, rename={"is_hedged": "hedge", "is_retried": "retry"}
):
    """Rules of one model's requests."""

    policy: str | None = None
    """The policy that chooses among the nodes; missing: the router's own."""
    weights: (
        Annotated[dict[_Version, Annotated[float, Meta(ge=0, le=MAX_WEIGHT)]], _COUNT] | None
    ) = None
    """The shares of the versions of requests that name no version; missing: the newest has them all."""
    mirror: MirrorTable | None = None
    """The version that gets copies of requests; missing: none does."""
    is_hedged: bool | None = None
    """True if a second node may be asked when the first is slow; missing: it may."""
    is_retried: bool | None = None
    """True if another node may be asked when it is unknown what became of the request at the first; missing: it may."""
    max_price: Annotated[float, Meta(ge=0, le=MAX_PRICE)] | None = None
    """The price for a million, as nodes advertise it, above which nodes are not asked."""
    regions: Annotated[tuple[_Label, ...], _COUNT, DISTINCT] | None = None
    """The regions whose nodes may be asked; missing: all."""
    device_kinds: Annotated[tuple[_Word, ...], _COUNT, DISTINCT] | None = None
    """The kinds of devices that may be asked; missing: all."""
    tenants: Annotated[dict[_Name, Annotated[float, Meta(gt=0, le=MAX_WEIGHT)]], _COUNT] | None = (
        None
    )
    """Weights of the tenants' shares when there is not room for all; who is not named has that of "*", or 1."""
    digests: Annotated[dict[_Version, _Digest], _COUNT] | None = None
    """The digest that each version must have: nodes that host another file under it are not asked."""
    cache: CacheTable | None = None
    """The rule by which answers are kept; missing: none is."""
    publishers: (
        Annotated[
            tuple[Annotated[str, Meta(min_length=1, max_length=_PEER_ID_CHARS)], ...],
            _COUNT,
            DISTINCT,
        ]
        | None
    ) = None
    """The publishers, as `capamesh model sign` names them, of whose signed files one is served; missing: those of the network."""

    @override
    def __post_init__(self) -> None:
        """Refuse weights that choose nothing, and publishers that are none."""
        super().__post_init__()
        if self.weights is not None and not any(self.weights.values()):
            raise ValueError("weights are all 0, expected one above 0 at least")
        for publisher in self.publishers or ():
            try:
                public_bytes_of(publisher)
            except ConfigError as exc:
                raise ValueError(
                    f"publishers has {shown(publisher)}, expected publishers as `capamesh model sign` names them"
                ) from exc

    def over(self, every: ModelRules) -> ModelRules:
        """Return the rules of a model that has this table, where `every` holds for all models."""
        values = given(self)
        asked: dict[str, Any] = {name: values.pop(name) for name in _CONSTRAINTS if name in values}
        for name in _SETS & asked.keys():
            asked[name] = frozenset(asked[name])
        constraints = replace(every.constraints, **asked)
        values["constraints"] = ANYWHERE if constraints == ANYWHERE else constraints
        for name in _PAIRS & values.keys():
            values[name] = tuple(values[name].items())
        if self.mirror is not None:
            values["mirror"] = MirrorRule(ModelVersion(self.mirror.version), self.mirror.share)
        if self.cache is not None:
            values["cache"] = CacheRule(self.cache.ttl_s, self.cache.is_shared)
        if self.publishers is not None:
            values["publishers"] = frozenset(self.publishers)
        return replace(every, **values)


_KEYS: Final = ", ".join(ModelTable.__struct_encode_fields__)
_Model: TypeAlias = Annotated[
    ModelTable, meaning(f"the table of a model, such as [digits], with {_KEYS}")
]
RULES_FILE: Final = cast(
    "type[dict[str, ModelTable]]", Annotated[dict[_Name, _Model], Meta(max_length=MAX_MODELS)]
)
"""A rules file as a whole."""


def load_rules(file: Path | None, defaults: ModelRules) -> RoutingRules:
    """Return the rules in `file`, complete: `defaults` hold for what it says nothing about, and without a file.

    Raises `ConfigError`, which names what is wrong with the file.
    """
    if file is None:
        return RoutingRules(defaults)
    raw = read_public(file, "the rules file", limit_bytes=MAX_RULES_BYTES)
    return read_rules(raw, str(file), defaults)


def read_rules(raw: bytes, file: str, defaults: ModelRules) -> RoutingRules:
    """Return the rules in `raw`, the content of `file`; `defaults` hold for what it says nothing about.

    Raises `ConfigError`, which names the file, the key's path, the value and what is expected.
    """
    try:
        tables = read_toml(raw, RULES_FILE, file)
    except Mismatch as exc:
        raise ConfigError(str(exc)) from exc
    for name, table in tables.items():
        if table.policy is not None and table.policy not in POLICIES:
            raise ConfigError(
                f"{file}: {quoted(name)}.policy is {shown(table.policy)}, expected one of {', '.join(sorted(POLICIES))}"
            )
    every = tables.pop(EVERY_MODEL, ModelTable())
    for key in ("weights", "mirror", "digests"):
        if getattr(every, key) is not None:
            raise ConfigError(
                f'{file}: "{EVERY_MODEL}".{key} stands for all models, but versions are one model\'s: give it its own table'
            )
    of_all = every.over(defaults)
    return RoutingRules(
        of_all, {ModelName(name): table.over(of_all) for name, table in tables.items()}
    )
