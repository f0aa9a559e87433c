"""Decides whether an upstream is used: a breaker opens after failures, and a probe closes it again."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace

import grpc

from offramp.bundle.manifest import Codec, Payload
from offramp.engine.payload import Sent, is_lossy
from offramp.errors import BundleMismatchError, ConfigError, OffloadError, OffloadReason, OfframpError
from offramp.logs import line
from offramp.serving.offload.breaker import Breaker
from offramp.serving.offload.client import TierClient
from offramp.serving.offload.offloader import MOST_SAMPLES, Accepts, UpstreamState
from offramp.wire.codec import codec_number
from offramp.wire.messages import BYTES_OF_SAMPLE, MAX_MESSAGE_BYTES, told
from offramp.wire.v1 import wire_pb2 as pb

_log = logging.getLogger("offramp.serving.offload")

# The limit of nodes of a version that does not tell it yet.
_UNTOLD_MAX_PIXELS = 25_000_000
_LOOK_EVERY_S = 1.0  # at the state of the channel, which costs nothing

_NOT_HEARD_YET = Accepts(besides_features=frozenset(), max_pixels=0, max_samples=MOST_SAMPLES)
_BYTES_OF_CALL = 4096  # bundle id, thetas


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a node needs its upstream to serve.

    tier: name of this node's tier, for messages. split_point: first block that the upstream has to run. codec: how
    features are encoded. payload: what samples travel as. feature_bytes: most that one feature takes.
    """

    bundle_id: str
    tier: str
    split_point: int
    codec: Codec
    payload: Payload = "exact"
    feature_bytes: int = 1

    def check(self, found: pb.DescribeResponse, target: str) -> None:
        """Check an upstream's description of itself.

        Raises:
            BundleMismatchError: it runs a different bundle.
            ConfigError: it does not run the block this node splits at, or cannot decode the codec or the payload.
        """
        where = f"{told(found.tier, 80)} at {target}"
        if found.bundle_id != self.bundle_id:
            raise BundleMismatchError(
                f"{self.tier} runs bundle '{self.bundle_id}', {where} runs '{told(found.bundle_id, 200)}'; deploy "
                "the same bundle to both tiers"
            )
        if not found.first_block <= self.split_point <= found.last_block:
            raise ConfigError(
                f"{self.tier} hands over at block {self.split_point}, but {where} runs blocks {found.first_block} "
                f"to {found.last_block}; give one of them other --blocks"
            )
        if codec_number(self.codec) not in found.codecs:
            raise ConfigError(
                f"{self.tier} sends features as {self.codec}, which {where} does not decode; deploy the same version "
                "of Offramp to both tiers"
            )
        if is_lossy(self.payload) and "pixels" not in _besides_features(found):
            reason = (
                f"begins with block {found.first_block}" if found.first_block > 1 else "does not know pixels"
            )
            raise ConfigError(
                f"{self.tier} sends {self.payload} pixels, which go to block 1, but {where} {reason}; let it run all "
                "blocks, in the same version of Offramp, or give --payload exact"
            )


class UpstreamHealth:
    """What is known about an upstream: whether it is in use, and what it accepts."""

    def __init__(self, client: TierClient, wanted: Wanted) -> None:
        """Know nothing yet; `start` asks."""
        self.accepts = _NOT_HEARD_YET
        self._client = client
        self._wanted = wanted
        self._settings = client.settings
        self._breaker = Breaker(failures=self._settings.failures_to_open)
        self._behind: UpstreamState | None = None
        self._answered_at = -math.inf
        self._refreshing: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._probe_delay_s = self._settings.probe_interval_s

    async def start(self) -> None:
        """Ask the upstream what it serves; if it cannot be reached, log a warning and keep probing.

        Raises:
            BundleMismatchError: it runs a different bundle.
            ConfigError: it does not run the block this node splits at, or cannot decode the codec.
        """
        try:
            await self._probe()
        except OffloadError as error:
            self._open(error)
        self._refreshing = asyncio.create_task(self._refresh())

    async def stop(self) -> None:
        """Stop probing."""
        for task in (self._refreshing, self._probing):
            if task:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _refresh(self) -> None:
        """See without traffic, too, that the upstream is lost, and ask now and then how the tier behind it is."""
        asked_at = time.monotonic()
        while True:
            await asyncio.sleep(min(_LOOK_EVERY_S, self._settings.refresh_s))
            is_cut_off = self._client.is_cut_off
            is_due = self._behind and time.monotonic() >= asked_at + self._settings.refresh_s
            if self._breaker.cause or not (is_due or is_cut_off):
                continue
            asked_at = time.monotonic()
            try:
                self._hear(await self._client.describe())
            except OffloadError as error:
                if is_cut_off:
                    self._open(error)
            except OfframpError:
                pass  # calls will say so, too

    @property
    def state(self) -> UpstreamState:
        """Whether the upstream is currently in use."""
        cause = self._breaker.cause
        return UpstreamState(
            self._settings.target,
            cause is None,
            str(cause) if cause else None,
            None if cause else self._behind,
        )

    def check(self) -> None:
        """Check that the upstream may be asked.

        Raises:
            OffloadError: it may not, because it failed before; the error says how.
        """
        if cause := self._breaker.cause:
            raise OffloadError(str(cause), cause.reason)

    def succeeded(self) -> None:
        """A call was answered."""
        self._answered_at = time.monotonic()
        self._breaker.succeeded()

    def heard(self, response: pb.InferResponse) -> None:
        """An answer came; it says whether the tier behind the upstream is lost."""
        if response.HasField("behind"):
            self._behind = _state(response.behind)
        elif self._behind:
            self._behind = replace(self._behind, up=True, reason=None)

    def failed(self, error: OffloadError, begun: float) -> None:
        """A call was not answered; after a few of these the upstream is left alone until it answers a probe.

        It does not count if another call was answered since it had begun, on the clock of `time.monotonic`: then one
        replica fails, and not the upstream.
        """
        if begun > self._answered_at and self._breaker.failed(error):
            self._open(error)

    def _open(self, error: OffloadError) -> None:
        # An upstream that answers probes but not calls is probed less and less often.
        twice = min(2 * self._probe_delay_s, self._settings.probe_interval_max_s)
        self._probe_delay_s = twice if self._breaker.is_on_trial else self._settings.probe_interval_s
        self._breaker.hold_open(error)
        _log.warning(
            line("upstream_lost", upstream=self._settings.target, reason=error.reason, detail=_detail(error))
        )
        if not self._probing or self._probing.done():
            self._probing = asyncio.create_task(self._probe_until_well())

    async def _probe_until_well(self) -> None:
        while True:
            await asyncio.sleep(self._probe_delay_s)
            try:
                await self._probe()
            except OffloadError as error:
                self._breaker.hold_open(error)
            except (BundleMismatchError, ConfigError) as error:
                self._breaker.hold_open(OffloadError(str(error), OffloadReason.MISMATCH))
            except Exception:  # noqa: BLE001 - only probing brings the upstream back, so it must go on
                _log.exception(line("probe_failed", upstream=self._settings.target))
            else:
                _log.info(line("upstream_found", upstream=self._settings.target))
                return

    async def _probe(self) -> None:
        self._hear(await self._client.describe())
        self._breaker.probed()

    def _hear(self, found: pb.DescribeResponse) -> None:
        self._wanted.check(found, self._settings.target)
        self._client.takes_streams = found.streams
        max_bytes = max(1, (found.max_bytes or MAX_MESSAGE_BYTES) - _BYTES_OF_CALL)
        self.accepts = Accepts(
            besides_features=_besides_features(found),
            max_pixels=found.max_pixels or _UNTOLD_MAX_PIXELS,
            max_samples=min(found.max_samples or MOST_SAMPLES, MOST_SAMPLES),
            max_features=max(1, max_bytes // (self._wanted.feature_bytes + BYTES_OF_SAMPLE)),
            max_bytes=max_bytes,
        )
        self._behind = _state(found.behind) if found.HasField("behind") else None


def _besides_features(found: pb.DescribeResponse) -> frozenset[Sent]:
    if found.first_block > 1:
        return frozenset()
    return frozenset({"image", "pixels"} if found.takes_pixels else {"image"})


def _state(behind: pb.Behind) -> UpstreamState:
    reason = None if behind.up else told(behind.reason) or "no reason given"
    return UpstreamState(told(behind.target, 200), behind.up, reason)


def _detail(error: OffloadError) -> str:
    cause = error.__cause__
    return (
        f"{error}: {told(cause.details() or '')}" if isinstance(cause, grpc.aio.AioRpcError) else str(error)
    )
