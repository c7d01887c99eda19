"""The files of a router's certificate: what is taken, what is refused and why, and when they are read again."""

from __future__ import annotations

import datetime as dt
import re
import ssl
import time
from pathlib import Path

import pytest
from certificates import Authority

from capamesh.protocol.errors import ConfigError
from capamesh.router.http.tls_files import MAX_FILE_BYTES, ServerTls, TlsFiles, load


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_context_is_of_tls_1_2_and_later_with_forward_secrecy(authority: Authority) -> None:
    context = load(authority.server()).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert context.options & ssl.OP_NO_RENEGOTIATION
    older = [each["name"] for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"]
    assert older
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "CHACHA" in name) for name in older)


def test_file_that_cannot_be_used_is_refused_with_its_name(
    authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("one")
    other_certificate, other_key = authority.issue("other")
    junk, large, gone = (tmp_path / name for name in ("junk", "large", "gone"))
    junk.write_text("junk")
    large.write_bytes(bytes(MAX_FILE_BYTES + 1))
    _, locked = authority.issue("locked", password=b"secret")
    for files, said in (
        (TlsFiles(gone, key), f"--tls-cert {gone} does not exist"),
        (TlsFiles(certificate, gone), f"--tls-key {gone} does not exist"),
        (TlsFiles(tmp_path, key), f"cannot read --tls-cert {tmp_path}: Is a directory"),
        (TlsFiles(large, key), f"--tls-cert {large} has over {MAX_FILE_BYTES}"),
        (TlsFiles(junk, key), f"{junk} holds no certificate: give a file of certificates as PEM"),
        (
            TlsFiles(certificate, other_key),
            f"--tls-key {other_key} is not the key of --tls-cert {certificate}",
        ),
        (TlsFiles(certificate, junk), "cannot be used"),
        (TlsFiles(certificate, locked), "without a password"),
        (
            TlsFiles(other_certificate, other_key, junk),
            f"--tls-client-ca {junk} holds no certificate: give a file of authorities as PEM",
        ),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            load(files)


def test_pair_that_cannot_be_used_is_told_once_and_the_one_before_goes_on(
    authority: Authority,
) -> None:
    files = authority.server()
    tls = ServerTls(files, time.time)
    first = tls.context
    certificate, key = authority.issue("next")
    certificate.replace(files.certificate)  # and its key a moment later
    with pytest.raises(ConfigError, match="is not the key of"):
        tls.look()
    assert not tls.look()
    assert (tls.context is first, tls.is_refused) == (True, True)
    key.replace(files.key)
    assert tls.look()
    assert (tls.context is first, tls.is_refused) == (False, False)


def test_certificate_that_has_expired_does_not_take_the_place_of_another(
    authority: Authority,
) -> None:
    files = authority.server()
    tls = ServerTls(files, time.time)
    certificate, key = authority.issue("old", dt.timedelta(hours=-1))
    certificate.replace(files.certificate)
    key.replace(files.key)
    with pytest.raises(ConfigError, match="has expired"):
        tls.look()
    assert not tls.is_expired
    assert ServerTls(files, time.time).is_expired  # at a start there is no other
