"""The channel to an upstream: where it leads, which replica gets a call, and when a call is made again."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
from pydantic import Field

from offramp.record import Record
from offramp.serving.access.certificates import CertificateFiles, Certificates
from offramp.serving.access.tls import channel_credentials
from offramp.wire.messages import KEEPALIVE_S, MAX_MESSAGE_BYTES, MESSAGE_OPTIONS, SERVICE_NAME

# Leaves out a replica that answers none of its calls while another does: gRFC A50. Refusals count as failures there, so
# a replica that is merely overloaded must not reach the threshold.
_OUTLIERS = {
    "interval": "0.5s",
    "baseEjectionTime": "3s",
    "maxEjectionTime": "10s",
    "maxEjectionPercent": 50,
    "failurePercentageEjection": {
        "threshold": 99,
        "enforcementPercentage": 100,
        "minimumHosts": 2,
        "requestVolume": 3,
    },
    "childPolicy": [{"round_robin": {}}],
}
# Infer is pure, so a call that may not have reached its server can safely be sent again. That is UNAVAILABLE only.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"outlier_detection_experimental": _OUTLIERS}],
    "methodConfig": [
        {
            "name": [{"service": SERVICE_NAME, "method": method} for method in ("Infer", "Describe")],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
# Makes the channel leave a draining replica; round-robin takes the next one.
_HEALTH_CHECK = {"healthCheckConfig": {"serviceName": SERVICE_NAME}}
_CHANNEL_OPTIONS = [
    *MESSAGE_OPTIONS,
    # A cloud that comes back is found within a second, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 700),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A replica with a new address is found within a second, not after half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]


def channel_options(
    *, health_check: bool = True, max_answer_bytes: int = MAX_MESSAGE_BYTES
) -> list[tuple[str, str | int]]:
    """Options of a channel to an upstream: round-robin over its addresses, safe retries, limits."""
    config = {**_SERVICE_CONFIG, **(_HEALTH_CHECK if health_check else {})}
    return [
        *_CHANNEL_OPTIONS,
        ("grpc.max_receive_message_length", max_answer_bytes),
        ("grpc.service_config", json.dumps(config)),
    ]


class UpstreamSettings(Record):
    """Where an upstream is, and how it is called and probed."""

    target: str = Field(min_length=1, description="HOST:PORT, or dns:///NAME:PORT for several replicas")
    certificates: CertificateFiles = Field(
        default=CertificateFiles(), description="with any, the connection is encrypted"
    )
    certificate_name: str | None = Field(
        default=None, description="name in the upstream's certificate, if it is not that of its address"
    )
    api_key: Path | None = Field(default=None, description="file with the API key to show")
    # A connection that answers nothing is given up, and a new one made. Otherwise, after an outage, TCP would wait as
    # long again before it sends anything.
    keepalive_s: float = Field(default=KEEPALIVE_S, gt=0, description="how often an idle connection is tried")
    keepalive_timeout_s: float = Field(
        default=2.0,
        gt=0,
        description="how long a connection may answer nothing, or not confirm what was sent",
    )
    health_check: bool = Field(
        default=True,
        description="whether the channel watches the health of each address, and requests may share a stream; turn it "
        "off behind a proxy: one draining replica would answer for all, and a stream would keep to one replica",
    )
    failures_to_open: int = Field(default=3, ge=1)
    probe_interval_s: float = Field(default=0.5, gt=0)
    probe_interval_max_s: float = Field(default=4.0, gt=0)
    probe_timeout_s: float = Field(default=2.0, gt=0)
    refresh_s: float = Field(
        default=5.0, gt=0, description="how often an upstream with a tier behind it is asked how that is"
    )


def opened_channel(
    settings: UpstreamSettings, certificates: Certificates | None, max_answer_bytes: int
) -> grpc.aio.Channel:
    """A channel to an upstream, encrypted with these certificates if there are any."""
    options = [
        *channel_options(health_check=settings.health_check, max_answer_bytes=max_answer_bytes),
        ("grpc.keepalive_time_ms", round(1000 * settings.keepalive_s)),
        ("grpc.keepalive_timeout_ms", round(1000 * settings.keepalive_timeout_s)),
        ("grpc.http2.ping_timeout_ms", round(1000 * settings.keepalive_timeout_s)),
    ]
    if certificates is None:
        return grpc.aio.insecure_channel(settings.target, options=options)
    if settings.certificate_name:
        options.append(("grpc.ssl_target_name_override", settings.certificate_name))
    return grpc.aio.secure_channel(settings.target, channel_credentials(certificates), options=options)
