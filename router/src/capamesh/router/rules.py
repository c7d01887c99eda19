"""What an operator says about how each model's requests are routed: values, and how they are read from TOML. Pure.

A table for each model by its name; the table "*" holds for all, and a model's own table replaces it key by key.
Every complaint is a `ConfigError` that names the file, the key's path, the value and what is expected.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import public_bytes_of
from capamesh.protocol.ids import ModelName, ModelVersion

EVERY_MODEL: Final = "*"
MAX_NAME_CHARS: Final = 256  # as of a model in an advert
MAX_LABEL_CHARS: Final = 64  # as of a region in an advert
MAX_WORD_CHARS: Final = 32  # as of a device's kind in an advert
MAX_MODELS: Final = 10_000  # guess: ten times what one node can advertise
MAX_NAMES: Final = 1024  # guess, of one list or table
MAX_WEIGHT: Final = 1e6  # guess: sums of them stay exact enough
MAX_PRICE: Final = 1e12  # as of a price in an advert
_VERSION: Final = re.compile(r"[0-9]{1,18}\Z")  # as in an advert
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")  # likewise
_PEER_ID_CHARS: Final = 52  # of an Ed25519 key, which is what a publisher is named by
_SHOWN_CHARS: Final = 80  # guess: enough to find the value again


@dataclass(frozen=True, slots=True)
class MirrorRule:
    """Copies of a model's requests go to another version too; nobody waits for or sees its answers."""

    version: ModelVersion
    share: float
    """Which part of the requests, above 0 and at most 1."""


@dataclass(frozen=True, slots=True)
class ModelRules:
    """How one model's requests are routed."""

    policy: str = ""
    """Empty: the router's own."""
    weights: tuple[tuple[ModelVersion, float], ...] = ()
    """How requests that name no version are split; empty: the newest has them all."""
    mirror: MirrorRule | None = None
    is_hedged: bool = True
    """Whether a second node may be asked when the first is slow."""
    is_retried: bool = True
    """Whether another node may be asked when it is unknown what became of the request at the first."""
    max_price: float = math.inf
    """For a million, as nodes advertise it; dearer nodes are not asked."""
    regions: tuple[str, ...] = ()
    """Nodes elsewhere are not asked; empty: all."""
    device_kinds: tuple[str, ...] = ()
    """Likewise, of devices."""
    tenants: tuple[tuple[str, float], ...] = ()
    """Weights of the tenants' shares when there is not room for all; who is not named has that of "*", or 1."""
    digests: tuple[tuple[ModelVersion, str], ...] = ()
    """The digest that each version must have: nodes that replica another file under it are not asked."""
    publishers: tuple[str, ...] | None = None
    """Only files that one of them has signed are served, given as peer ids; None: those of the network may sign."""


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """The rules of all models."""

    every: ModelRules = ModelRules()
    models: Mapping[ModelName, ModelRules] = field(default_factory=dict[ModelName, ModelRules])

    def of(self, model: ModelName) -> ModelRules:
        """Return the model's rules."""
        return self.models.get(model, self.every)


def read_rules(text: str, file: str, policies: Collection[str]) -> RoutingRules:
    """Return the rules in `text`, the content of `file`; `policies` are those there are.

    Raises `ConfigError`.
    """
    try:
        raw: dict[str, object] = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as exc:  # a number of thousands of digits is a plain ValueError
        raise ConfigError(f"{file} is not TOML: {exc or 'nested too deeply'}") from exc
    if len(raw) > MAX_MODELS:
        raise ConfigError(f"{file} has {len(raw)} tables; at most {MAX_MODELS} are read")
    every = ModelRules()
    if EVERY_MODEL in raw:
        table = _Table.of(raw[EVERY_MODEL], file, _quoted(EVERY_MODEL))
        for key in ("weights", "mirror", "digests"):
            if key in table.values:
                raise table.wrong(
                    key,
                    "stands for all models, but versions are one model's: give it its own table",
                )
        every = _read_model(table, every, policies)
    models: dict[ModelName, ModelRules] = {}
    for name, values in raw.items():
        if name == EVERY_MODEL:
            continue
        if not isinstance(values, dict):
            raise ConfigError(
                f"{file}: {_quoted(name)} is {_shown(values)}, expected the table of a model,"
                f" such as [{_quoted(name)}], with {', '.join(_KEYS)}"
            )
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise ConfigError(
                f"{file}: {_quoted(name)} is a name of {len(name)} characters, expected 1 to {MAX_NAME_CHARS}"
            )
        models[ModelName(name)] = _read_model(
            _Table(cast("dict[str, object]", values), file, _quoted(name)), every, policies
        )
    return RoutingRules(every, models)


class _Table:
    """One table of the file; `path` is where it stands."""

    def __init__(self, values: Mapping[str, object], file: str, path: str) -> None:
        self.values = values
        self.file = file
        self.path = path

    @classmethod
    def of(cls, value: object, file: str, path: str) -> _Table:
        if not isinstance(value, dict):
            raise ConfigError(f"{file}: {path} is {_shown(value)}, expected a table")
        return cls(cast("dict[str, object]", value), file, path)

    def wrong(self, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self.file}: {self.path}.{key} {what}")

    def not_expected(self, key: str, value: object, expected: str) -> ConfigError:
        return self.wrong(key, f"is {_shown(value)}, expected {expected}")

    def only(self, allowed: Collection[str]) -> None:
        for key in self.values:
            if key not in allowed:
                raise ConfigError(
                    f"{self.file}: {self.path} has the unknown key {key[:_SHOWN_CHARS]!r};"
                    f" allowed are {', '.join(allowed)}"
                )

    def table(self, key: str) -> _Table:
        return _Table.of(self.values[key], self.file, f"{self.path}.{key}")

    def flag(self, key: str) -> bool:
        value = self.values[key]
        if not isinstance(value, bool):
            raise self.not_expected(key, value, "true or false")
        return value

    def number(self, key: str, most: float, *, is_zero_allowed: bool = True) -> float:
        value = self.values[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # a nan compares as false
        if (
            not is_number
            or not 0 <= cast("float", value) <= most
            or (value == 0 and not is_zero_allowed)
        ):
            low = "from 0" if is_zero_allowed else "above 0"
            raise self.not_expected(key, value, f"a number {low} to {most:g}")
        return float(cast("float", value))

    def words(self, key: str, most_chars: int) -> tuple[str, ...]:
        value = self.values[key]
        expected = f"a list of 1 to {MAX_NAMES} different texts of 1 to {most_chars} characters"
        if not isinstance(value, list):
            raise self.not_expected(key, value, expected)
        words = cast("list[object]", value)
        for word in words:
            if not isinstance(word, str) or not 0 < len(word) <= most_chars:
                raise self.not_expected(key, word, expected)
        texts = tuple(cast("list[str]", words))
        if not 0 < len(texts) <= MAX_NAMES or len(set(texts)) < len(texts):
            raise self.not_expected(key, words, expected)
        return texts

    def weights(self, key: str, *, is_zero_allowed: bool) -> Iterator[tuple[str, float]]:
        """Yield names and their weights."""
        table = self.table(key)
        if not 0 < len(table.values) <= MAX_NAMES:
            raise self.not_expected(
                key, table.values, f"a table of 1 to {MAX_NAMES} names and their weights"
            )
        for name in table.values:
            if len(name) > MAX_NAME_CHARS:
                raise table.not_expected(
                    _quoted(name),
                    table.values[name],
                    f"a name of at most {MAX_NAME_CHARS} characters",
                )
            quoted = _Table({_quoted(name): table.values[name]}, table.file, table.path)
            yield name, quoted.number(_quoted(name), MAX_WEIGHT, is_zero_allowed=is_zero_allowed)


def _version_weights(table: _Table) -> tuple[tuple[ModelVersion, float], ...]:
    weights: list[tuple[ModelVersion, float]] = []
    for name, weight in table.weights("weights", is_zero_allowed=True):
        if not _VERSION.match(name):
            raise table.wrong(
                "weights",
                f'names the version {name[:_SHOWN_CHARS]!r}, expected digits, such as "2"',
            )
        weights.append((ModelVersion(name), weight))
    if not any(weight for _, weight in weights):
        raise table.wrong("weights", "are all 0, expected one above 0 at least")
    return tuple(weights)


def _mirror(table: _Table) -> MirrorRule:
    mirror = table.table("mirror")
    mirror.only(("version", "share"))
    for key in ("version", "share"):
        if key not in mirror.values:
            raise mirror.wrong(key, "is missing; add it")
    version = mirror.values["version"]
    if not isinstance(version, str) or not _VERSION.match(version):
        raise mirror.not_expected("version", version, 'a version\'s digits as text, such as "2"')
    return MirrorRule(ModelVersion(version), mirror.number("share", 1.0, is_zero_allowed=False))


def _digests(table: _Table) -> tuple[tuple[ModelVersion, str], ...]:
    given = table.table("digests")
    if not 0 < len(given.values) <= MAX_NAMES:
        raise table.not_expected(
            "digests", given.values, f"a table of 1 to {MAX_NAMES} versions and their digests"
        )
    digests: list[tuple[ModelVersion, str]] = []
    for version, digest in given.values.items():
        if not _VERSION.match(version):
            raise table.wrong(
                "digests",
                f'names the version {version[:_SHOWN_CHARS]!r}, expected digits, such as "2"',
            )
        if not isinstance(digest, str) or not _DIGEST.match(digest):
            raise given.not_expected(
                _quoted(version),
                digest,
                '"sha256:" and 64 lower-case hexadecimal digits, as `capamesh models` shows them',
            )
        digests.append((ModelVersion(version), digest))
    return tuple(digests)


def _publishers(table: _Table) -> tuple[str, ...]:
    publishers = table.words("publishers", _PEER_ID_CHARS)
    for publisher in publishers:
        try:
            public_bytes_of(publisher)
        except ConfigError as exc:
            raise table.not_expected(
                "publishers", publisher, "publishers as `capamesh model sign` names them"
            ) from exc
    return publishers


def _tenants(table: _Table) -> tuple[tuple[str, float], ...]:
    return tuple(table.weights("tenants", is_zero_allowed=False))


_KEYS: Final[Mapping[str, tuple[str, Callable[[_Table], object]]]] = {
    # key: (field, reader); the policy is checked apart
    "policy": ("policy", lambda table: table.values["policy"]),
    "weights": ("weights", _version_weights),
    "mirror": ("mirror", _mirror),
    "hedge": ("is_hedged", lambda table: table.flag("hedge")),
    "retry": ("is_retried", lambda table: table.flag("retry")),
    "max_price": ("max_price", lambda table: table.number("max_price", MAX_PRICE)),
    "regions": ("regions", lambda table: table.words("regions", MAX_LABEL_CHARS)),
    "device_kinds": ("device_kinds", lambda table: table.words("device_kinds", MAX_WORD_CHARS)),
    "tenants": ("tenants", _tenants),
    "digests": ("digests", _digests),
    "publishers": ("publishers", _publishers),
}


def _read_model(table: _Table, every: ModelRules, policies: Collection[str]) -> ModelRules:
    table.only(tuple(_KEYS))
    fields: dict[str, Any] = {
        name: read(table) for key, (name, read) in _KEYS.items() if key in table.values
    }
    policy = fields.get("policy", "")
    if "policy" in fields and (not isinstance(policy, str) or policy not in policies):
        raise table.not_expected("policy", policy, f"one of {', '.join(sorted(policies))}")
    return replace(every, **fields)


def _quoted(name: str) -> str:
    """Return a name as TOML writes it, short."""
    short = name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "…"
    return short if re.fullmatch(r"[A-Za-z0-9_-]+", short) else f'"{short}"'


def _shown(value: object) -> str:
    """Return a value for a complaint: short, and without walking into it."""
    match value:
        case dict():
            return f"a table of {len(cast('dict[str, object]', value))} keys"
        case list():
            values = cast("list[object]", value)
            is_plain = len(values) <= 8 and not any(
                isinstance(each, dict | list) for each in values
            )
            text = f"[{', '.join(map(_shown, values))}]" if is_plain else f"a list of {len(values)}"
            return text[:_SHOWN_CHARS]
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 100:  # Python refuses to print very long ones
            return f"a number of {value.bit_length()} bits"
        case _:
            return repr(value)[:_SHOWN_CHARS]
