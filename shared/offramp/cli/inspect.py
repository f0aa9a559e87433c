"""`inspect`: shows what is in a bundle, and the pixels that its network sees of a photo."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from pydantic import Field
from rich.console import Console
from rich.table import Table

from offramp.bundle import Bundle, Manifest, load_bundle
from offramp.bundle.in_words import photo_in_words, preprocessing_in_words
from offramp.bundle.preprocessing import Preprocessing
from offramp.cli.options import BundleArgument
from offramp.cli.tables import points_table
from offramp.command import Command
from offramp.engine.images import decode_image, photo_size
from offramp.errors import ConfigError, DataError, RequestError

_SHOWN_LABELS = 10


class Inspect(Command):
    """Show what a bundle holds, and the pixels that its network sees of a photo.

    Example: offramp inspect models/b-lenet-fashion --photo boot.jpg --out seen.png
    """

    bundle: BundleArgument
    photo: Path | None = Field(
        default=None, description="photo to look at through the bundle's preprocessing"
    )
    out: Path = Field(
        default=Path("seen.png"),
        description="PNG to write with the pixels that the network sees of the photo",
    )

    def execute(self) -> None:
        """Show the bundle; with a photo, write the pixels that the network sees."""
        if self.photo is not None and self.out.suffix.lower() != ".png":
            raise ConfigError(
                f"--out is '{self.out}', but only a PNG keeps every pixel; give it the suffix .png"
            )
        bundle = load_bundle(self.bundle)
        manifest = bundle.manifest
        console = Console()
        for line in [*_summary(manifest), _signed(bundle)]:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(_blocks(manifest))
        console.print(points_table(manifest))
        if self.photo is not None:
            said = _write_seen(self.photo, manifest.preprocessing, self.out)
            console.print(said, highlight=False, markup=False, soft_wrap=True)


def _summary(manifest: Manifest) -> list[str]:
    return [
        f"{manifest.bundle_id}: {_task(manifest)}",
        f"each photo: {preprocessing_in_words(manifest.preprocessing)}",
        f"then, of pixels in [0, 1]: mean {_numbers(manifest.preprocessing.mean)} subtracted, "
        f"divided by {_numbers(manifest.preprocessing.std)}",
        f"computes in {manifest.precision}",
    ]


def _signed(bundle: Bundle) -> str:
    if bundle.signature is None:
        return "not signed"
    if bundle.signature.fits(bundle.manifest_bytes):
        return f"signed by {bundle.signature.fingerprint}"
    return f"altered after {bundle.signature.fingerprint} signed it; sign it again"


def _task(manifest: Manifest) -> str:
    if (quantity := manifest.task.quantity) is not None:
        unit = f" {quantity.unit}" if quantity.unit else ""
        return (
            f"estimates {quantity.name}, {quantity.low:g} to {quantity.high:g}{unit}; right within "
            f"{quantity.tolerance:g}{unit}"
        )
    labels = ", ".join(manifest.labels[:_SHOWN_LABELS])
    more = ", …" if len(manifest.labels) > _SHOWN_LABELS else ""
    what = "labels, any number of them" if manifest.task.kind == "multi_label" else "classes"
    return f"{len(manifest.labels)} {what} ({labels}{more})"


def _blocks(manifest: Manifest) -> Table:
    table = Table(
        title="blocks", caption=f"{manifest.backbone_macs / 1e6:.3f} M multiplications without early exits"
    )
    for column in ("block", "takes", "MACs", "exit", "its MACs", "measure"):
        table.add_column(column, justify="left" if column in ("exit", "measure") else "right")
    names = iter(manifest.exit_names)
    for block in manifest.blocks:
        shape = " x ".join(map(str, block.input.shape))
        after = (
            (next(names), f"{block.exit.macs / 1e6:.3f} M", block.exit.measure)
            if block.exit
            else ("-", "-", "-")
        )
        table.add_row(str(block.number), f"{shape} {block.input.dtype}", f"{block.macs / 1e6:.3f} M", *after)
    return table


def _write_seen(photo: Path, preprocessing: Preprocessing, out: Path) -> str:
    try:
        data = photo.read_bytes()
        size = photo_size(data)
        pixels = decode_image(data, preprocessing)
    except OSError as error:
        raise DataError(f"{photo} cannot be read: {error.strerror}") from error
    except RequestError as error:
        raise DataError(f"{photo}: {error}") from error
    try:
        Image.fromarray(pixels.squeeze() if preprocessing.mode == "L" else pixels).save(out)
    except OSError as error:
        raise ConfigError(f"'{out}' cannot be written: {error.strerror}; give another --out") from error
    return f"{photo}: {photo_in_words(preprocessing, size)}; written to {out}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
