"""Works out the rows of a plan from what was observed. Shapes: N photos, E exits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offramp.authoring.planning.link import LinkProfile
from offramp.authoring.planning.observed import EXACT, Observed, Sending
from offramp.bundle.manifest import Share
from offramp.engine.payload import PayloadRule
from offramp.record import Record
from offramp.wire.messages import BYTES_OF_CALL, request_bytes

WITHOUT_LOSS = "smallest without loss"
_BYTES_OF_ANSWER = 60  # besides the probabilities


@dataclass(frozen=True)
class Overhead:
    """Milliseconds besides computing, coding and the link: of every request, and of every call to the next tier."""

    request_ms: float = 0.0
    call_ms: float = 0.0


class Row(Record):
    """One split and one way to send, averaged over all photos."""

    split_point: int | None = Field(
        description="first block of the cloud; null if one machine runs all there is"
    )
    sent: str
    serve: str | None = Field(description="options of the edge that serve it so; null if this bundle cannot")
    offload_rate: Share
    offload_bytes: float = Field(description="of an offloaded photo on the socket; 0 if none is")
    request_bytes: float = Field(description="of a request, offloaded or not")
    offload_ms: float | None = Field(description="latency of an offloaded photo; null if none is")
    ms: float = Field(description="latency of a request, offloaded or not")
    accuracy: Share
    cloud_macs: float = Field(description="multiplications of the cloud for a request, offloaded or not")


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What happens to each of N photos: whether it is offloaded, exit and classes, and what that costs."""

    offloaded: NDArray[np.bool_]
    taken: NDArray[np.int64]
    classes: NDArray[np.int64]
    socket_bytes: NDArray[np.float64]
    ms: NDArray[np.float64]
    cloud_macs: NDArray[np.float64]


class Rows:
    """The rows, one after the other: iterate over it."""

    def __init__(
        self,
        observed: Observed,
        thetas: Sequence[float],
        link: LinkProfile,
        truth_N: NDArray[np.int64],
        overhead: Overhead,
    ) -> None:
        self._observed = observed
        self._manifest = observed.manifest
        self._theta_E = np.array([*thetas, 0.0], dtype=np.float32)
        self._link = link
        self._truth_N = truth_N
        self._overhead = overhead
        self._until_ms = observed.block_ms.cumsum()
        self._exit_blocks = np.array(self._manifest.exit_blocks)
        self._until_macs = np.cumsum(
            [block.macs + (block.exit.macs if block.exit else 0) for block in self._manifest.blocks]
        ).astype(np.float64)
        self._down_bytes = 4 * len(self._manifest.labels) + _BYTES_OF_ANSWER + BYTES_OF_CALL

    def __iter__(self) -> Iterator[Row]:
        for split in range(2, len(self._manifest.blocks) + 1):
            if self._exit_blocks[0] < split:
                yield self._row(
                    split, "nothing", self._at_the_edge(split), f"{_blocks(split)}, without --upstream"
                )
            for sent, sending, payload in self._ways(split):
                outcome = self._offloading(split, sending)
                serve = f"{_blocks(split)} --payload {payload}" if payload else None
                yield self._row(split, sent, outcome, serve)
        if self._observed.photo.num_bytes.all():
            yield self._row(None, "photo, no edge", self._all_in_the_cloud(), None)

    def _ways(self, split: int) -> Iterator[tuple[str, Sending, str | None]]:
        """Name, what it takes and gives, and the payload that serves it."""
        observed = self._observed
        yield WITHOUT_LOSS, self._smallest(split), EXACT
        for name, sending in observed.features[split].items():
            yield f"feature, {name or self._manifest.codec_at(split)}", sending, None if name else "feature"
        for payload, sending in observed.pictures.items():
            is_exact = payload == EXACT
            yield f"picture, {'lossless' if is_exact else payload}", sending, None if is_exact else payload
        if observed.photo.num_bytes.all():
            yield "photo as it came", observed.photo, None

    def _smallest(self, split: int) -> Sending:
        """What the payload `exact` sends, sample by sample; see `PayloadRule.choose`."""
        rule = PayloadRule.at(self._manifest, split, EXACT)
        ways = (self._observed.features[split][""], self._observed.photo, self._observed.pictures[EXACT])
        _, photo, picture = ways
        is_photo = (photo.num_bytes > 0) & (photo.num_bytes < rule.feature_bytes)
        least = np.where(is_photo, photo.num_bytes, rule.feature_bytes)
        is_picture = (least > rule.lossless_bytes) & (picture.num_bytes < least)
        chosen_N = np.where(is_picture, 2, np.where(is_photo, 1, 0))
        # A photo as it came needs no encoding: its `encode_ms` is 0.
        return Sending(
            np.choose(chosen_N, [way.num_bytes for way in ways]),
            np.choose(chosen_N, [way.encode_ms for way in ways]),
            np.choose(chosen_N, [way.decode_ms for way in ways]),
            features=chosen_N == 0,
        )

    def _offloading(self, split: int, sending: Sending) -> _Outcome:
        original, behind = self._observed.answered, sending.answered or self._observed.answered
        here_E = self._exit_blocks < split
        stops = (original.confidence >= self._theta_E) & here_E
        stays_N: NDArray[np.bool_] = np.asarray(stops.any(axis=1))
        beyond = (behind.confidence >= self._theta_E) & ~here_E
        beyond[:, -1] = True
        taken_N = np.where(stays_N, stops.argmax(axis=1), beyond.argmax(axis=1))
        is_feature_N = np.zeros(len(taken_N), np.bool_) if sending.features is None else sending.features
        first_N = np.where(is_feature_N, split, 1)
        sizes_N = self._socket_bytes(sending.num_bytes, split, is_feature_N)
        remote_ms = (
            sending.encode_ms
            + self._on_the_link(sizes_N)
            + sending.decode_ms
            + self._span(self._until_ms, first_N, taken_N)
            + self._overhead.call_ms
        )
        last_N = np.where(stays_N, self._exit_blocks[taken_N], split - 1)
        return _Outcome(
            offloaded=~stays_N,
            taken=taken_N,
            classes=np.where(stays_N[:, np.newaxis], original.class_index, behind.class_index),
            socket_bytes=sizes_N,
            ms=self._local_ms(last_N) + np.where(stays_N, 0.0, remote_ms),
            cloud_macs=np.where(stays_N, 0.0, self._span(self._until_macs, first_N, taken_N)),
        )

    def _at_the_edge(self, split: int) -> _Outcome:
        """The last exit of the edge answers what no other did."""
        here = int((self._exit_blocks < split).sum())
        taken_N = self._leaving(here)
        nothing_N = np.zeros(len(taken_N))
        return _Outcome(
            offloaded=nothing_N.astype(np.bool_),
            taken=taken_N,
            classes=self._observed.answered.class_index,
            socket_bytes=nothing_N,
            ms=self._local_ms(self._exit_blocks[taken_N]),
            cloud_macs=nothing_N,
        )

    def _all_in_the_cloud(self) -> _Outcome:
        """The photo goes straight to a cloud that runs all blocks: what it is like without an edge."""
        taken_N = self._leaving(len(self._exit_blocks))
        is_feature_N = np.zeros(len(taken_N), dtype=np.bool_)
        sizes_N = self._socket_bytes(self._observed.photo.num_bytes, 2, is_feature_N)
        return _Outcome(
            offloaded=np.ones(len(taken_N), dtype=np.bool_),
            taken=taken_N,
            classes=self._observed.answered.class_index,
            socket_bytes=sizes_N,
            ms=self._local_ms(self._exit_blocks[taken_N]) + self._on_the_link(sizes_N),
            cloud_macs=self._span(self._until_macs, np.ones_like(taken_N), taken_N),
        )

    def _leaving(self, num_exits: int) -> NDArray[np.int64]:
        """Exit at which each photo leaves if the last of the first `num_exits` always answers."""
        stops = self._observed.answered.confidence[:, :num_exits] >= self._theta_E[:num_exits]
        stops[:, -1] = True
        taken_N: NDArray[np.int64] = stops.argmax(axis=1)
        return taken_N

    def _local_ms(self, last_block_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """Decoding, and all blocks up to this one."""
        ms_N: NDArray[np.float64] = (
            self._overhead.request_ms + self._observed.photo.decode_ms + self._until_ms[last_block_N - 1]
        )
        return ms_N

    def _on_the_link(self, sizes_N: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([self._link.ms(size, self._down_bytes) for size in sizes_N])

    def _socket_bytes(
        self, num_bytes: NDArray[np.int64], split: int, is_feature_N: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        whole = [
            request_bytes(self._manifest, split, int(size), is_feature=bool(is_feature))
            for size, is_feature in zip(num_bytes, is_feature_N, strict=True)
        ]
        return np.array(whole, dtype=np.float64)

    def _span(
        self, until: NDArray[np.float64], first_N: NDArray[np.int64], taken_N: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """What the blocks cost from the first to that of the exit taken, given what they cost up to each."""
        before = np.concatenate([[0.0], until])
        span_N: NDArray[np.float64] = until[self._exit_blocks[taken_N] - 1] - before[first_N - 1]
        return span_N

    def _row(self, split: int | None, sent: str, outcome: _Outcome, serve: str | None) -> Row:
        offloaded_N, taken_N = outcome.offloaded, outcome.taken
        is_any = bool(offloaded_N.any())
        right_N = outcome.classes[np.arange(len(taken_N)), taken_N] == self._truth_N
        return Row(
            split_point=split,
            sent=sent,
            serve=serve,
            offload_rate=float(offloaded_N.mean()),
            offload_bytes=float(outcome.socket_bytes[offloaded_N].mean()) if is_any else 0.0,
            request_bytes=float(np.where(offloaded_N, outcome.socket_bytes, 0.0).mean()),
            offload_ms=float(outcome.ms[offloaded_N].mean()) if is_any else None,
            ms=float(outcome.ms.mean()),
            accuracy=float(right_N.mean()),
            cloud_macs=float(outcome.cloud_macs.mean()),
        )


def _blocks(split: int) -> str:
    return f"--blocks 1-{split - 1}"
