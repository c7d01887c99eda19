from __future__ import annotations

import json
from pathlib import Path

import pytest

from capamesh.cli.home import SETTINGS_FILE, Settings, default_home, hold, keep, recall
from capamesh.protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"CAPAMESH_HOME": "/srv/mesh", "XDG_DATA_HOME": "/x"}, "/srv/mesh"),
        ({"XDG_DATA_HOME": "/x"}, "/x/capamesh"),
        ({"HOME": "/home/ada"}, "/home/ada/.local/share/capamesh"),
    ],
)
def test_home_is_where_this_system_keeps_such_things(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("CAPAMESH_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_home() == Path(folder)


def test_settings_of_the_last_start_are_recalled(tmp_path: Path) -> None:
    assert recall(tmp_path) == Settings()
    settings = Settings(
        "/models", "127.0.0.1:9000", "gpu-1", "127.0.0.1:9100", {"router_mesh": 4001}
    )
    keep(tmp_path / "own", settings)
    assert recall(tmp_path / "own") == settings
    (tmp_path / SETTINGS_FILE).write_text(json.dumps({"models": "/m", "colour": "red"}))
    assert recall(tmp_path) == Settings("/m")  # of a later version


@pytest.mark.parametrize(
    "text", ["", "[]", '{"ports": {"x": 0}}', '{"ports": {"x": 65536}}', '{"models": 3}']
)
def test_damaged_settings_are_refused_by_the_name_of_their_file(tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(ConfigError, match=f"{SETTINGS_FILE} holds no settings.*remove it"):
        recall(tmp_path)


def test_folder_of_a_network_is_one_starts_alone(tmp_path: Path) -> None:
    with hold(tmp_path / "own"):
        with pytest.raises(ConfigError, match="own runs already: stop that with Ctrl-C"):
            hold(tmp_path / "own")
        hold(tmp_path / "other").close()
    hold(tmp_path / "own").close()
