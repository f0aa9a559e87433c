"""What `bundle.json` holds: the network cut into blocks, its exits, its operating points, and its origin."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from offramp.bundle.preprocessing import Preprocessing as Preprocessing
from offramp.bundle.preprocessing import decisive_fields
from offramp.bundle.provenance import Provenance, Sha256
from offramp.bundle.task import SINGLE_LABEL, Task
from offramp.bundle.task import Measure as Measure
from offramp.record import Record

FORMAT_VERSION: Literal[1] = 1

# ans: integer levels, entropy-coded. packed: as many levels in a byte as fit. The others: floating-point numbers.
Codec = Literal["float32", "float16", "ans", "packed", "zstd"]
_FOR_LEVELS: frozenset[Codec] = frozenset({"ans", "packed", "zstd"})
# How a sample travels to the next tier. exact: as its feature, as the photo it came as, or as the network's picture
# losslessly encoded, whichever is smallest; the answer is the same. feature: never as a picture. jpeg-N, webp-N: as the
# network's picture in that format with quality N, so that the exits behind the split answer from a lossy copy.
Payload = Annotated[str, Field(pattern=r"^(exact|feature|(jpeg|webp)-([1-9][0-9]?|100))$")]
# disagreement: the early answer differs from the full network's. harm: it is wrong where the full network is right.
RiskName = Literal["disagreement", "harm"]
Theta = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]


class Tensor(Record):
    """Shape of one sample, without the batch, and dtype."""

    shape: tuple[Annotated[int, Field(ge=1)], ...]
    dtype: Literal["uint8", "float32"]


class Levels(Record):
    """The values of a feature in integers: from 0 up, and how often each one occurs.

    frequencies: one for each level; the entropy coder uses them as weights, so both tiers must have the same ones.
    """

    frequencies: tuple[Annotated[int, Field(ge=1, le=2**24)], ...] = Field(min_length=2, max_length=256)


class Guard(Record):
    """How an exit was taught which samples are unlike those it knows; its block's graph returns their `distance`.

    A distance above 1 is unfamiliar. All guards of a bundle share its false alarms: a sample counts as one if any of
    them finds it unfamiliar.
    """

    false_alarms: float = Field(gt=0, lt=1, description="largest share of familiar samples, on average")
    samples: int = Field(ge=1, description="held-out samples that set the limit")
    macs: int = Field(ge=0, description="multiplications for one sample; those of its exit include them")


class Exit(Record):
    """An EEC and its confidence measure; the last exit of a network is the backbone's own classifier."""

    number: int = Field(ge=1)
    measure: Measure
    temperature: float = Field(gt=0)
    macs: int = Field(ge=0, description="multiplications of the EEC for one sample")
    guard: Guard | None = None


class Block(Record):
    """One block of the backbone as an ONNX graph, with its EEC if it has one."""

    number: int = Field(ge=1)
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    sha256: Sha256
    input: Tensor
    feature: Tensor | None = Field(description="output of the block; null for the last block")
    levels: Levels | None = Field(default=None, description="of a uint8 feature, only")
    macs: int = Field(ge=0, description="multiplications of the block for one sample, without its EEC")
    exit: Exit | None


class Measured(Record):
    """Cost and accuracy of an operating point on held-out samples."""

    samples: int = Field(ge=1)
    accuracy: Share
    exit_rates: tuple[Share, ...] = Field(description="share of samples that left at each exit")
    macs_mean: float = Field(ge=0)
    ms_mean: float | None = Field(
        default=None, ge=0, description="compute time of all tiers with one thread, where it was calibrated"
    )
    request_bytes_mean: float | None = Field(
        default=None, ge=0, description="bytes on the socket to the next tier; most requests send none"
    )
    offload_rate: Share


class Certificate(Record):
    """Evidence that the risk of an operating point is at most ε with probability 1 − δ."""

    risk: RiskName
    epsilon: float = Field(gt=0, lt=1)
    delta: float = Field(gt=0, lt=1)
    samples: int = Field(ge=1, description="tested samples; the thresholds were proposed on others")
    failures: int = Field(ge=0)
    p_value: Share
    data_fingerprint: Sha256


class OperatingPoint(Record):
    """θ of every exit but the last, the split point, and what is sent there; with their measured cost and accuracy."""

    name: Name
    thetas: tuple[Theta, ...]
    split_point: int = Field(ge=2, description="first block that the next tier runs")
    codec: Codec = "float32"
    payload: Payload = "exact"
    measured: Measured | None = None
    certificate: Certificate | None = None


Part = Literal["backbone", "eec", "bottleneck"]


class Layer(Record):
    """The cost of one convolution or linear layer."""

    block: int = Field(ge=1)
    part: Part
    name: str = Field(description="name of the module within its block or EEC")
    macs: int = Field(ge=0, description="multiplications for one sample")


class Manifest(Record):
    """The whole of `bundle.json`."""

    format_version: Literal[1]
    bundle_id: Name
    name: Name
    labels: tuple[Annotated[str, Field(min_length=1)], ...] = Field(description="none for a regression")
    task: Task = SINGLE_LABEL
    preprocessing: Preprocessing
    blocks: tuple[Block, ...] = Field(min_length=1)
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)
    default_operating_point: Name
    layers: tuple[Layer, ...] = ()
    aggregates: bool = Field(
        default=False, description="whether the last exit answers with the geometric mean of all exits"
    )
    precision: Literal["float32", "int8"] = "float32"  # int8: what most layers compute in
    provenance: Provenance | None = None

    @property
    def exits(self) -> tuple[Exit, ...]:
        """All exits, shallow to deep."""
        return tuple(block.exit for block in self.blocks if block.exit)

    @property
    def num_exits(self) -> int:
        """Number of exits, the last one included."""
        return len(self.exits)

    @property
    def backbone_macs(self) -> int:
        """Multiplications of the network without its early exits and its bottleneck, for one sample."""
        around = sum(layer.macs for layer in self.layers if layer.part == "bottleneck")
        return sum(block.macs for block in self.blocks) + self.exits[-1].macs - around

    @property
    def is_guarded(self) -> bool:
        """Whether any exit has a guard, so that answers say which samples are unfamiliar."""
        return any(exit.guard for exit in self.exits)

    @property
    def exit_names(self) -> tuple[str, ...]:
        """Names of the exits, shallow to deep: exit-1, exit-2, …, final."""
        return (*(f"exit-{number}" for number in range(1, self.num_exits)), "final")

    @property
    def exit_macs(self) -> tuple[int, ...]:
        """Multiplications for a sample that leaves at each exit, including all EECs it passes."""
        totals, total = [], 0
        for block in self.blocks:
            total += block.macs
            if block.exit:
                total += block.exit.macs
                totals.append(total)
        return tuple(totals)

    @property
    def exit_blocks(self) -> tuple[int, ...]:
        """Number of the block that each exit follows."""
        return tuple(block.number for block in self.blocks if block.exit)

    @property
    def operating_point(self) -> OperatingPoint:
        """The operating point that serving starts with."""
        return self.point_named(self.default_operating_point)

    def codec_at(self, split_point: int) -> Codec:
        """Codec of the feature that goes to that block: the operating point's, if it suits it."""
        has_levels = self.blocks[split_point - 2].levels is not None
        codec = self.operating_point.codec
        if (codec in _FOR_LEVELS) == has_levels:
            return codec
        return "ans" if has_levels else "float32"

    def point_named(self, name: str) -> OperatingPoint:
        """The operating point of that name; KeyError if there is none."""
        for point in self.operating_points:
            if point.name == name:
                return point
        raise KeyError(name)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.task.check_fits(self.labels, aggregates=self.aggregates)
        _check_chain(self.blocks, self.preprocessing)
        names = [point.name for point in self.operating_points]
        if len(set(names)) != len(names):
            raise ValueError(f"operating points share a name: {', '.join(sorted(names))}")
        if self.default_operating_point not in names:
            raise ValueError(
                f"default_operating_point is '{self.default_operating_point}', not one of {', '.join(names)}"
            )
        for point in self.operating_points:
            if len(point.thetas) != self.num_exits - 1:
                raise ValueError(
                    f"operating point '{point.name}' has {len(point.thetas)} thetas, "
                    f"but {self.num_exits} exits need {self.num_exits - 1}: the last one always answers"
                )
            handed_over = (
                self.blocks[point.split_point - 2] if point.split_point <= len(self.blocks) else None
            )
            if handed_over and (point.codec in _FOR_LEVELS) != (handed_over.levels is not None):
                raise ValueError(
                    f"operating point '{point.name}' sends the feature of block {handed_over.number} as {point.codec}; "
                    "use ans or packed for a bottleneck's levels, and only for them"
                )
            if len(self.blocks) > 1 and point.split_point > len(self.blocks):
                raise ValueError(
                    f"operating point '{point.name}' splits before block {point.split_point}, "
                    f"but there are only {len(self.blocks)} blocks"
                )
        expected = bundle_id_for(self)
        if self.bundle_id != expected:
            raise ValueError(f"bundle_id is '{self.bundle_id}', but its contents make it '{expected}'")
        return self


def bundle_id_for(manifest: Manifest) -> str:
    """Name plus a digest of everything that decides an answer: blocks, exits, labels and preprocessing.

    Operating points are left out: each request carries its θ, so two nodes may have different ones.
    """
    decisive = manifest.model_dump(mode="json", include={"labels", "blocks"})
    decisive["preprocessing"] = decisive_fields(manifest.preprocessing)
    for block in decisive["blocks"]:
        if block["levels"] is None:  # left out, so that a bundle without a bottleneck keeps its id
            del block["levels"]
        if block["exit"] and block["exit"]["guard"] is None:
            del block["exit"]["guard"]
    if manifest.aggregates:
        decisive["aggregates"] = True
    if manifest.task != SINGLE_LABEL:
        decisive["task"] = manifest.task.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return f"{manifest.name}-{digest[:12]}"


def manifest_of(**parts: Any) -> Manifest:
    """Build a manifest of this format from its parts, with the id of its contents."""
    draft = Manifest.model_construct(format_version=FORMAT_VERSION, bundle_id="draft", **parts)
    return Manifest(format_version=FORMAT_VERSION, bundle_id=bundle_id_for(draft), **parts)


def _check_chain(blocks: tuple[Block, ...], preprocessing: Preprocessing) -> None:
    expected: Tensor | None = Tensor(shape=preprocessing.pixel_shape, dtype="uint8")
    exit_number = 0
    for number, block in enumerate(blocks, start=1):
        if block.number != number:
            raise ValueError(f"block {number} is numbered {block.number}; blocks count from 1 without gaps")
        if block.input != expected:
            raise ValueError(f"block {number} takes {block.input}, but is given {expected}")
        if block.exit:
            exit_number += 1
            if block.exit.number != exit_number:
                raise ValueError(f"exit {exit_number} is numbered {block.exit.number}; exits count from 1")
        expected = block.feature
        if (block.levels is not None) != (block.feature is not None and block.feature.dtype == "uint8"):
            raise ValueError(f"block {number}: a uint8 feature needs levels, and no other may have them")
        if (block.feature is None) != (number == len(blocks)):
            raise ValueError(
                f"block {number} of {len(blocks)}: every block but the last has a feature, and the last has none"
            )
    if blocks[-1].exit is None:
        raise ValueError("the last block has no exit, so a hard sample would never be answered")
