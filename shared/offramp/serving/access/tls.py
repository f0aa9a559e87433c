"""TLS for both front doors and for the channel to the upstream; certificates that change are used without a restart."""

from __future__ import annotations

import logging
import ssl
import time
from tempfile import NamedTemporaryFile

import grpc

from offramp.logs import line
from offramp.serving.access.certificates import CertificateFiles, Certificates, followed
from offramp.serving.access.following import Followed

_log = logging.getLogger("offramp.serving.access")

_SAY_EVERY_S = 1.0


class FollowingContext(ssl.SSLContext):
    """A server's TLS for asyncio that uses, for each new connection, the certificates as they are then."""

    _followed: Followed[Certificates]
    _made: tuple[Certificates, ssl.SSLContext]

    @classmethod
    def of(cls, files: CertificateFiles) -> FollowingContext:
        """A context for these files; with an `authority`, clients have to show a certificate.

        Raises:
            ConfigError: a file is missing or not fit to be used.
        """
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context._followed = followed(files)
        context._made = context._followed.current, _context(context._followed.current)
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection."""
        current = self._followed.current
        if current is not self._made[0]:
            self._made = current, _context(current)
        return self._made[1].wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = _LoggedHandshake
    # ssl reads them from a file only, and the files may have been replaced since they were checked.
    with NamedTemporaryFile() as file:
        file.write((certificates.certificate or b"") + b"\n" + (certificates.key or b""))
        file.flush()
        context.load_cert_chain(file.name)
    if certificates.authority:
        context.load_verify_locations(cadata=certificates.authority.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _LoggedHandshake(ssl.SSLObject):
    """asyncio says nothing about a handshake that fails; this logs the reason, each at most once a second."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            _say(error)
            raise


_said_at: dict[str, float] = {}


def _say(error: ssl.SSLError) -> None:
    reason, now = error.reason or "", time.monotonic()
    if now >= _said_at.get(reason, 0.0) + _SAY_EVERY_S:
        _said_at[reason] = now
        _log.warning(line("tls_refused", reason=_in_words(error)))


def _in_words(error: ssl.SSLError) -> str:
    known = {
        "HTTP_REQUEST": "plain HTTP on a port that speaks TLS; the client has to write https://",
        "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client shows no certificate",
        "TLSV1_ALERT_UNKNOWN_CA": "the client does not know the authority of this node's certificate",
        "CERTIFICATE_VERIFY_FAILED": "the client's certificate is not valid here",
    }
    detail = getattr(error, "verify_message", "") or error.reason or str(error)
    text = known.get(error.reason or "")
    return f"{text} ({detail})" if text else detail


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Credentials of a gRPC server; with an `authority`, callers have to show a certificate.

    Raises:
        ConfigError: a file is missing or not fit to be used.
    """
    certificates = followed(files)
    used = certificates.current

    def configured(found: Certificates) -> grpc.ServerCertificateConfiguration:
        pair = (found.key or b"", found.certificate or b"")
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=found.authority)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        if (found := certificates.current) is used:
            return None
        used = found
        return configured(found)

    return grpc.dynamic_ssl_server_credentials(
        configured(used),
        changed,  # type: ignore[arg-type] # None means that nothing has changed
        require_client_authentication=used.authority is not None,
    )


def channel_credentials(certificates: Certificates) -> grpc.ChannelCredentials:
    """Credentials of a channel; without an `authority`, the system's are trusted."""
    return grpc.ssl_channel_credentials(certificates.authority, certificates.key, certificates.certificate)
