"""A training that a signal ends says so, and its command fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offramp.authoring.training.learning import PhaseTraining
from offramp.authoring.training.run import load_network
from tests.commands import offramp
from tests.conftest import SAMPLES

# Without the measuring of coverage, which ends a process by itself at SIGTERM.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
ENVIRONMENT["OMP_NUM_THREADS"] = "1"


def command(directory: Path, epochs: int) -> list[str]:
    return [
        *("train", "b-lenet-fashion", "--data", str(SAMPLES), "--out", str(directory)),
        *("--epochs", str(epochs), "--validation", "60"),
    ]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lightning ignores Ctrl-C from the first one on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.training
def test_sigterm_ends_a_training_with_a_status_that_is_not_0_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-m", "offramp.cli", *command(run, 100_000)],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:  # no terminal: a line for each epoch
            if "event=training phase=1/1 epoch=2/100000 batch=3/3 loss=" in line:
                break
        process.terminate()
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert rest.splitlines()[-1].startswith("error: training stopped by SIGTERM"), rest
    assert "--resume" in rest and "Traceback" not in rest
    assert load_network(run).num_exits == 2


@pytest.mark.training
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_training_in_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = PhaseTraining.training_step

    def interrupted(self: PhaseTraining, batch: Any, batch_index: int) -> Any:
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(PhaseTraining, "training_step", interrupted)
        stopped = offramp(*command(tmp_path / "run", 2))
    assert stopped.exit_code == 128 + signal.SIGINT
    assert stopped.stderr.splitlines()[-1].startswith("error: training stopped by Ctrl-C"), stopped.stderr
    assert offramp(*command(tmp_path / "run", 2), "--resume").exit_code == 0
