"""The `offramp` command as a person types it, run in this process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from offramp.cli.main import main

SMALL = ("--epochs", "1", "--validation", "40")


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Everything it wrote."""
        return self.stdout + self.stderr


def offramp(*arguments: str | Path) -> Result:
    """Run `offramp` with these arguments."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def check_refused(result: Result, *says: str) -> None:
    """Check that a command was refused with one clear line that says all of this."""
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith("error: "), result.output
    assert "Traceback" not in result.output
    for text in says:
        assert text in result.stderr


def trained_on_noise(directory: Path) -> Path:
    """Make a bundle by the three commands, from 160 photos of two classes; trained for one epoch.

    The directory then has `photos`, `run` and `bundle`.
    """
    photos = directory / "photos"
    generator = np.random.default_rng(0)
    for label, brightness in (("dark", 90), ("light", 255)):
        (photos / "train" / label).mkdir(parents=True)
        for number in range(80):
            pixels = (generator.random((28, 28)) * brightness).astype(np.uint8)
            Image.fromarray(pixels).save(photos / "train" / label / f"{number:04d}.png")
    run, bundle = directory / "run", directory / "bundle"
    result = offramp("train", "b-lenet-fashion", "--data", photos, "--out", run, *SMALL)
    assert result.exit_code == 0, result.output
    assert offramp("export", run, "--out", bundle).exit_code == 0
    assert offramp("calibrate", bundle, "--data", photos).exit_code == 0
    return directory
