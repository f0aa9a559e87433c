"""`data`: downloads the original data sets, from their authors or from the projects that host them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import httpx
from pydantic import AfterValidator, Field
from pydantic_settings import CliPositionalArg

from offramp.authoring.data.cifar import has_cifar10, unpack_cifar10
from offramp.cli.fetching import Original, fetch, fetcher
from offramp.cli.progress import console, progress
from offramp.command import Command
from offramp.errors import ConfigError


def _address(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("write http://HOST/DIRECTORY or https://HOST/DIRECTORY")
    return text


class FetchData(Command):
    """Fetch an original data set, and check its hashes.

    Files that are already there and complete are not fetched again. MNIST and Fashion-MNIST stay IDX files; CIFAR-10
    becomes a folder of PNG images.

    Example: offramp data mnist --out data/mnist
    """

    name: CliPositionalArg[Literal["mnist", "fashion-mnist", "cifar10"]] = Field(
        description="mnist, fashion-mnist or cifar10"
    )
    out: Path = Field(description="directory to write to; give it to other commands as --data")
    mirror: Annotated[str, AfterValidator(_address)] | None = Field(
        default=None, description="address of a directory with the same files, to fetch them from instead"
    )

    def execute(self) -> None:
        """Fetch what is missing, and print what to do next."""
        wanted = DATA_SETS[self.name]
        leave_in(self.out, wanted, self.mirror or wanted.address)
        data = shlex.quote(str(self.out))
        console.print(
            f"{self.out} has all of {self.name}; next:",
            f"offramp train {wanted.recipe} --data {data} --out DIR",
            sep="\n",
            soft_wrap=True,
            highlight=False,
        )


@dataclass(frozen=True)
class DataSet:
    """Files, their address, and a recipe that trains on them; `images` is how many to unpack from an archive."""

    address: str
    files: tuple[Original, ...]
    recipe: str
    images: int = 0


def leave_in(directory: Path, wanted: DataSet, address: str) -> None:
    """Fetch the files that are not in a directory yet, and unpack them if they are in an archive.

    Raises:
        DataError: a file cannot be reached, does not exist, breaks off, or is not the original, or the directory
            contains something else.
        ConfigError: the directory cannot be written.
    """
    if wanted.images and has_cifar10(directory):
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _fetch_missing(directory, wanted, address)
        if wanted.images:
            (archive,) = (directory / file.name for file in wanted.files)
            with progress("images", wanted.images) as advance:
                unpack_cifar10(archive, directory, advance=advance)
            archive.unlink()
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be written: {error.strerror}; make room there, or give --out another directory"
        ) from error


def _fetch_missing(directory: Path, wanted: DataSet, address: str) -> None:
    missing = [file for file in wanted.files if not file.is_in(directory)]
    if not missing:
        return
    total = sum(file.size for file in missing)
    names = ", ".join(file.name for file in missing)
    console.print(f"fetching {names}, {total / 1e6:.1f} MB, from {address}", soft_wrap=True, highlight=False)
    with fetcher() as client, progress("fetched", total, in_bytes=True) as advance:
        for file in missing:
            fetch(client, address, file, directory, advance)


def _idx_files(*sizes_and_hashes: tuple[int, str]) -> tuple[Original, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    pairs = zip(names, sizes_and_hashes, strict=True)
    return tuple(Original(f"{name}-ubyte.gz", size, sha256) for name, (size, sha256) in pairs)


# The hashes are those of TensorFlow Datasets; torchvision has the same ones for MNIST and Fashion-MNIST.
DATA_SETS: Mapping[str, DataSet] = {
    "mnist": DataSet(
        # PyTorch's copy, because the author's page no longer serves the files.
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        _idx_files(
            (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
        recipe="b-lenet-mnist",
    ),
    "fashion-mnist": DataSet(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        _idx_files(
            (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
        recipe="b-lenet-fashion",
    ),
    "cifar10": DataSet(
        "https://www.cs.toronto.edu/~kriz/",
        (
            Original(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9dddda3db29a59bca1dd",
            ),
        ),
        recipe="b-alexnet-cifar10",
        images=60_000,
    ),
}
