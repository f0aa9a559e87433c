"""The settings that all nodes share. docs/settings.md is generated from these fields."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import CliPositionalArg

from offramp.bundle import Bundle, load_bundle
from offramp.bundle.manifest import Payload
from offramp.bundle.signature import read_trusted
from offramp.command import variable_of
from offramp.engine.images import DEFAULT_LIMITS, ImageLimits
from offramp.engine.runtime import Runtime
from offramp.serving.access.certificates import CertificateFiles
from offramp.serving.access.settings import AccessSettings, File
from offramp.serving.decoding.decoders import DecodingLimits
from offramp.serving.listening import Host
from offramp.wire.messages import TIER_NAME


def _block_range(text: str) -> str:
    found = re.fullmatch(r"([0-9]{1,4})-([0-9]{1,4})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError("not a range of blocks; write FIRST-LAST, such as 1-2, both included")
    return text


def _target(text: str) -> str:
    addresses = re.sub(r"^(dns:///|dns:|ipv4:|ipv6:)", "", text).split(",")
    ports = [
        re.fullmatch(r"[^\s/:]+:([0-9]{1,5})|\[[0-9a-fA-F:.]+\]:([0-9]{1,5})", each) for each in addresses
    ]
    if not all(port and 1 <= int(port[1] or port[2]) <= 65535 for port in ports):
        raise ValueError("not an address; write HOST:PORT, or dns:///NAME:PORT for several replicas")
    return text


def _cores() -> int:
    """How many cores this process may use; fewer than there are under taskset or in a cpuset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class NodeSettings(AccessSettings):
    """Settings that both kinds of node share. Durations are in seconds, unless the name ends in another unit."""

    bundle: CliPositionalArg[Path] = Field(description="directory of the bundle to serve")
    trusted_keys: File | None = Field(
        default=None,
        description="public keys, in PEM, one of which has to have signed the bundle; see `offramp sign`",
    )
    config: Path | None = Field(default=None, description="TOML file with settings, such as port = 8000")
    host: Host = Field(
        default="127.0.0.1", description="address to listen on; :: is every one, of both IP versions"
    )
    port: int = Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")
    tier: str = Field(pattern=TIER_NAME, description="name of this tier in answers and logs")
    blocks: Annotated[str, AfterValidator(_block_range)] | None = Field(
        default=None,
        description="blocks to run, FIRST-LAST, both included (default: all; at an edge with an upstream, those before "
        "the split point)",
    )
    upstream: Annotated[str, AfterValidator(_target)] | None = Field(
        default=None, description="HOST:PORT of the next tier, or dns:///NAME:PORT for several replicas of it"
    )
    upstream_health_check: bool = Field(
        default=True,
        description="stop using an address of the upstream while it reports that it is draining; "
        "turn this off behind a proxy",
    )
    upstream_tls_ca: File | None = Field(
        default=None,
        description="authority, in PEM, that has to have signed the upstream's certificate; with it, the connection is "
        "encrypted",
    )
    upstream_tls_cert: File | None = Field(
        default=None, description="certificate to show to the upstream, in PEM; read again when it changes"
    )
    upstream_tls_key: File | None = Field(default=None, description="private key of that certificate, in PEM")
    upstream_tls_name: str | None = Field(
        default=None,
        min_length=1,
        description="name in the upstream's certificate, if it is not that of its address",
    )
    upstream_api_key: File | None = Field(
        default=None, description="file with the API key to show to an upstream that asks for one"
    )
    offload_timeout_s: float = Field(
        default=1.0, gt=0, description="longest wait for the upstream; after that the answer is degraded"
    )
    offload_window_ms: float = Field(
        default=10.0,
        ge=0,
        le=1000,
        description="longest that an offloaded sample waits for others to share its call, while others are under way",
    )
    payload: Payload | None = Field(
        default=None,
        description="what a sample goes upstream as. exact: as its feature, the photo as it came, or the network's "
        "picture without loss, whichever is smallest. feature: never as a picture. jpeg-N, webp-N: as the network's "
        "picture with quality N (default: the bundle's)",
    )
    workers: int = Field(
        default_factory=_cores,
        ge=1,
        le=256,
        description="threads for slow blocks; fast ones run on the event loop (default: one per core it may use)",
    )
    runtime: Runtime = Field(default="onnx", description="library that runs the blocks")
    threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="threads that work on one block together; with torch, threads of the whole process",
    )
    max_pending: int = Field(
        default=256,
        ge=1,
        description="most requests in progress; further ones are refused at once (503 or RESOURCE_EXHAUSTED)",
    )
    max_pixels: int = Field(
        default=DEFAULT_LIMITS.max_pixels, ge=1, description="most pixels in one request, all images together"
    )
    decoders: int = Field(
        default_factory=lambda: min(max(2, _cores()), 8),
        ge=1,
        le=256,
        description="processes that decode images of more than 512 x 512 pixels; smaller ones are decoded on the event "
        "loop (default: one per core it may use, at least 2 and at most 8)",
    )
    decode_timeout_s: float = Field(
        default=5.0,
        gt=0,
        description="longest time to decode the images of one request; after that it is refused",
    )
    max_decoding_pixels: int = Field(
        default=25_000_000,
        ge=1,
        description="most pixels of large images that are decoded at the same time; a request that has more is decoded "
        "alone",
    )
    max_waiting_pixels: int = Field(
        default=1_000_000_000,
        ge=1,
        description="most pixels of images that wait to be decoded; more are refused at once (503 or "
        "RESOURCE_EXHAUSTED)",
    )
    max_batch: int = Field(
        default=32,
        ge=1,
        description="most samples in a batch of several waiting requests; where larger ones gain nothing, fewer",
    )
    batch_window_ms: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="how long a request is held back so that others can share its batch",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="where to send traces, such as http://127.0.0.1:4318/v1/traces; needs the extra otel",
    )
    trace_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of requests to trace, 0 to 1; a request that its caller traces is always traced",
    )
    drain_s: float = Field(
        default=0.5,
        ge=0,
        description="how long a stopping node says that it is not ready, and still answers, before it stops listening",
    )
    grace_s: float = Field(
        default=5.0,
        gt=0,
        description="how long a stopping node waits for requests in progress to finish",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least severe log lines to write"
    )

    @property
    def upstream_certificate_files(self) -> CertificateFiles:
        """The files for an encrypted connection to the upstream."""
        return CertificateFiles(
            certificate=self.upstream_tls_cert, key=self.upstream_tls_key, authority=self.upstream_tls_ca
        )

    @property
    def image_limits(self) -> ImageLimits:
        """The limits on the images of one request."""
        return ImageLimits(max_pixels=self.max_pixels, setting=self.variable("max_pixels"))

    def load_bundle(self) -> Bundle:
        """Read and verify the bundle to serve, and who signed it if that matters.

        Raises:
            ConfigError: the file of trusted keys cannot be read.
            BundleError: as `offramp.bundle.load_bundle` raises it.
        """
        trusted = () if self.trusted_keys is None else read_trusted(self.trusted_keys)
        return load_bundle(self.bundle, trusted=trusted)

    @property
    def decoding_limits(self) -> DecodingLimits:
        """The limits on what is decoded in processes of its own."""
        return DecodingLimits(
            processes=self.decoders,
            timeout_s=self.decode_timeout_s,
            large_pixels=self.max_decoding_pixels,
            waiting_pixels=self.max_waiting_pixels,
            max_pixels=self.max_pixels,
            settings=(self.variable("decode_timeout_s"), self.variable("max_waiting_pixels")),
        )

    def variable(self, name: str) -> str:
        """The environment variable of a setting of this node, for errors that are about its limit."""
        return variable_of(type(self), name)
