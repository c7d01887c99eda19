"""The work of `capamesh model sign`. IO: reads models, writes signature files and keys, prints."""

from __future__ import annotations

from pathlib import Path

from capamesh.cli.printing import hint, print_json, print_table, write_file
from capamesh.node.repository.signature import read_signatures, signature_path
from capamesh.node.tools.optimise.finding import find_models
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import Identity
from capamesh.protocol.model_digest import short_digest
from capamesh.protocol.publishing import SignedVersion, sign, signatures_to_text


def sign_models(path: Path, key: Path, *, may_create_key: bool, as_json: bool) -> None:
    """Sign every version of the models at `path`; raise `ConfigError` where there is none, or no key."""
    if may_create_key:
        publisher = Identity.load_or_create(key)
    elif not key.exists():
        raise ConfigError(f"{key} does not exist; --create-key makes a publisher's key there")
    else:
        publisher = Identity.load(key)
    found = find_models(path)
    rows: list[dict[str, str]] = []
    for source in found.models:
        file = signature_path(source.folder, source.path, source.name)
        signed = sign(publisher, source.name, source.version, source.digest)
        kept = [
            each
            for each in read_signatures(file)
            if (each.version, each.publisher) != (source.version, publisher.peer_id)
        ]
        mine = SignedVersion(source.version, source.digest, signed)
        write_file(file, signatures_to_text([*kept, mine]))
        rows.append(
            {
                "name": source.name,
                "version": source.version,
                "digest": source.digest,
                "publisher": publisher.peer_id,
                "file": str(file),
            }
        )
    if as_json:
        print_json(rows)
    else:
        print_table(
            ("MODEL", "VERSION", "DIGEST", "SIGNED IN"),
            [
                (row["name"], row["version"], short_digest(row["digest"]) + "…", row["file"])
                for row in rows
            ],
        )
        hint(
            f"Publisher {publisher.peer_id}. Routers accept it that came with an invite that names it:\n"
            f"capamesh network token --dir OWNER --role router --publisher {publisher.peer_id}"
        )
    for refused in found.refused:
        version = f"/{refused.version}" if refused.version else ""
        hint(f"Not signed, since a node refuses it: {refused.name}{version}: {refused.reason}")
