"""The `offramp` command as a person types it, run in this process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from offramp.cli.main import main


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
