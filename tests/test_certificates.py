"""Certificate files: how they are made, and which of them are refused before anything is served."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from edge_node.server import http_config
from edge_node.settings import EdgeSettings
from offramp.errors import ConfigError
from offramp.serving.access import authority as authority_module
from offramp.serving.access.authority import Authority, write
from offramp.serving.access.certificates import CertificateFiles, read_certificates
from offramp.serving.access.settings import warn_if_open
from tests.commands import offramp
from tests.test_tls import issued


class TestFiles:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        Authority.made(1).keep(tmp_path)
        issued(tmp_path, "edge")
        issued(tmp_path, "other")
        return tmp_path

    def files(self, directory: Path, certificate: str = "edge", key: str = "edge") -> CertificateFiles:
        return CertificateFiles(certificate=directory / f"{certificate}.pem", key=directory / f"{key}.key")

    def test_a_key_of_another_certificate_is_refused(self, directory: Path) -> None:
        with pytest.raises(ConfigError, match="is not the key of"):
            read_certificates(self.files(directory, key="other"))

    def test_a_key_that_others_may_read_is_refused(self, directory: Path) -> None:
        (directory / "edge.key").chmod(0o640)
        with pytest.raises(ConfigError, match="chmod 600"):
            read_certificates(self.files(directory))

    @pytest.mark.parametrize(("shift", "days", "says"), [(3, -1, "expired"), (-1, 5, "not valid yet")])
    def test_a_certificate_outside_its_time_is_refused(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, shift: int, days: int, says: str
    ) -> None:
        monkeypatch.setattr(authority_module, "_BEFORE", timedelta(days=shift))
        made = Authority.made(9)
        certificate, key = made.issue("edge", (), days=days)
        write(directory / "edge.pem", certificate)
        write(directory / "edge.key", key, secret=True)
        with pytest.raises(ConfigError, match=says):
            read_certificates(self.files(directory))

    def test_half_a_file_or_one_alone_or_none_is_refused(self, directory: Path) -> None:
        whole = (directory / "edge.pem").read_bytes()
        (directory / "edge.pem").write_bytes(whole[:100])
        with pytest.raises(ConfigError, match="not a whole certificate"):
            read_certificates(self.files(directory))
        with pytest.raises(ConfigError, match="without its key"):
            read_certificates(CertificateFiles(certificate=directory / "other.pem"))
        with pytest.raises(ConfigError, match="cannot be read"):
            read_certificates(self.files(directory, "none"))

    def test_an_edge_with_a_certificate_that_does_not_fit_does_not_start(self, directory: Path) -> None:
        more = {"tls_cert": directory / "edge.pem", "tls_key": directory / "other.key"}
        with pytest.raises(ConfigError, match="is not the key of"):
            http_config(lambda: None, EdgeSettings(bundle=directory, **more))  # type: ignore[arg-type]


def test_certs_keeps_what_is_there_and_renews_what_is_named(tmp_path: Path) -> None:
    offramp("certs", str(tmp_path), "--node", "edge")
    first = (tmp_path / "edge.pem").read_bytes(), (tmp_path / "ca.pem").read_bytes()
    offramp("certs", str(tmp_path), "--node", "edge", "--node", "cloud=10.0.0.7")
    assert ((tmp_path / "edge.pem").read_bytes(), (tmp_path / "ca.pem").read_bytes()) == first
    offramp("certs", str(tmp_path), "--node", "edge", "--renew")
    assert (tmp_path / "edge.pem").read_bytes() != first[0]
    assert (tmp_path / "ca.pem").read_bytes() == first[1]
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.glob("*.key"))


def test_a_node_that_listens_for_everybody_says_so() -> None:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("offramp.serving.access")
    logger.addHandler(handler)
    try:
        settings = EdgeSettings(bundle=Path("x"))
        warn_if_open(settings, "127.0.0.1")
        assert heard == []
        warn_if_open(settings, "0.0.0.0")
    finally:
        logger.removeHandler(handler)
    assert "EDGE_TLS_CERT" in heard[0] and "EDGE_KEYS" in heard[1]
