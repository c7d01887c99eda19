from __future__ import annotations

import stat
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from capamesh.protocol.errors import ConfigError, KeyExposed
from capamesh.protocol.network import NETWORK_FILE, OWNER_KEY_FILE, NetworkOwner, Role

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Network

DAY = timedelta(days=1)


def test_invite_must_expire_later_than_now(home: Network) -> None:
    for expires_at in (home.now, home.now - DAY, home.now + timedelta(milliseconds=900)):
        with pytest.raises(ConfigError, match="of no use at"):
            home.owner.invite(Role.NODE, expires_at=expires_at, bootstrap=(), now=home.now)


def test_times_need_a_time_zone(home: Network) -> None:
    naive = home.now.replace(tzinfo=None)
    with pytest.raises(ConfigError, match="has no time zone"):
        NetworkOwner.create("home", naive)
    with pytest.raises(ConfigError, match="the expiry 2027-03-01T12:00:00 has no time zone"):
        home.owner.invite(Role.NODE, expires_at=naive, bootstrap=(), now=home.now)


@pytest.mark.parametrize("name", ["", " home", "home ", "ho\nme", "é" * 33, "a" * 65, "\ud800"])
def test_network_needs_a_printable_name_of_64_bytes_at_most(home: Network, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a network: use 1 to 64 bytes"):
        NetworkOwner.create(name, home.now)
    for kept in ("a", "é" * 32, "My network, 2027 = CN/O"):
        assert NetworkOwner.create(kept, home.now).name == kept


def test_saved_owner_loads_again_with_a_key_for_itself_alone(home: Network, tmp_path: Path) -> None:
    folder = tmp_path / "owner"
    home.owner.save(folder)
    home.owner.save(folder)
    loaded = NetworkOwner.load(folder)
    assert loaded == home.owner
    assert loaded.private_key.private_bytes_raw() == home.owner.private_key.private_bytes_raw()
    assert stat.S_IMODE((folder / OWNER_KEY_FILE).stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["network.pem", "owner.key"]
    assert repr(loaded) == f"NetworkOwner(network_id={loaded.network_id!r}, name='home')"
    (folder / OWNER_KEY_FILE).chmod(0o644)
    with pytest.raises(KeyExposed, match=r"owner's key .*owner\.key has mode 0644.*chmod 600"):
        NetworkOwner.load(folder)


def test_owners_key_is_never_overwritten(home: Network, stranger: Network, tmp_path: Path) -> None:
    home.owner.save(tmp_path)
    with pytest.raises(
        ConfigError,
        match=rf"owner\.key already holds another network's owner, that of {home.owner.network_id}: choose",
    ):
        stranger.owner.save(tmp_path)
    assert NetworkOwner.load(tmp_path) == home.owner


def test_missing_damaged_and_mixed_files_are_named(
    home: Network, stranger: Network, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"owner\.key does not exist"):
        NetworkOwner.load(tmp_path)
    home.owner.save(tmp_path)
    (tmp_path / NETWORK_FILE).unlink()
    with pytest.raises(ConfigError, match=r"network\.pem does not exist"):
        NetworkOwner.load(tmp_path)
    (tmp_path / NETWORK_FILE).write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"network\.pem is damaged: it holds no PEM"):
        NetworkOwner.load(tmp_path)
    stranger.owner.save(tmp_path / "other")
    (tmp_path / NETWORK_FILE).write_bytes((tmp_path / "other" / NETWORK_FILE).read_bytes())
    with pytest.raises(
        ConfigError,
        match=rf"owner\.key is not the key of .*network\.pem: it is of the network {home.owner.network_id}, "
        f"the certificate of {stranger.owner.network_id}; restore",
    ):
        NetworkOwner.load(tmp_path)
