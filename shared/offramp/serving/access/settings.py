"""The settings about encryption and access, for everything that listens."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from offramp.command import Command, Texts, variable_of
from offramp.logs import line
from offramp.serving.access.access import AccessFiles
from offramp.serving.access.certificates import CertificateFiles
from offramp.serving.access.hosts import AllowedHosts

_log = logging.getLogger("offramp.serving.access")


def _named(file: Path) -> Path:
    if file == Path():
        raise ValueError("not a file; name one, or leave the setting out")
    return file


File = Annotated[Path, AfterValidator(_named)]
_Name = Annotated[str, Field(min_length=1)]


class DoorSettings(Command):
    """Settings of whatever answers over HTTP."""

    tls_cert: File | None = Field(
        default=None,
        description="certificate to show, in PEM; with it, only encrypted connections are taken. It is read again when "
        "it changes",
    )
    tls_key: File | None = Field(default=None, description="private key of that certificate, in PEM")
    allowed_hosts: Texts = Field(
        default=(),
        description="names by which this is addressed, besides IP addresses and local names, separated by commas; web "
        "pages of these hosts may use it too, and `*` allows all. Other names could be those of foreign pages",
    )

    @property
    def certificate_files(self) -> CertificateFiles:
        """The files of the certificate to show; none if connections are not encrypted."""
        return CertificateFiles(certificate=self.tls_cert, key=self.tls_key)

    @property
    def hosts(self) -> AllowedHosts:
        """The names by which this is addressed."""
        return AllowedHosts(self.allowed_hosts)


class AccessSettings(DoorSettings):
    """Settings of nodes: who may do what."""

    keys: File | None = Field(
        default=None,
        description="file of API keys, made by `offramp keys`; with it, nobody gets in without one. It is read again "
        "when it changes",
    )
    token_keys: File | None = Field(
        default=None,
        description="public keys that sign tokens (JWT), as a JWK Set or one in PEM; a token's claim `scope` has its "
        "rights: ask, watch, change",
    )
    token_issuer: _Name | None = Field(default=None, description="what a token's claim `iss` has to be")
    token_audience: _Name | None = Field(
        default=None, description="what a token's claim `aud` has to be, or contain"
    )
    tls_client_ca: File | None = Field(
        default=None,
        description="authority, in PEM, that has to have signed the certificate that each client shows; needs tls_cert",
    )

    @property
    def certificate_files(self) -> CertificateFiles:
        """The files of the certificate to show, and of the authority of clients."""
        return CertificateFiles(certificate=self.tls_cert, key=self.tls_key, authority=self.tls_client_ca)

    @property
    def access_files(self) -> AccessFiles:
        """What callers are known by."""
        return AccessFiles(
            keys=self.keys,
            token_keys=self.token_keys,
            token_issuer=self.token_issuer,
            token_audience=self.token_audience,
        )


def warn_if_open(settings: AccessSettings, host: str) -> None:
    """Say in the log what anybody who reaches this address can do, and which setting would stop them."""
    warn_if_not_encrypted(settings, host)
    if not _is_local(host) and not (settings.keys or settings.token_keys or settings.tls_client_ca):
        detail = "whoever reaches this address may ask, watch and change; a file of keys says who may"
        _log.warning(
            line("open_to_everybody", host=host, setting=variable_of(type(settings), "keys"), detail=detail)
        )


def warn_if_not_encrypted(settings: DoorSettings, host: str) -> None:
    """Say in the log that what is sent to this address can be read on its way, and which setting encrypts it."""
    if settings.tls_cert is None and not _is_local(host):
        detail = "what is sent can be read and changed on its way; a certificate encrypts it"
        _log.warning(
            line("not_encrypted", host=host, setting=variable_of(type(settings), "tls_cert"), detail=detail)
        )


def _is_local(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
