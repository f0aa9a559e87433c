"""A backbone in a file is cut and trained without the code that it was built by."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from offramp.authoring.backbones.saved import load_backbone, save_backbone
from offramp.errors import ConfigError
from tests import odd_models as odd
from tests.odd_models import SHAPE, attach, computing

_ELSEWHERE = """
import sys
from pathlib import Path
import torch
from offramp.authoring.backbones.attach import attach_exits
from offramp.authoring.backbones.saved import load_backbone

torch.manual_seed(0)
network = attach_exits(load_backbone(Path(sys.argv[1])), image_shape=(3, 16, 16), exits=(0.3,))
drops = {type(module).__name__: module.p for module in network.modules() if hasattr(module, "p")}
logits = network(torch.ones(2, 3, 16, 16))[-1].tolist()
torch.save([network.state_dict(), drops, logits], sys.argv[2])
"""


def test_a_saved_backbone_is_cut_in_another_process_and_trains_the_same(
    tmp_path: Path,
) -> None:
    model = odd.drops_everything()
    dropping = attach(model)
    save_backbone(model, tmp_path / "model.pt2", SHAPE)
    command = [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "model.pt2"), str(tmp_path / "found.pt")]
    subprocess.run(command, check=True, timeout=100)
    state, drops, logits = torch.load(tmp_path / "found.pt", weights_only=True)
    dropping.eval().load_state_dict(state)
    assert drops == pytest.approx(odd.DROPS)
    assert logits == dropping(torch.ones(2, *SHAPE))[-1].tolist()


def test_cumulative_statistics_and_parts_without_gradients_survive_a_file(tmp_path: Path) -> None:
    model = computing(odd.without_gradients)
    model.get_submodule("early.0.1").momentum = None  # type: ignore[assignment]
    model.train()(torch.rand(8, *SHAPE))
    save_backbone(model, tmp_path / "model.pt2", SHAPE)
    network = attach(load_backbone(tmp_path / "model.pt2")).train()
    image_BCHW = torch.rand(8, *SHAPE)
    network(image_BCHW)[-1].sum().backward()
    model(image_BCHW)
    (tracked,) = (value for name, value in network.state_dict().items() if re.match("blocks.*tracked", name))
    assert tracked == 2
    expected = model.state_dict()["early.0.1.running_mean"]
    torch.testing.assert_close(network.state_dict()["blocks.0.batch_norm.running_mean"], expected)
    got = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert got and not any("early" in name for name in got)


@pytest.mark.parametrize(
    ("name", "says"),
    [("model.pth", "does not end in .pt2"), ("model.pt2", "holds no program of torch.export")],
)
def test_a_file_that_is_no_program_is_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(ConfigError, match=says):
        load_backbone(tmp_path / name)
