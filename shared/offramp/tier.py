"""A tier: a contiguous range of blocks, run until an exit is sure enough.

The selection scheme is the plainest of the literature: the first exit that says stop answers, and nothing
behind it is computed. Pure: no I/O, no clock. Shapes: B samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.aggregation import confidence_of, joined, rooted
from offramp.bundle.manifest import Manifest
from offramp.errors import ConfigError
from offramp.runtime.block import BlockOutput, BlockRunner


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """An exit's answer for one sample: probabilities (K,) that sum to 1, confidence in [0, 1)."""

    probabilities: NDArray[np.float32]
    confidence: float
    exit_number: int

    @property
    def class_index(self) -> int:
        """The most probable class, 0 to K - 1."""
        return int(self.probabilities.argmax())


@dataclass(frozen=True, eq=False, slots=True)
class Handover:
    """A sample no exit of this tier was sure of: its feature, the block that takes it, and the best guess so far.

    `surest` is the answer of the exit with the highest confidence; None if no exit of this tier was passed. `passed`
    has the probabilities (K,) of all of them, shallow to deep, where the bundle aggregates.
    """

    next_block: int
    feature: NDArray[Any]
    surest: Answer | None
    passed: tuple[NDArray[np.float32], ...] = ()


Outcome = Answer | Handover


def aggregated(
    answer: Answer, passed: Sequence[NDArray[np.float32]], *, manifest: Manifest, first_block: int
) -> Answer:
    """Join an answer of the last exit with the exits a tier passed before it, where the bundle aggregates.

    Args:
        answer: of this tier or a deeper one.
        passed: probabilities (K,) of the exits that this tier passed, shallow to deep.
        manifest: of the bundle.
        first_block: where this tier began; the one that began with block 1 completes the mean.
    """
    if not manifest.aggregates or answer.exit_number < manifest.num_exits:
        return answer
    probabilities_K = joined(answer.probabilities, passed)
    if first_block == 1:
        probabilities_K = rooted(probabilities_K, manifest.num_exits)
    return Answer(probabilities_K, confidence_of(probabilities_K), answer.exit_number)


@dataclass(frozen=True)
class DecisionFunction:
    """Stop when the confidence reaches θ: θ = 0 always stops, θ = 1 never does."""

    theta: float

    def stops(self, confidence_B: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which samples may leave here. θ is rounded to float32 first, as it travels on the wire."""
        return confidence_B >= np.float32(self.theta)


def checked_thetas(thetas: Sequence[float], manifest: Manifest) -> tuple[float, ...]:
    """θ of every exit but the last, in order.

    Raises:
        ConfigError: not one for each, or one that is not a number from 0 to 1.
    """
    expected = manifest.num_exits - 1
    if len(thetas) != expected:
        raise ConfigError(
            f"{len(thetas)} thetas, but bundle '{manifest.bundle_id}' needs {expected}: one for each of its "
            f"{manifest.num_exits} exits but the last, which always answers"
        )
    for number, theta in enumerate(thetas, start=1):
        if not (math.isfinite(theta) and 0 <= theta <= 1):
            raise ConfigError(f"theta of exit {number} is {theta}, but a confidence lies between 0 and 1")
    return tuple(float(theta) for theta in thetas)


class Tier:
    """Blocks `start` to `stop` of a bundle, with the exits behind them."""

    def __init__(self, manifest: Manifest, blocks: Sequence[BlockRunner], *, start: int) -> None:
        """Take over loaded blocks, the first of which is block `start`."""
        self.manifest = manifest
        self.start = start
        self.stop = start + len(blocks) - 1
        self._blocks = blocks
        self._exit_numbers = [block.exit.number if block.exit else None for block in manifest.blocks]

    def run(
        self, batch: NDArray[Any], thetas: Sequence[float], *, first_block: int | None = None
    ) -> list[Outcome]:
        """Answer every sample, or hand it over.

        After each exit the batch is compacted: a sample that has its answer costs nothing more.

        Args:
            batch: input (B, …) of the first block to run: pixels for block 1, a feature tensor otherwise.
            thetas: θ of every exit of the bundle but the last, by exit number.
            first_block: where to begin; `start` unless given.

        Returns:
            One outcome for each sample, in order.
        """
        if not len(batch):
            return []
        outcomes: dict[int, Outcome] = {}
        surest: dict[int, Answer] = {}
        passed: dict[int, tuple[NDArray[np.float32], ...]] = {}
        first_block = first_block or self.start
        samples = np.arange(len(batch))  # which sample each row of `batch` is
        for number in range(first_block, self.stop + 1):
            output = self._blocks[number - self.start].run(batch)
            exit_number = self._exit_numbers[number - 1]
            stops_B = np.zeros(len(samples), dtype=np.bool_)
            if exit_number is not None:
                stops_B = self._stops(exit_number, output, thetas)
                for row, answer in enumerate(_answers(output, exit_number)):
                    sample = int(samples[row])
                    if stops_B[row]:
                        outcomes[sample] = aggregated(
                            answer,
                            passed.get(sample, ()),
                            manifest=self.manifest,
                            first_block=first_block,
                        )
                        continue
                    surest[sample] = _surer(answer, surest.get(sample))
                    if self.manifest.aggregates:
                        passed[sample] = (*passed.get(sample, ()), answer.probabilities)
            if stops_B.all():
                break
            assert output.feature is not None
            samples, batch = samples[~stops_B], output.feature[~stops_B]
        for row, sample in enumerate(samples.tolist()):
            if sample not in outcomes:
                outcomes[sample] = Handover(
                    self.stop + 1, batch[row], surest.get(sample), passed.get(sample, ())
                )
        return [outcomes[sample] for sample in range(len(outcomes))]

    def _stops(self, exit_number: int, output: BlockOutput, thetas: Sequence[float]) -> NDArray[np.bool_]:
        assert output.confidence is not None
        if exit_number == self.manifest.num_exits:
            return np.ones(len(output.confidence), dtype=np.bool_)
        return DecisionFunction(thetas[exit_number - 1]).stops(output.confidence)


def _surer(answer: Answer, best: Answer | None) -> Answer:
    # NaN compares as neither more nor less: it must not keep its place against a number.
    if best is None or math.isnan(best.confidence) or answer.confidence > best.confidence:
        return answer
    return best


def _answers(output: BlockOutput, exit_number: int) -> Iterator[Answer]:
    assert output.probabilities is not None and output.confidence is not None
    for probabilities_K, confidence in zip(output.probabilities, output.confidence.tolist(), strict=True):
        yield Answer(probabilities_K, confidence, exit_number)
