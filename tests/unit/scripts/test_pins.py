"""The pins of the images: what Dockerfile installs is there for the builder, and files that are installed one upon the other agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "requirements"
UPON_RUNTIME = {
    "router": {"psycopg", "psycopg-binary", "pyarrow", "obstore"},
    "tasks": {"pillow", "tokenizers"},
}
"""The files that images install upon `runtime`, and what some of their packages are."""


def pins(name: str) -> dict[str, str]:
    """Return the versions in a file by package and by where it is for."""
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    found = re.findall(r"^([a-z0-9-]+)==([^ ;]+)( ;[^\\]*)?", text, re.MULTILINE)
    return {package + marker.strip(): version for package, version, marker in found}


@pytest.mark.parametrize("name", UPON_RUNTIME)
def test_file_that_is_installed_upon_another_has_its_pins_and_more(name: str) -> None:
    base, more = pins("runtime"), pins(name)
    assert {package: more.get(package) for package in base} == base
    assert {each.split(";")[0] for each in more} >= UPON_RUNTIME[name]


def test_builder_is_given_the_files_that_images_install() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    used = set(re.findall(r"requirements/([a-z]+)\.txt", dockerfile))
    given = set(
        re.findall(
            r"^!requirements/([a-z]+)\.txt$", (ROOT / ".dockerignore").read_text(), re.MULTILINE
        )
    )
    assert used == given
    assert {"runtime", "build", *UPON_RUNTIME} <= used


def test_build_of_the_wheel_has_the_pins_of_the_runtime_where_both_have_one() -> None:
    runtime, build = pins("runtime"), pins("build")
    assert runtime.keys() & build.keys() > set()
    assert {package: build[package] for package in runtime.keys() & build.keys()} == {
        package: runtime[package] for package in runtime.keys() & build.keys()
    }


def test_file_for_postgresql_adds_to_services_that_are_there() -> None:
    whole = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    added = yaml.safe_load((ROOT / "deploy/compose/postgres.yml").read_text())
    assert added["services"].keys() - whole["services"].keys() == {"postgres"}
    router, database = added["services"]["router"], added["services"]["postgres"]
    place = router["environment"]["CAPAMESH_KEYS"]
    told = database["environment"]
    assert place == f"postgresql://{told['POSTGRES_USER']}@postgres/{told['POSTGRES_DB']}"
    assert "PASSWORD" in router["environment"]["PGPASSWORD"]
    assert router["environment"]["PGPASSWORD"] == told["POSTGRES_PASSWORD"]
    assert {each.split(":")[0] for each in database["volumes"]} == added["volumes"].keys()
