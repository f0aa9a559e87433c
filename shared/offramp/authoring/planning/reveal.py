"""What somebody on the link, or in the cloud, sees of a photo: an inversion attack by a small decoder.

The attacker is taken to have the bundle and photos of the same kind, which is what a cloud has. A better attacker sees
more: the figures say what a payload reveals at least. Shapes: N photos, B in a batch, H x W pixels, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from kornia.metrics import psnr, ssim
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from offramp.bundle import Bundle
from offramp.bundle.manifest import Payload
from offramp.engine.payload import decode_pixels, encode_pixels
from offramp.engine.runtime import load_blocks
from offramp.errors import ConfigError

_LARGEST = 112  # side at which the decoder works; its picture is enlarged from there
_WIDTH = 32
_BATCH = 16
_WINDOW = 11  # pixels, as in Wang et al. 2004
_SHOWN = 4
_LEAST_SIDE = 96  # pixels to which a small picture is enlarged
FEWEST = 20


@dataclass(frozen=True, eq=False)
class Revealed:
    """How close what can be seen comes to what block 1 takes, on photos that the attacker has not seen.

    split_point: of a feature; None for a picture. psnr: dB. ssim: 1 is the same picture (Wang et al. 2004). shown:
    uint8 (n, H, W, C), what is seen of the first photos.
    """

    sent: str
    split_point: int | None
    psnr: float
    ssim: float
    shown: NDArray[np.uint8]


def reveal(
    bundle: Bundle,
    pixels: NDArray[np.uint8],
    payloads: Sequence[Payload],
    *,
    steps: int = 400,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[NDArray[np.uint8], Sequence[Revealed]]:
    """Attack the feature at every split, and compare with lossy pictures, which need no attack.

    Args:
        bundle: verified.
        pixels: (N, H, W, C); a fifth of the photos is kept for the judgement.
        payloads: lossy ways to send pictures.
        steps: of the decoder's training, for each split.
        advance: called with the number of steps done since the last call.

    Returns:
        The first judged photos, and one result for each split and payload.

    Raises:
        ConfigError: there are too few photos to learn from.
    """
    if len(pixels) < FEWEST:
        raise ConfigError(f"{len(pixels)} photos are too few to train an attack; give at least {FEWEST}")
    kept = np.arange(len(pixels)) % 5 == 0
    truth, manifest = pixels[kept], bundle.manifest
    found = []
    for payload in payloads:
        lossy = [decode_pixels(encode_pixels(each, payload), manifest.preprocessing) for each in truth]
        found.append(_judged(f"picture, {payload}", None, truth, np.stack(lossy)))
    for split, features in _features(bundle, pixels).items():
        guess = _attack(features[~kept], pixels[~kept], features[kept], steps=steps, advance=advance)
        found.append(_judged(f"feature, {manifest.codec_at(split)}", split, truth, guess))
    return truth[:_SHOWN], found


def picture_of(truth: NDArray[np.uint8], found: Sequence[Revealed]) -> bytes:
    """A PNG: a row for each photo, first as it is, then what each way to send reveals, in their order."""
    columns = [truth, *(each.shown for each in found)]
    rows = [np.concatenate([column[number] for column in columns], axis=1) for number in range(len(truth))]
    times = max(1, _LEAST_SIDE // truth.shape[1])
    whole = np.concatenate(rows).repeat(times, axis=0).repeat(times, axis=1)
    file = io.BytesIO()
    Image.fromarray(whole.squeeze(2) if whole.shape[2] == 1 else whole).save(file, "PNG")
    return file.getvalue()


def _features(bundle: Bundle, pixels: NDArray[np.uint8]) -> dict[int, NDArray[np.float32]]:
    blocks = load_blocks(bundle, 1, len(bundle.manifest.blocks) - 1)
    found: dict[int, list[NDArray[np.float32]]] = {number + 1: [] for number in range(1, len(blocks) + 1)}
    for image in pixels:
        batch: NDArray[Any] = image[np.newaxis]
        for number, block in enumerate(blocks, start=1):
            output = block.run(batch)
            assert output.feature is not None
            batch = output.feature
            found[number + 1].append(batch[0].astype(np.float32))
    return {split: np.stack(features) for split, features in found.items()}


def _attack(
    known: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    asked: NDArray[np.float32],
    *,
    steps: int,
    advance: Callable[[int], None],
) -> NDArray[np.uint8]:
    """Learn to turn features into pixels, and do so for features that were not learned from."""
    torch.manual_seed(0)
    axes = (0, *range(2, known.ndim))
    mean, spread = known.mean(axis=axes, keepdims=True), known.std(axis=axes, keepdims=True) + 1e-3
    feature_NCHW = torch.from_numpy((known - mean) / spread)
    truth_NCHW = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    decoder = _decoder(feature_NCHW.shape[1:], pixels.shape[1:])
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(feature_NCHW), (_BATCH,), generator=generator)
        loss = nn.functional.mse_loss(decoder(feature_NCHW[chosen]), truth_NCHW[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        optimizer.step()
        schedule.step()
        advance(1)
    decoder.eval()
    with torch.no_grad():
        asked_NCHW = torch.from_numpy((asked - mean) / spread)
        guess = torch.cat([decoder(part) for part in torch.split(asked_NCHW, _BATCH)])
    found: NDArray[np.uint8] = (guess.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return found


def _decoder(feature_shape: Sequence[int], pixel_shape: Sequence[int]) -> nn.Module:
    """From a feature (C, h, w) or (C,) to pixels: a few convolutions, each but the first after doubling the size."""
    channels, *sides = feature_shape
    height, width, colours = pixel_shape
    layers: list[nn.Module] = []
    if len(sides) != 2:
        layers += [
            nn.Flatten(),
            nn.Linear(int(np.prod(feature_shape)), _WIDTH * 16),
            nn.Unflatten(1, (_WIDTH, 4, 4)),
        ]
        channels, sides = _WIDTH, [4, 4]
    layers += [nn.Conv2d(channels, _WIDTH, 3, padding=1), nn.BatchNorm2d(_WIDTH), nn.ReLU()]
    while 2 * min(sides) <= min(height, width, _LARGEST):
        sides = [2 * side for side in sides]
        layers += [
            nn.Conv2d(_WIDTH, 4 * _WIDTH, 3, padding=1),
            nn.PixelShuffle(2),
            nn.BatchNorm2d(_WIDTH),
            nn.ReLU(),
        ]
    layers += [nn.Conv2d(_WIDTH, colours, 3, padding=1), nn.Sigmoid()]
    if sides != [height, width]:
        layers.append(nn.Upsample((height, width), mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


def _judged(
    sent: str, split_point: int | None, truth: NDArray[np.uint8], guess: NDArray[np.uint8]
) -> Revealed:
    pairs = [(_as_tensor(one), _as_tensor(other)) for one, other in zip(truth, guess, strict=True)]
    return Revealed(
        sent,
        split_point,
        float(np.mean([float(psnr(other, one, 1.0)) for one, other in pairs])),
        float(np.mean([float(ssim(one, other, _WINDOW).mean()) for one, other in pairs])),
        guess[:_SHOWN],
    )


def _as_tensor(pixels_HWC: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None].float() / 255
