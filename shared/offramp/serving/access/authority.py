"""An authority of one's own for the certificates of a cluster: everything that TLS between our nodes needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from offramp.errors import ConfigError
from offramp.serving.access.certificates import private_file

_BEFORE = timedelta(minutes=5)  # clocks differ


@dataclass(frozen=True)
class Authority:
    """Signs the certificates of nodes."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def made(cls, days: int) -> Authority:
        """A new one, valid for `days`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Offramp cluster authority")])
        builder = _builder(name, name, key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def kept_in(cls, directory: Path) -> Authority | None:
        """The one that was kept in a directory; None if there is none.

        Raises:
            ConfigError: its files are damaged, or others may read its key.
        """
        files = directory / "ca.pem", directory / "ca.key"
        if not any(file.exists() for file in files):
            return None
        try:
            key = load_pem_private_key(private_file(files[1]), password=None)
            certificate = x509.load_pem_x509_certificate(files[0].read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{directory} has no whole authority: {error}; copy ca.pem and ca.key again, or name an empty directory"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{files[1]} is a key of another kind; name a directory that this command made")
        return cls(certificate, key)

    def keep(self, directory: Path) -> None:
        """Write `ca.pem` and `ca.key` into a directory."""
        write(directory / "ca.key", _private(self.key), secret=True)
        write(directory / "ca.pem", self.certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, addresses: tuple[str, ...], *, days: int) -> tuple[bytes, bytes]:
        """A certificate for a node and its key, both as PEM; it is good for serving and for asking.

        Args:
            name: of the node; it becomes the common name, and one of its addresses.
            addresses: host names and IP addresses under which others reach it.
            days: how long it is valid, but never longer than the authority.

        Raises:
            ConfigError: a name or address that a certificate cannot have.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            shown = x509.SubjectAlternativeName(
                [_address(each) for each in dict.fromkeys((name, *addresses))]
            )
        except ValueError as error:
            raise ConfigError(
                f"'{name}' or one of {', '.join(addresses)} is not a name: {error}; write host names or addresses"
            ) from error
        builder = _builder(
            subject, self.certificate.subject, key, days, latest=self.certificate.not_valid_after_utc
        )
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signs_certificates=False), True),
            (
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                False,
            ),
            (shown, False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        signed = builder.sign(self.key, hashes.SHA256())
        return signed.public_bytes(Encoding.PEM), _private(key)


def write(file: Path, data: bytes, *, secret: bool = False) -> None:
    """Write a file whole or not at all; a secret one can be read by its owner only.

    Raises:
        ConfigError: it cannot be written.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            written.write(data)
        beside.chmod(0o600 if secret else 0o644)
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{file} cannot be written: {error.strerror}; name another directory") from error


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    *,
    latest: datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    until = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(min(until, latest) if latest else until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
