"""A profile: how long each block takes on each runtime of a machine. Calibration and planning read it from a file."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from itertools import accumulate, product
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from offramp.authoring.evaluation.timing import block_seconds
from offramp.bundle import Bundle, Manifest
from offramp.engine.runtime import Runtime, load_blocks
from offramp.errors import ConfigError
from offramp.record import Record

_NOISE = 64  # images; the time a block takes does not depend on what they show


class BlockTime(Record):
    """How long one block takes, including its EEC."""

    runtime: Runtime
    threads: int = Field(ge=1, description="threads that share one call")
    batch: int = Field(ge=1, description="samples in one call")
    block: int = Field(ge=1)
    ms: float = Field(gt=0, description="per sample: the median of the calls, divided by the batch")


class Profile(Record):
    """All times measured of a bundle on one machine."""

    format_version: Literal[1] = 1
    bundle: str = Field(description="bundle_id")
    cpu: str
    cores: int = Field(ge=1)
    rounds: int = Field(ge=1, description="calls behind each median")
    blocks: tuple[BlockTime, ...] = Field(min_length=1)

    def exit_ms(self, manifest: Manifest, *, runtime: Runtime = "onnx") -> tuple[float, ...]:
        """For each exit, milliseconds of a sample that leaves there, EECs included; one thread, one image at a time.

        Raises:
            ConfigError: the profile is of another bundle, or lacks this measurement.
        """
        if self.bundle != manifest.bundle_id:
            raise ConfigError(
                f"the profile is of bundle '{self.bundle}', this one is '{manifest.bundle_id}'; measure it with "
                "`offramp profile`"
            )
        found = {
            time.block: time.ms
            for time in self.blocks
            if (time.runtime, time.threads, time.batch) == (runtime, 1, 1)
        }
        if set(found) != {block.number for block in manifest.blocks}:
            raise ConfigError(
                f"the profile lacks blocks on {runtime} with 1 thread and batch 1; measure them with "
                f"`offramp profile --runtime {runtime} --threads 1 --batch 1`"
            )
        so_far = list(accumulate(found[block.number] for block in manifest.blocks))
        return tuple(so_far[block - 1] for block in manifest.exit_blocks)


def profile(
    bundle: Bundle,
    runtimes: Sequence[Runtime],
    *,
    batches: Sequence[int],
    threads: Sequence[int],
    rounds: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Profile:
    """Time every block on random images, with every combination of runtime, threads and batch size.

    Args:
        bundle: verified.
        runtimes: which to measure.
        batches: numbers of samples in one call.
        threads: numbers of threads that share one call.
        rounds: calls behind each median.
        advance: called with 1 after every combination.

    Raises:
        ConfigError: a runtime's package is missing.
        BundleError: a runtime cannot run a block.
    """
    shape = bundle.manifest.preprocessing.pixel_shape
    pixels = np.random.default_rng(0).integers(0, 256, (_NOISE, *shape), dtype=np.uint8)
    times = []
    for runtime, count in product(runtimes, threads):
        blocks = load_blocks(bundle, 1, len(bundle.manifest.blocks), runtime=runtime, threads=count)
        for batch in batches:
            spent_s = block_seconds(blocks, pixels, batch_size=batch, rounds=rounds)
            medians_ms = 1000 * np.median(spent_s, axis=0) / batch
            times += [
                BlockTime(runtime=runtime, threads=count, batch=batch, block=number, ms=ms)
                for number, ms in enumerate(medians_ms.tolist(), start=1)
            ]
            advance(1)
    return Profile(
        bundle=bundle.manifest.bundle_id,
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        rounds=rounds,
        blocks=tuple(times),
    )


def read_profile(path: Path) -> Profile:
    """Read what `offramp profile --json` printed.

    Raises:
        ConfigError: the file cannot be read, or is not a profile.
    """
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise ConfigError(
            f"{path} is not a profile: {place}: {first['msg']}; make one with `offramp profile BUNDLE --json`"
        ) from error


def _cpu() -> str:
    """The CPU's model name if Linux reports it, otherwise its architecture."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
