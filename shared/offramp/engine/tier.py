"""A tier: a contiguous range of blocks, run until an exit is confident enough.

The selection scheme is the simplest in the literature: the first exit that says stop gives the answer, and nothing
after it is computed. Pure: no I/O, no clock. Shapes: B samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle.manifest import Manifest
from offramp.bundle.task import LEAST_PROBABILITY
from offramp.engine.aggregation import confidence_of, joined, rooted
from offramp.engine.runtime.block import BlockOutput, BlockRunner
from offramp.errors import ConfigError


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """An exit's answer for one sample; which of these it means is up to the bundle's task. Confidence is in [0, 1).

    probabilities: (K,) of classes, which sum to 1; or of labels, each by itself; or, for a regression, value and
    standard deviation (2,). passed: confidences of the exits that were run before and were not sure, shallow to deep.
    If an upstream failed and the surest of these exits answers instead, it is one of them.
    unfamiliar: whether the guard of this exit, or of one that the sample passed before, finds it unlike what it knows.
    """

    probabilities: NDArray[np.float32]
    confidence: float
    exit_number: int
    passed: tuple[float, ...] = ()
    unfamiliar: bool = False

    @property
    def class_index(self) -> int:
        """The most probable class, 0 to K - 1."""
        return int(self.probabilities.argmax())

    @property
    def label_indices(self) -> tuple[int, ...]:
        """The labels that are given, of a network that gives several: those at least as likely as not."""
        return tuple(np.flatnonzero(self.probabilities >= LEAST_PROBABILITY).tolist())

    @property
    def value(self) -> float:
        """The value of a regression."""
        return float(self.probabilities[0])

    @property
    def std(self) -> float:
        """Standard deviation of the value's error, as the network estimates it."""
        return float(self.probabilities[1])


@dataclass(frozen=True, eq=False, slots=True)
class Handover:
    """A sample that no exit of this tier was confident about: its feature, the next block, and the exits it passed.

    passed: answers of all exits of this tier, shallow to deep. pixels: uint8 (H, W, C), what block 1 took; None if this
    tier began with a later block.
    """

    next_block: int
    feature: NDArray[Any]
    passed: tuple[Answer, ...] = ()
    pixels: NDArray[np.uint8] | None = None

    @property
    def surest(self) -> Answer | None:
        """The answer with the highest confidence so far; None if no exit was passed."""
        if not self.passed:
            return None
        return replace(reduce(_surer, self.passed), passed=self.confidences, unfamiliar=self.unfamiliar)

    @property
    def confidences(self) -> tuple[float, ...]:
        """Those of the exits it passed."""
        return tuple([answer.confidence for answer in self.passed])

    @property
    def unfamiliar(self) -> bool:
        """Whether any exit it passed finds it unfamiliar."""
        return any(answer.unfamiliar for answer in self.passed)


Outcome = Answer | Handover


def aggregated(answer: Answer, passed: Sequence[Answer], *, manifest: Manifest, first_block: int) -> Answer:
    """If the bundle aggregates, combine an answer of the last exit with the exits that this tier passed.

    Args:
        answer: of this tier or a deeper one.
        passed: answers of the exits that this tier passed, shallow to deep.
        manifest: of the bundle.
        first_block: block this tier began with; the tier that began with block 1 completes the mean.
    """
    if not manifest.aggregates or answer.exit_number < manifest.num_exits:
        return answer
    probabilities_K = joined(answer.probabilities, [each.probabilities for each in passed])
    if first_block == 1:
        probabilities_K = rooted(probabilities_K, manifest.num_exits)
    return replace(answer, probabilities=probabilities_K, confidence=confidence_of(probabilities_K))


class DecisionFunction:
    """Stop when the confidence reaches θ: θ = 0 always stops, θ = 1 never does."""

    __slots__ = ("_theta",)

    def __init__(self, theta: float) -> None:
        """Take θ, rounded to float32 as it travels on the wire."""
        self._theta = float(np.float32(theta))

    def stops(self, confidence: float) -> bool:
        """Whether a sample with this confidence leaves here; NaN never does."""
        return confidence >= self._theta


def checked_thetas(thetas: Sequence[float], manifest: Manifest) -> tuple[float, ...]:
    """Check θ of every exit but the last, in order, and return them as a tuple.

    Raises:
        ConfigError: there are too few or too many, or one is not a number from 0 to 1.
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
    """Blocks `start` to `stop` of a bundle, with their exits."""

    def __init__(self, manifest: Manifest, blocks: Sequence[BlockRunner], *, start: int) -> None:
        """Use these loaded blocks, the first of which is block `start`."""
        self.manifest = manifest
        self.start = start
        self.stop = start + len(blocks) - 1
        self._blocks = blocks
        self._num_exits = manifest.num_exits
        self._exit_numbers = [block.exit.number if block.exit else None for block in manifest.blocks]

    def run(
        self, batch: NDArray[Any], thetas: Sequence[float], *, first_block: int | None = None
    ) -> list[Outcome]:
        """Answer every sample, or hand it over.

        After each exit, the samples that have their answer are dropped from the batch and cost nothing more.

        Args:
            batch: input (B, …) of the first block to run: pixels for block 1, a feature tensor otherwise.
            thetas: θ of every exit of the bundle but the last, by exit number.
            first_block: block to begin with; `start` by default.

        Returns:
            One outcome for each sample, in order.
        """
        first_block = first_block or self.start
        samples = [_Sample(each if first_block == 1 else None) for each in batch]
        rows = samples  # which sample each row of `batch` is
        for number in range(first_block, self.stop + 1):
            if not rows:
                break
            output = self._blocks[number - self.start].run(batch)
            if exit_number := self._exit_numbers[number - 1]:
                self._decide(rows, output, exit_number, thetas, first_block)
            left = [row for row, sample in enumerate(rows) if sample.outcome is None]
            if output.feature is not None:
                batch = output.feature if len(left) == len(rows) else output.feature[left]
            rows = [rows[row] for row in left]
        for sample, feature in zip(rows, batch, strict=False):
            sample.outcome = Handover(self.stop + 1, feature, tuple(sample.passed), sample.pixels)
        return [sample.outcome for sample in samples if sample.outcome]

    def _decide(
        self,
        rows: Sequence[_Sample],
        output: BlockOutput,
        exit_number: int,
        thetas: Sequence[float],
        first_block: int,
    ) -> None:
        assert output.probabilities is not None
        is_last = exit_number == self._num_exits
        decision = DecisionFunction(0.0 if is_last else thetas[exit_number - 1])
        for sample, probabilities_K, (confidence, unfamiliar) in zip(
            rows, output.probabilities, output.verdicts, strict=True
        ):
            if not (is_last or decision.stops(confidence)):
                sample.passed.append(Answer(probabilities_K, confidence, exit_number, unfamiliar=unfamiliar))
                continue
            passed = tuple([each.confidence for each in sample.passed])
            unfamiliar = unfamiliar or any(each.unfamiliar for each in sample.passed)
            answer = Answer(probabilities_K, confidence, exit_number, passed, unfamiliar)
            sample.outcome = aggregated(
                answer, sample.passed, manifest=self.manifest, first_block=first_block
            )


@dataclass(eq=False, slots=True)
class _Sample:
    """How far one sample has got, and its pixels if it began with block 1."""

    pixels: NDArray[np.uint8] | None
    passed: list[Answer] = field(default_factory=list)
    outcome: Outcome | None = None


def _surer(best: Answer, answer: Answer) -> Answer:
    # Comparisons with NaN are always false, so a NaN has to give way explicitly.
    return answer if math.isnan(best.confidence) or answer.confidence > best.confidence else best
