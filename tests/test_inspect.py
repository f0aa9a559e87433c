"""`offramp inspect`: what is in a bundle, and what its network sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from offramp.bundle import Bundle
from offramp.engine.images import decode_image
from tests.commands import check_refused, offramp
from tests.nodes import encoded


def test_a_bundle_is_shown_with_its_preprocessing_blocks_and_points(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    result = offramp("inspect", tiny_bundle.directory)
    assert result.exit_code == 0, result.output
    assert f"{manifest.bundle_id}: {len(manifest.labels)} classes" in result.stdout
    assert "stretched to 8 x 8 pixels (bilinear)" in result.stdout
    for expected in ("8 x 8 x 3 uint8", "exit-1", "final", manifest.default_operating_point):
        assert expected in result.stdout


def test_the_pixels_that_the_network_sees_are_written(tiny_bundle: Bundle, tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.jpg", tmp_path / "seen.png"
    photo.write_bytes(encoded(Image.effect_noise((40, 20), 60).convert("RGB"), "JPEG"))
    result = offramp("inspect", tiny_bundle.directory, "--photo", photo, "--out", out)
    assert result.exit_code == 0, result.output
    assert "40 x 20 pixels, resized to 8 x 8; nothing cut off" in result.stdout
    expected = decode_image(photo.read_bytes(), tiny_bundle.manifest.preprocessing)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected)


def test_what_cannot_be_read_or_written_is_one_clear_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no photo")
    bundle = tiny_bundle.directory
    check_refused(
        offramp("inspect", bundle, "--photo", text, "--out", tmp_path / "a.png"), "notes.txt", "JPEG"
    )
    check_refused(offramp("inspect", bundle, "--photo", tmp_path / "none.jpg"), "none.jpg cannot be read")
    check_refused(offramp("inspect", bundle, "--photo", text, "--out", "seen.jpg"), "only a PNG")
