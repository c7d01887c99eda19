"""Makes the JSON schemas of the files that people write, for their editors, from the structs that read those files."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import msgspec
from sdk_reference import class_of, fields_of

from capamesh.node.repository import manifest_keys
from capamesh.router.process import rules_keys

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[Path, str]:
    """Return the text of each schema by its file, which lies beside the module that has the keys."""
    return {
        Path(module.__file__ or "").with_name(f"{name}.schema.json"): json_schema(
            kind, module, title
        )
        for name, kind, module, title in (
            ("manifest", manifest_keys.ManifestTable, manifest_keys, "capamesh.toml"),
            ("rules", rules_keys.RULES_FILE, rules_keys, "rules of a router"),
        )
    }


def json_schema(kind: type, module: ModuleType, title: str) -> str:
    """Return the JSON schema of a file that a `kind` reads, whose tables `module` has."""
    (top,), tables = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    for name, table in tables.items():
        texts = {each.name: each.text for each in fields_of(class_of(vars(module)[name]))}
        keys = table["properties"]
        for field in msgspec.structs.fields(vars(module)[name]):
            keys[field.encode_name] = {
                "description": texts[field.name],
                **keys[field.encode_name],
            }
    whole = {"$schema": DRAFT, "title": title, **top, "$defs": tables}
    return json.dumps(without_null(whole), indent=2, ensure_ascii=False) + "\n"


def without_null(schema: object) -> object:
    """Return a schema without the null that stands for a missing key: TOML has none."""
    match schema:
        case list():
            return [without_null(each) for each in schema]
        case {"anyOf": [dict(kind), {"type": "null"}], **rest}:
            return without_null({**rest, **kind})
        case dict():
            return {key: without_null(each) for key, each in schema.items() if each is not None}
        case _:
            return schema
