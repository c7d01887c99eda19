"""What the tests of deployments share: the variables that the command knows."""

from __future__ import annotations

import pytest
import typer
from typer.core import TyperGroup

from capamesh.cli.application import application

MEMBERS = ("router", "node")


@pytest.fixture(scope="session")
def variables() -> dict[str, dict[str, object]]:
    """Return the environment variables of `router run` and `node run`, by the first word, with their defaults."""
    root = typer.main.get_command(application())
    assert isinstance(root, TyperGroup)
    found: dict[str, dict[str, object]] = {}
    for member in MEMBERS:
        group = root.commands[member]
        assert isinstance(group, TyperGroup)
        options = group.commands["run"].params
        found[member] = {str(each.envvar): each.default for each in options if each.envvar}
    return found
