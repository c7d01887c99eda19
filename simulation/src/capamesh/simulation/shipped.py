"""The scenarios that come with the project. IO: reads package data."""

from __future__ import annotations

import re
from importlib import resources

from capamesh.protocol.errors import ConfigError
from capamesh.simulation.scenario import Scenario
from capamesh.simulation.scenario_file import load_scenario

ROUTERS = re.compile(r"(.+)@([1-9][0-9]?)")
"""`name@3`: the scenario with three routers."""


_FOLDER = resources.files("capamesh.simulation").joinpath("scenarios")


def shipped_names() -> list[str]:
    """Return the names of all scenarios, in alphabetical order."""
    names = [file.name for file in _FOLDER.iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def shipped_scenario(name: str) -> Scenario:
    """Return the scenario `name`, or with `name@3` the same with three routers; ConfigError: there is none."""
    match = ROUTERS.fullmatch(name)
    base = match[1] if match else name
    if base not in shipped_names():
        raise ConfigError(
            f"scenario {name!r} is unknown; there are {', '.join(shipped_names())},"
            " each also with a number of routers: kill@3"
        )
    scenario = load_scenario(_FOLDER.joinpath(f"{base}.toml").read_text("utf-8"), base)
    return scenario.with_routers(int(match[2])) if match else scenario
