"""A whole bundle in one process, for a notebook, a script or a test: no node, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offramp.bundle import Bundle
from offramp.engine.images import decode_image
from offramp.engine.runtime import Runtime, load_blocks
from offramp.engine.tier import Answer, Tier, checked_thetas


@dataclass(frozen=True)
class Prediction:
    """A bundle's answer for one image, and the exit that gave it.

    labels: one, or any number if the task is multi_label, or none if it is regression. confidence: in [0, 1).
    exit_number: counted from 1, shallow to deep. probabilities: by label; for one label they sum to 1. unfamiliar:
    whether an exit it came to finds the image unlike those the network knows; None without a guard. value, std: of a
    regression, in the quantity's unit; std is the standard deviation of the value's error.
    """

    labels: tuple[str, ...]
    confidence: float
    exit_number: int
    probabilities: Mapping[str, float]
    unfamiliar: bool | None
    value: float | None = None
    std: float | None = None

    @property
    def label(self) -> str:
        """The answer in words: the label, labels separated by `;`, or the value."""
        return ";".join(self.labels) if self.value is None else f"{self.value:g}"


class Classifier:
    """Runs the blocks of a bundle until an exit is confident enough. Safe to call from several threads."""

    def __init__(
        self, bundle: Bundle, *, thetas: Sequence[float] | None = None, runtime: Runtime = "onnx"
    ) -> None:
        """Load the blocks.

        Args:
            bundle: verified, as `load_bundle` returns it.
            thetas: θ of every exit but the last; by default those of the bundle's operating point.
            runtime: library that runs the blocks.

        Raises:
            BundleError: a graph cannot be run.
            ConfigError: the thetas do not fit the bundle, or the runtime is not installed.
        """
        manifest = bundle.manifest
        self.manifest = manifest
        self._thetas = checked_thetas(manifest.operating_point.thetas if thetas is None else thetas, manifest)
        self._tier = Tier(manifest, load_blocks(bundle, 1, len(manifest.blocks), runtime=runtime), start=1)

    def classify(self, image: bytes) -> Prediction:
        """Classify the contents of a JPEG, PNG or WebP file.

        Raises:
            RequestError: the file has another format, or is damaged.
        """
        pixels = decode_image(image, self.manifest.preprocessing)
        answer = self._tier.run(pixels[None], self._thetas)[0]
        assert isinstance(answer, Answer), "the last exit always answers"
        labels, kind = self.manifest.labels, self.manifest.task.kind
        is_value = kind == "regression"
        given = answer.label_indices if kind == "multi_label" else () if is_value else (answer.class_index,)
        return Prediction(
            labels=tuple(labels[index] for index in given),
            confidence=answer.confidence,
            exit_number=answer.exit_number,
            probabilities={} if is_value else dict(zip(labels, answer.probabilities.tolist(), strict=True)),
            unfamiliar=answer.unfamiliar if self.manifest.is_guarded else None,
            value=answer.value if is_value else None,
            std=answer.std if is_value else None,
        )
