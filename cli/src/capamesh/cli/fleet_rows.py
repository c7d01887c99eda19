"""The words for nodes and models in tables, from what a router says of them. Pure."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from capamesh.cli.compact_table import Column
from capamesh.cli.short_text import short_reason
from capamesh.protocol.ids import PeerId
from capamesh.protocol.member_name import SUFFIX_CHARS, shown_names
from capamesh.protocol.membership_life import LifeLeft, life_ratio, stage_of
from capamesh.protocol.model_digest import short_digest

NODE_COLUMNS: Final = (
    Column("NODE", least=12, is_name=True),
    Column("STATE"),
    Column("DEVICE", least=6),
    Column("MODELS"),
    Column("IN FLIGHT"),
    Column("ANSWERED"),
    Column("REGION", least=6),
    Column("PRICE", is_optional=True),
    Column("MEMBER UNTIL", is_optional=True),
)
MODEL_COLUMNS: Final = (
    Column("MODEL", least=14, is_name=True),
    Column("VERSION", least=7),
    Column("STATE"),
    Column("NODES"),
    Column("INPUTS", least=16),
    Column("OUTPUTS", least=12),
    Column("FILE", is_optional=True),
)
_STATE_WORDS: Final = {"forced_open": "held open", "forced_closed": "held closed"}


def node_names(found: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what people are shown of each node, by its peer id; nothing of one that has no name."""
    names = {PeerId(str(one.get("peer_id"))): str(one.get("name") or "") for one in found}
    return {str(peer): name for peer, name in shown_names(names).items()}


def node_name(node: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return a node's name, or the end of its peer id where it has none."""
    peer = str(node.get("peer_id", "?"))
    return names.get(peer) or (peer if len(peer) <= SUFFIX_CHARS else f"…{peer[-SUFFIX_CHARS:]}")


def name_and_id(peer: str, name: str) -> str:
    """Return a node's name with the end of its peer id behind it, or its peer id where it has no name."""
    return f"{name} (…{peer[-SUFFIX_CHARS:]})" if name else peer


def node_row(node: Mapping[str, Any], names: Mapping[str, str]) -> tuple[object, ...]:
    """Return the row of a node for `NODE_COLUMNS`."""
    links: list[dict[str, Any]] = node.get("links", [])
    models: list[dict[str, Any]] = node.get("models", [])
    ready = sum(model.get("state") == "ready" for model in models)
    until = str(node.get("member_until") or "")
    return (
        node_name(node, names),
        "lost" if node.get("lost_at") else short_state(node),
        _device(node.get("devices", [])),
        ready if ready == len(models) else f"{ready} of {len(models)}",
        sum(link.get("requests_in_flight", 0) for link in links),
        sum(link.get("answered", 0) for link in links),
        node.get("region") or "-",
        f"{node.get('price_per_million', 0.0):g}",
        until.replace("T", " ")[:16] or "-",
    )


def lost_since(node: Mapping[str, Any]) -> str:
    """Return when a lost node was missed."""
    return f"{str(node.get('lost_at')).replace('T', ' ')[:19]} UTC"


def router_text(router: Mapping[str, Any]) -> str:
    """Return a router's name, and whether it is the one that was asked."""
    name = name_and_id(str(router.get("peer_id", "?")), str(router.get("name") or ""))
    return f"{name}, this one" if router.get("is_this") else name


def short_state(node: Mapping[str, Any]) -> str:
    """Return in one or two words how a router stands with a node."""
    links: list[dict[str, Any]] = node.get("links", [])
    if node.get("is_draining") or node.get("drained_until"):
        return "draining" if node.get("is_draining") else "drained"
    if not links:
        return "no link"
    usable = [link for link in links if link.get("is_usable")]
    if not usable:
        return "not usable"
    if len(usable) < len(links):
        return "partly usable"
    circuits = Counter(str(link.get("state", "closed")) for link in usable)
    del circuits["closed"]
    if not circuits:
        return "usable"
    state = circuits.most_common(1)[0][0]
    return _STATE_WORDS.get(state, state.replace("_", " "))


def node_notes(node: Mapping[str, Any], names: Mapping[str, str], now: dt.datetime) -> list[str]:
    """Return a line for each thing that is wrong with a node, or will be when its membership ends."""
    links: list[dict[str, Any]] = node.get("links", [])
    models: list[dict[str, Any]] = node.get("models", [])
    reasons = [
        str(link.get("last_error") if not link.get("is_usable") else _circuit_reason(link))
        for link in links
        if (link.get("last_error") if not link.get("is_usable") else _circuit_reason(link))
    ]
    failed = [model for model in models if model.get("state") == "failed"]
    others = [model for model in models if model.get("state") != "failed" and model.get("reason")]
    said = [short_reason(reasons[0])] if reasons else []
    if node.get("lost_at"):
        had = ", ".join(map(_versioned, models)) or "no model ready"
        said.append(f"lost since {lost_since(node)}; it had {short_reason(had)}")
    drained_until = _moment(node.get("drained_until"))
    if drained_until is not None:
        said.insert(0, f"drained until {drained_until:%Y-%m-%d %H:%M} UTC")
    if not links and node.get("addresses_refused"):
        said.append(short_reason(node["addresses_refused"]))
    for models_said, word in ((failed, " failed"), (others, "")):
        if models_said:
            first = models_said[0]
            more = f" (and {len(models_said) - 1} more)" if len(models_said) > 1 else ""
            said.append(f"{_versioned(first)}{word}{more}: {short_reason(first.get('reason', ''))}")
    said += _membership_note(node, now)
    name = node_name(node, names)
    return [f"{name}: {what}".removesuffix(": ") for what in said]


def _membership_note(node: Mapping[str, Any], now: dt.datetime) -> list[str]:
    """Return what there is to say of the end of a node's membership: nothing while more than half of it is left."""
    since, until = _moment(node.get("member_since")), _moment(node.get("member_until"))
    if since is None or until is None:  # a node or a router of an earlier version
        return []
    stage = stage_of(life_ratio(since, until, now))
    if stage is LifeLeft.AMPLE:
        return []
    part = "a tenth" if stage is LifeLeft.TENTH else "half"
    return [f"its membership ends {until:%Y-%m-%d %H:%M} UTC, less than {part} of it is left"]


def _circuit_reason(link: Mapping[str, Any]) -> str:
    """Return what is known against a node that can be sent requests, or against the first of its models."""
    if link.get("state", "closed") != "closed":
        return circuit_text(link)
    for model in link.get("models", []):
        if model.get("state", "closed") != "closed":
            return f"{_versioned(model)} {circuit_text(model)}"
    return ""


def circuit_text(part: Mapping[str, Any]) -> str:
    """Return the circuit of a node or model with what is known against it.

    Of a node that nothing can be sent to, it is what was done about it by hand or by failures, without their
    reason: the node's state has a newer one.
    """
    state = str(part.get("state", "?"))
    reason = part.get("reason", "")
    if not part.get("is_usable", True):
        if state in {"closed", "ramping"}:
            return "-"
        reason = ""
    if state in {"forced_open", "forced_closed"}:
        return f"{state}: by the operator"
    return f"{state}: {reason}" if reason and state != "closed" else state


def ready_counts(found: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Return how many nodes have each model version ready, of the file that is served."""
    return Counter(
        key
        for node in found
        for key in {
            (str(model.get("name")), str(model.get("version")))
            for model in node.get("models", [])
            if model.get("state") == "ready" and model.get("is_served", True)
        }
    )


def file_text(owned: Mapping[str, Any] | None) -> str:
    """Return which file a version is served as, why, and what else is hosted under its name."""
    if owned is None:
        return "-"
    lines = [short_file(owned)]
    why = {"rules": "by the rules", "signed": f"signed by {str(owned.get('publisher'))[-8:]}"}
    lines.append(why.get(str(owned.get("reason")), "first seen"))
    if owned.get("standing") != "trusted":
        lines.append(str(owned.get("standing")))
    return "\n".join([*lines, *other_files(owned)])


def short_file(owned: Mapping[str, Any] | None) -> str:
    """Return the first digits of the file that a version is served as."""
    if owned is None:
        return "-"
    return short_digest(str(owned.get("digest", ""))) or "none"


def other_files(owned: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each other file that nodes host under the name of a version."""
    if owned is None:
        return []
    others: list[dict[str, Any]] = owned.get("others", [])
    choice = [str(owned["choice"])] if owned.get("choice") else []
    return choice + [
        f"not asked: {other.get('nodes')} with {short_digest(str(other.get('digest')))}"
        for other in others
    ]


def tensors_text(specs: tuple[Any, ...]) -> str:
    """Return the tensors of a model, a line for each."""
    return "\n".join(_tensor(spec) for spec in specs)


def short_tensors(specs: tuple[Any, ...]) -> str:
    """Return the first tensor of a model, and how many more there are."""
    if not specs:
        return "-"
    return _tensor(specs[0]) + (f" +{len(specs) - 1}" if len(specs) > 1 else "")


def _tensor(spec: Any) -> str:  # noqa: ANN401 - a `TensorSpec`, which takes long to import
    return f"{spec.name} {spec.datatype.value}[{','.join(map(str, spec.shape))}]"


def _device(devices: list[dict[str, Any]]) -> str:
    """Return the first device of a node, and how many more it has."""
    if not devices:
        return "-"
    first = str(devices[0].get("name") or devices[0].get("kind") or "?")
    return first if len(devices) == 1 else f"{len(devices)} x {first}"


def _versioned(model: Mapping[str, Any]) -> str:
    return f"{model.get('name')}/{model.get('version', '')}".removesuffix("/")


def _moment(value: object) -> dt.datetime | None:
    try:
        moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None
