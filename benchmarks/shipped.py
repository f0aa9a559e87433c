"""The shipped bundles that versions are held against each other with, and test photos for them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from benchmarks.serving.photos import folder_of
from offramp.authoring.data.idx import holds_idx, read_idx
from offramp.errors import ConfigError

WAYS = {"edge alone": False, "edge and cloud": True}  # whether there is a cloud node


def positive(text: str) -> int:
    """A whole number from 1 up.

    Raises:
        ValueError: it is none.
    """
    if (number := int(text)) < 1:
        raise ValueError
    return number


def add_data_options(parser: ArgumentParser) -> None:
    """Options that say where the test photos lie, and how many are sent."""
    parser.add_argument(
        "--photos", type=positive, default=1000, help="test photos of each data set, evenly drawn"
    )
    parser.add_argument(
        "--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), help="its IDX files"
    )
    parser.add_argument(
        "--cifar10", type=Path, default=Path("data/cifar10.zip"), help="zip with a folder test/ of JPEG files"
    )


@contextmanager
def shipped_photos(options: Namespace) -> Iterator[dict[str, Path]]:
    """A folder of test photos for each bundle, by the bundle's folder in `models/`.

    Raises:
        ConfigError: no photos where the options say.
        DataError: a damaged file.
    """
    with (
        drawn_photos(options.fashion_mnist, options.photos) as fashion,
        drawn_photos(options.cifar10, options.photos) as cifar10,
    ):
        yield {"b-lenet-fashion": fashion, "b-alexnet-cifar10": cifar10}


@contextmanager
def drawn_photos(data: Path, count: int) -> Iterator[Path]:
    """A folder of so many test photos, evenly drawn: files of a zip as they are, images of IDX files as PNG.

    Raises:
        ConfigError: there are none.
        DataError: a damaged file.
    """
    if not data.exists():
        raise ConfigError(
            f"{data} is not there; say where test photos lie with --fashion-mnist and --cifar10"
        )
    if not holds_idx(data):
        with folder_of(data, count=count) as folder:
            yield folder
        return
    [file] = data.glob("t10k-images*idx3-ubyte*")
    pixels_NHW = read_idx(file, dimensions=3)
    with TemporaryDirectory() as name:
        step = max(1, len(pixels_NHW) // count)
        for number, pixels_HW in enumerate(pixels_NHW[::step][:count]):
            Image.fromarray(pixels_HW).save(Path(name) / f"{number:04d}.png")
        yield Path(name)
