"""The work of `capamesh model trust`. IO: reads and writes a rules file, prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from capamesh.cli.printing import hint, say, write_file
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.model_digest import ALGORITHM, is_digest, short_digest
from capamesh.router.process.rules_keys import load_rules, read_rules
from capamesh.router.rules.model_rules import ModelRules

if TYPE_CHECKING:
    from pathlib import Path

_BARE = re.compile(r"[A-Za-z0-9_-]+")
"""A key that TOML takes without quotes."""


def trust_model(
    owned: Iterable[Mapping[str, Any]], model: str, version: str, digest: str, rules: Path
) -> None:
    """Write into `rules` which of the `owned` files, as `/v1/models` lists them, a version is; a whole digest may be any.

    Raises `ConfigError` where no file has a digest that begins so, or several, or the rules cannot be changed.
    """
    listed = [one for one in owned if one.get("name") == model]
    whole = _found(listed, model, version, digest)
    text = with_digest(_text(rules), model, version, whole)
    changed = read_rules(text.encode(), str(rules), ModelRules())
    if changed.of(ModelName(model)).digests.get(ModelVersion(version)) != whole:
        raise ConfigError(
            f"{rules} names the digests of {model!r} in a way that is not changed by this command: write"
            f" {version} = {whole} there"
        )
    write_file(rules, text)
    say(f"{model} version {version} is {short_digest(whole)}… by {rules}.")
    hint(
        f"A router that was started with --rules {rules} goes by it after a SIGHUP; others serve what they served."
    )
    _tell_of_others(listed, changed.of(ModelName(model)), model)


def _text(rules: Path) -> str:
    if not rules.exists():
        return ""
    load_rules(rules, ModelRules())  # whose message says what is wrong with it
    return rules.read_text(encoding="utf-8")


def _tell_of_others(listed: Iterable[Mapping[str, Any]], rules: ModelRules, model: str) -> None:
    """Say which versions get the requests that name none from now on, and which do no more."""
    named = {*rules.digests, *rules.weighted()}
    others = [
        str(one.get("version"))
        for one in listed
        if one.get("standing") == "trusted"
        and one.get("reason") == "first_seen"
        and one.get("version") not in named
    ]
    if others:
        hint(
            f"Requests for {model} that name no version go from then on only to the versions that rules name or a publisher"
            f" has signed, and no more to {', '.join(others)}: trust those, too, if they are to get them."
        )


def _found(owned: Iterable[Mapping[str, Any]], model: str, version: str, digest: str) -> str:
    """Return the whole digest of the file that is meant."""
    whole = digest if ":" in digest else f"{ALGORITHM}:{digest}"
    if is_digest(whole):
        return whole  # nodes may host more files than are listed
    hosted: set[str] = set()
    for one in owned:
        if one.get("version") == version:
            hosted.update([str(one.get("digest")), *(str(o["digest"]) for o in one["others"])])
    hosted.discard("")
    meant = [
        each
        for each in sorted(hosted)
        if digest and each.partition(":")[2].startswith(digest.partition(":")[2] or digest)
    ]
    if len(meant) > 1:
        raise ConfigError(
            f"{len(meant)} digests of {model!r} version {version} begin with {digest!r}: give one of them whole:"
            f" {', '.join(meant)}"
        )
    if not meant:
        shown = ", ".join(map(short_digest, sorted(hosted))) or "no file"
        raise ConfigError(
            f"no digest of {model!r} version {version} begins with {digest!r}: nodes host {shown}; a whole digest is taken"
            " though it is not listed"
        )
    return meant[0]


def with_digest(text: str, model: str, version: str, digest: str) -> str:
    """Return the rules with the digest of a version, in the model's table of digests if it has one."""
    line = f'"{version}" = "{digest}"'
    name = model if _BARE.fullmatch(model) else json.dumps(model)
    head = f"[{name}.digests]"
    lines = text.splitlines()
    if head not in lines:
        return "\n".join([*lines, *([""] if lines else []), head, line]) + "\n"
    at = lines.index(head) + 1
    end = next((n for n in range(at, len(lines)) if lines[n].startswith("[")), len(lines))
    kept = [each for each in lines[at:end] if each.partition("=")[0].strip().strip('"') != version]
    return "\n".join([*lines[:at], line, *kept, *lines[end:]]) + "\n"
