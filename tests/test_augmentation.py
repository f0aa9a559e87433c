"""What is done to training images and their labels, and which images count how much."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from offramp.authoring.recipes.recipe import Augmentation
from offramp.authoring.training import pixels
from offramp.authoring.training.augment import mix
from offramp.authoring.training.criteria import Criterion
from offramp.authoring.training.losses import balanced_weights, distillation_loss, joint_loss
from offramp.authoring.training.pixels import PixelChanges
from tests.tiny import COLOUR_8


class TestLosses:
    logits_BK = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    class_B = torch.tensor([0, 0, 0, 0, 1, 1])

    def test_balanced_classes_weigh_the_same_however_many_images_they_have(self) -> None:
        weight_K = balanced_weights(self.class_B, 3)
        assert weight_K.tolist() == pytest.approx([6 / 2 / 4, 6 / 2 / 2, 0])
        each_B = functional.cross_entropy(self.logits_BK, self.class_B, reduction="none")
        expected = (each_B[:4].mean() + each_B[4:].mean()) / 2
        found = joint_loss(
            {1: self.logits_BK}, self.class_B, {1: 1.0}, criterion=Criterion(class_weight_K=weight_K)
        )
        torch.testing.assert_close(found, expected)

    def test_distillation_balances_the_part_of_the_labels(self) -> None:
        weight_K = balanced_weights(self.class_B, 3)
        found = distillation_loss(
            {1: self.logits_BK},
            self.logits_BK,
            self.class_B,
            {1: 1.0},
            alpha=0.0,
            temperature=1.0,
            criterion=Criterion(class_weight_K=weight_K),
        )
        expected = joint_loss(
            {1: self.logits_BK}, self.class_B, {1: 1.0}, criterion=Criterion(class_weight_K=weight_K)
        )
        torch.testing.assert_close(found, expected)

    def test_mixed_images_have_labels_mixed_in_the_same_shares(self) -> None:
        torch.manual_seed(0)
        class_B = torch.arange(4).repeat(4)
        image_BCHW = class_B.float()[:, None, None, None].expand(-1, 3, 2, 2)
        mixed_BCHW, target_BK = mix(image_BCHW, class_B, num_classes=4, alpha=1.0)
        torch.testing.assert_close(target_BK.sum(1), torch.ones(16))
        torch.testing.assert_close(mixed_BCHW[:, 0, 0, 0], target_BK @ torch.arange(4.0))
        assert ((target_BK > 0.05) & (target_BK < 0.95)).any(), "some are mixed"
        loss = joint_loss({1: target_BK * 9}, target_BK, {1: 1.0})
        assert torch.isfinite(loss)


class TestPixels:
    changes = ({"crop": (0.35, 1.0)}, {"rand_augment": (2, 9.0)}, {"colour": 0.4})

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    @pytest.mark.parametrize("change", changes)
    def test_the_same_seed_changes_pixels_in_the_same_way(self, change: dict[str, Any], mode: str) -> None:
        spec = COLOUR_8.model_copy(update={"mode": mode})
        generator = torch.Generator().manual_seed(0)
        image_BHWC = torch.randint(0, 256, (20, 8, 8, len(mode)), generator=generator, dtype=torch.uint8)
        found = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            found.append(PixelChanges(Augmentation(**change), spec)(image_BHWC))
        assert found[0].shape == image_BHWC.shape
        assert found[0].min() >= 0 and 1 < found[0].max() <= 255
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
        assert not torch.equal(found[0], image_BHWC.float())

    def test_a_crop_shows_a_part_of_the_image(self) -> None:
        torch.manual_seed(0)
        ramp_BHWC = torch.arange(8.0).expand(20, 8, 8)[..., None].expand(-1, -1, -1, 3)
        found = PixelChanges(Augmentation(crop=(0.2, 0.3)), COLOUR_8)(ramp_BHWC * 30)
        spread_B = found.amax((1, 2, 3)) - found.amin((1, 2, 3))
        assert spread_B.max() < 0.8 * 210 and spread_B.min() > 0.2 * 210

    def test_what_no_recipe_asks_for_is_not_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pixels, "_kornia", None)
        image_BHWC = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
        plain = Augmentation(shift=2, mirror=True, blank=3, mixup=0.2)
        assert PixelChanges(plain, COLOUR_8)(image_BHWC) is image_BHWC
