"""`python3 /probe.py edge`, `cloud` or `dashboard`: whether this container answers. It runs often, so it is light."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from pathlib import Path

_TIMEOUT_S = 2


def edge() -> None:
    """Ask whether an edge node is ready."""
    _ask("EDGE", "/readyz")


def dashboard() -> None:
    """Ask whether the dashboard lives."""
    _ask("DASHBOARD", "/healthz")


def cloud() -> None:
    """Ask whether a cloud node serves."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    address, certificate = f"127.0.0.1:{os.environ['CLOUD_PORT']}", os.environ.get("CLOUD_TLS_CERT")
    if certificate:
        # The node's own certificate is good for asking, too, and names 127.0.0.1 if `offramp certs` made it.
        files = os.environ.get("CLOUD_TLS_CLIENT_CA", certificate), os.environ["CLOUD_TLS_KEY"], certificate
        credentials = grpc.ssl_channel_credentials(*(Path(file).read_bytes() for file in files))
        channel = grpc.secure_channel(address, credentials)
    else:
        channel = grpc.insecure_channel(address)
    found = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
    if found.status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit("not serving")


def _ask(prefix: str, path: str) -> None:
    port, certificate = os.environ[f"{prefix}_PORT"], os.environ.get(f"{prefix}_TLS_CERT")
    trusted = ssl.create_default_context()
    trusted.check_hostname, trusted.verify_mode = False, ssl.CERT_NONE  # it asks its own container
    if certificate and os.environ.get(f"{prefix}_TLS_CLIENT_CA"):
        trusted.load_cert_chain(certificate, os.environ[f"{prefix}_TLS_KEY"])
    url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}{path}"
    urllib.request.urlopen(url, timeout=_TIMEOUT_S, context=trusted)


if __name__ == "__main__":
    {"edge": edge, "cloud": cloud, "dashboard": dashboard}[sys.argv[1]]()
