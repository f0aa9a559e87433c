"""Whether the samples that thresholds were chosen on tell the truth about others."""

from __future__ import annotations

from pydantic import Field

from offramp.authoring.evaluation.statistics import rarely, two_shares
from offramp.bundle import Manifest
from offramp.bundle.manifest import Share
from offramp.record import Record

_LEVEL = 0.01


class HeldOut(Record):
    """An operating point's accuracy on the samples that its thresholds were chosen on, compared with that on others."""

    point: str
    held_out_samples: int
    held_out_accuracy: Share
    samples: int
    accuracy: Share
    p: Share = Field(
        description="chance of such a difference between two draws from the same photos; two-sided, Fisher's exact test"
    )
    is_beyond_chance: bool = Field(description="whether p is below 0.01")

    @property
    def meaning(self) -> str:
        """What a difference beyond chance means, and what to do."""
        seen = (
            f"'{self.point}' is right for {self.accuracy:.1%} of these {self.samples:,} images, but for "
            f"{self.held_out_accuracy:.1%} of the {self.held_out_samples:,} that its thresholds were chosen on "
            f"(chance alone makes such a difference {rarely(self.p)}): "
        )
        if self.accuracy > self.held_out_accuracy:
            return (
                seen + "these are easier, so they say little about the photos that thresholds were chosen for"
            )
        return seen + (
            "either some training has seen those, or these are of another kind, and what thresholds and guarantees "
            "promise does not hold here; calibrate on photos like these that no training has seen, see `offramp train "
            "--calibration`"
        )


def compare_held_out(
    manifest: Manifest, point: str | None, *, accuracy: float, full_accuracy: float, samples: int
) -> HeldOut | None:
    """Compare an evaluation on other samples with what the bundle says of its held-out ones, if it says anything.

    Args:
        manifest: of the bundle.
        point: the operating point; without one, the full network is compared.
        accuracy: on the other samples, at the operating point.
        full_accuracy: on the other samples, of the full network.
        samples: how many there are.
    """
    if manifest.provenance and not manifest.provenance.data.labelled:
        return None  # there, accuracy means agreement with the full network
    name = point or "full"
    measured = next((each.measured for each in manifest.operating_points if each.name == name), None)
    if measured is None:
        return None
    shown = accuracy if point else full_accuracy
    p = two_shares(
        round(shown * samples),
        samples,
        round(measured.accuracy * measured.samples),
        measured.samples,
    )
    return HeldOut(
        point=name,
        held_out_samples=measured.samples,
        held_out_accuracy=measured.accuracy,
        samples=samples,
        accuracy=shown,
        p=p,
        is_beyond_chance=p < _LEVEL,
    )
