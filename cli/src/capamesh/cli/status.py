"""Shows how the member in a data folder is. Reads files, prints."""

from __future__ import annotations

from pathlib import Path

import typer

from capamesh.cli.printing import print_fields, print_json
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.home import read_status


def show_status(folder: Path, role: str, *, as_json: bool) -> None:
    """Print a member's status; exit with 1 unless it is running and ready."""
    status = read_status(folder)
    if status.get("role") != role:
        raise ConfigError(
            f"{folder} is the home of a {status.get('role')}: ask capamesh {status.get('role')} status"
        )
    is_ready = bool(status["is_running"]) and status.get("state") == "ready"
    if as_json:
        print_json({**status, "is_ready": is_ready})
    else:
        was = "" if status["is_running"] else " (not running now)"
        print_fields({**status, "state": f"{status.get('state')}{was}"})
    if not is_ready:
        raise typer.Exit(1)
