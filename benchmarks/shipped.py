"""The shipped bundles that versions are compared on, and test photos for them."""

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
    """Parse a whole number of 1 or more.

    Raises:
        ValueError: the text is something else.
    """
    if (number := int(text)) < 1:
        raise ValueError
    return number


def add_data_options(parser: ArgumentParser) -> None:
    """Add options for where the test photos are and how many to send."""
    parser.add_argument(
        "--photos",
        type=positive,
        default=1000,
        help="number of test photos from each data set, evenly spaced",
    )
    parser.add_argument(
        "--fashion-mnist",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="directory of its IDX files",
    )
    parser.add_argument(
        "--cifar10", type=Path, default=Path("data/cifar10.zip"), help="zip with a folder test/ of JPEG files"
    )


@contextmanager
def shipped_photos(options: Namespace) -> Iterator[dict[str, Path]]:
    """A folder of test photos for each bundle, by the bundle's folder in `models/`.

    Raises:
        ConfigError: there are no photos where the options say.
        DataError: a file is damaged.
    """
    with (
        drawn_photos(options.fashion_mnist, options.photos) as fashion,
        drawn_photos(options.cifar10, options.photos) as cifar10,
    ):
        yield {"b-lenet-fashion": fashion, "b-alexnet-cifar10": cifar10}


@contextmanager
def drawn_photos(data: Path, count: int) -> Iterator[Path]:
    """A folder of `count` evenly spaced test photos: files of a zip as they are, images of IDX files as PNG.

    Raises:
        ConfigError: there are none.
        DataError: a file is damaged.
    """
    if not data.exists():
        raise ConfigError(
            f"{data} does not exist; say where the test photos are with --fashion-mnist and --cifar10"
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
