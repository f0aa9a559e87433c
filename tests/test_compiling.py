"""Training with a compiled network: it answers and learns as before, and what cannot be compiled is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from offramp.authoring.networks.lenet import b_lenet
from offramp.authoring.training import check
from offramp.authoring.training.keeping import SCORE
from offramp.authoring.training.learning import compiled_logits_at
from offramp.authoring.training.train import Machines, train
from offramp.engine.runtime.load import has_compiler
from offramp.errors import ConfigError
from tests.test_fine_tuning import logged
from tests.test_training import run_of, stripes

COMPILED = Machines(compiled=True)


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
as_torch_does = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # in its own code


@needs_compiler
@as_torch_does
def test_two_networks_say_at_each_exit_what_they_said_before() -> None:
    # As for a student and its teacher, whose exits have other numbers.
    image_BCHW = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for exits in ((1, 2), (2,), (1,)):
        network = b_lenet(10).eval()
        compiled = compiled_logits_at(network)
        with torch.no_grad():
            found, expected = compiled(image_BCHW, exits), network.logits_at(image_BCHW, exits)
        assert found.keys() == expected.keys() == set(exits)
        for number in exits:
            torch.testing.assert_close(found[number], expected[number], atol=1e-4, rtol=1e-4)


@pytest.mark.training
@needs_compiler
@as_torch_does
def test_it_learns(tmp_path: Path) -> None:
    images = stripes()
    train(images, run_of(images, epochs=60, seed=1), tmp_path / "run", machines=COMPILED)
    assert float(logged(tmp_path / "run")[-1][SCORE]) > 0.8


@pytest.mark.parametrize(
    ("changes", "machines", "says"),
    [
        ({}, Machines(2, compiled=True), "--compile is for one process, and 2 share each batch"),
        ({"regime": "exits", "views": 2}, COMPILED, "views is 2, so steps take cached features"),
    ],
)
def test_what_would_not_gain_is_refused_before_anything_is_written(
    changes: dict[str, Any], machines: Machines, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "has_compiler", lambda: True)
    images = stripes()
    first = run_of(images, regime="backbone")
    if changes:
        train(images, first, tmp_path / "first")
        changes = {**changes, "start": str(tmp_path / "first")}
    with pytest.raises(ConfigError, match=says):
        train(images, run_of(images, **changes), tmp_path / "run", machines=machines)
    assert not (tmp_path / "run").exists()


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "has_compiler", lambda: False)
    images = stripes()
    with pytest.raises(ConfigError, match=r"found no C\+\+ compiler; install g\+\+, or leave it out"):
        train(images, run_of(images), tmp_path / "run", machines=COMPILED)
    assert not (tmp_path / "run").exists()
