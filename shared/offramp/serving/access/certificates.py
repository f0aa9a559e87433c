"""Certificate files: read, checked, and read again when they change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from offramp.errors import ConfigError
from offramp.serving.access.following import Followed, read_file


@dataclass(frozen=True, kw_only=True)
class CertificateFiles:
    """Where one side of TLS has its certificates, all as PEM.

    certificate: what this side shows, its own first; key: the private key of it; both or neither. authority: signs what
    the other side has to show; None if a server asks for nothing, or a client trusts the system's authorities.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    @property
    def given(self) -> Sequence[Path]:
        """The files there are."""
        return [file for file in (self.certificate, self.key, self.authority) if file]


@dataclass(frozen=True)
class Certificates:
    """The contents of the files: PEM, or None where there is no file."""

    certificate: bytes | None
    key: bytes | None
    authority: bytes | None

    @property
    def name(self) -> str | None:
        """The name that the own certificate shows: its common name."""
        return None if self.certificate is None else common_name(self.certificate)

    @property
    def until(self) -> datetime | None:
        """When the own certificate expires."""
        if self.certificate is None:
            return None
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


def read_certificates(files: CertificateFiles) -> Certificates:
    """Read and check the files.

    Raises:
        ConfigError: a file is missing, damaged, expired or not valid yet, the key belongs to another certificate, or
            other users may read it.
    """
    if (files.certificate is None) != (files.key is None):
        raise ConfigError("a certificate without its key, or a key without its certificate; give both")
    certificate = _pem(files.certificate) if files.certificate else None
    if files.certificate and certificate:
        _check_dates(files.certificate, certificate)
    key = private_file(files.key) if files.key else None
    if files.certificate and files.key and certificate and key:
        _check_pair(files, certificate, key)
    authority = _pem(files.authority) if files.authority else None
    if files.authority and authority:
        _check_dates(files.authority, authority)
    return Certificates(certificate, key, authority)


def private_file(path: Path) -> bytes:
    """The contents of a file that holds a secret.

    Raises:
        ConfigError: it cannot be read, or other users may read it.
    """
    found = read_file(path)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} holds a secret, and other users may read it; run: chmod 600 {path}")
    return found


def common_name(certificate: bytes) -> str | None:
    """The common name of a certificate in PEM; None if it has none."""
    subject = x509.load_pem_x509_certificate(certificate).subject
    names = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else None


def followed(files: CertificateFiles) -> Followed[Certificates]:
    """Certificates that are read again when one of their files changes.

    Raises:
        ConfigError: as `read_certificates`.
    """
    return Followed(files.given, lambda: read_certificates(files), what="certificates")


def _pem(path: Path) -> bytes:
    found = read_file(path)
    try:
        x509.load_pem_x509_certificates(found)
    except ValueError as error:
        raise ConfigError(f"{path} is not a whole certificate in PEM: {error}; copy it again") from error
    return found


def _check_dates(path: Path, pem: bytes) -> None:
    now = datetime.now(UTC)
    for certificate in x509.load_pem_x509_certificates(pem):
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not since <= now <= until:
            raise ConfigError(
                f"{path}: certificate {'expired' if now > until else 'is not valid yet'}: it is valid from {since} to "
                f"{until}, and this machine's clock says {now:%Y-%m-%d %H:%M:%S+00:00}; renew it, or set the clock"
            )


def _check_pair(files: CertificateFiles, certificate: bytes, key: bytes) -> None:
    try:
        public = load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{files.key} is not a private key in PEM without a password: {error}; copy it again"
        ) from error
    shown = x509.load_pem_x509_certificate(certificate).public_key()
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if public.public_bytes(*form) != shown.public_bytes(*form):
        raise ConfigError(
            f"{files.key} is not the key of {files.certificate}; give the two that belong together"
        )
