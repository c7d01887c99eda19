"""A publisher's signature beside a model: read at each scan, advertised only where it is of the files that are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from capamesh.cli.__main__ import run
from capamesh.node.repository import scan, signature
from capamesh.protocol.identity import Identity
from capamesh.protocol.publishing import is_signed, publisher_of

SAMPLES = Path(__file__).parents[4] / "cli/src/capamesh/cli/samples/models"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLES, tmp_path / "models")
    shutil.copy(SAMPLES / "digits/1/model.onnx", tmp_path / "models/bare.onnx")
    return tmp_path / "models"


def signed(models: Path, name: str) -> tuple[bytes, str]:
    (source,) = [each for each in scan(models).models if each.name == name]
    assert is_signed(source.signed, name, source.version, source.digest) is bool(source.signed)
    return source.signed, " ".join(source.notes)


def sign(models: Path, key: Path, *options: str) -> int:
    return run(["model", "sign", str(models), "--key", str(key), *options])


def test_signature_is_advertised_and_leaves_the_digest_as_it_is(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {source.name: source.digest for source in scan(models).models}
    key = tmp_path / "publisher.key"
    assert sign(models, key) == 1
    assert "--create-key makes" in capsys.readouterr().err
    assert sign(models, key, "--create-key") == 0
    publisher = Identity.load(key).peer_id
    reported = capsys.readouterr()
    assert f"--publisher {publisher}" in reported.err
    for name in ("digits", "breast_cancer", "bare"):
        assert signed(models, name)[0]
    assert {source.name: source.digest for source in scan(models).models} == before
    assert (models / "bare.capamesh.sig").exists()


def test_signature_of_other_files_is_not_advertised_and_said(models: Path, tmp_path: Path) -> None:
    sign(models, tmp_path / "publisher.key", "--create-key")
    shutil.copy(SAMPLES / "breast_cancer/1/model.onnx", models / "digits/1/model.onnx")
    found, note = signed(models, "digits")
    assert found == b""
    assert "capamesh.sig has no good signature of version 1" in note
    assert sign(models, tmp_path / "publisher.key") == 0
    assert signed(models, "digits")[0]


@pytest.mark.parametrize("content", [b"junk\n", b"\xff\xfe", b"# only words\n", b""])
def test_damaged_file_of_signatures_hides_no_model(models: Path, content: bytes) -> None:
    (models / "digits/capamesh.sig").write_bytes(content)
    found, note = signed(models, "digits")
    assert found == b""
    assert ("is not used" in note) is (b"#" not in content and bool(content))


def test_link_out_of_the_models_folder_is_not_followed(models: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1 d p s\n")
    (models / "digits/capamesh.sig").symlink_to(tmp_path / "secret")
    assert "capamesh.sig is not used" in signed(models, "digits")[1]


def test_all_publishers_signatures_are_advertised_and_verified_once_for_a_file(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [tmp_path / f"{number}.key" for number in range(5)]
    for key in keys:
        assert sign(models, key, "--create-key") == 0
    first = scan(models)
    (source,) = [each for each in first.models if each.name == "digits"]
    publishers = {publisher_of(each) for each in (source.signed, *source.also_signed)}
    assert len(publishers) == 4
    assert publishers < {Identity.load(key).peer_id for key in keys}

    def unasked(*_: object) -> bool:
        raise AssertionError("verified again")

    monkeypatch.setattr(signature, "is_signed", unasked)
    monkeypatch.setattr(signature, "read_signatures", unasked)
    (again,) = [each for each in scan(models, before=first).models if each.name == "digits"]
    assert again == source
