"""`predict`: classifies photos, or folders of them, in this process or by nodes."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Table

from offramp.bundle import load_bundle
from offramp.cli.options import PointOption, RuntimeOption, ThetasOption, chosen_thetas
from offramp.cli.photos import photos_in
from offramp.cli.progress import console, progress
from offramp.command import Command
from offramp.errors import ConfigError, DataError, OfframpError, RequestError

_COLUMNS = ("image", "label", "confidence", "exit", "tier", "unfamiliar", "degraded")
_TIMEOUT_S = 30.0

# The bytes of an image -> one row, without the image's name.
_Classify = Callable[[bytes], Mapping[str, Any]]


class Predict(Command):
    """Classify photos and show where each one leaves.

    Runs a bundle in this process, or sends the photos to an edge node. Folders are searched for photos.

    Example: offramp predict models/b-lenet-fashion samples/fashion-mnist/bag
    """

    bundle: CliPositionalArg[str] = Field(
        description="directory of the bundle, or address of an edge node, http://HOST:PORT"
    )
    photos: CliPositionalArg[list[Path]] = Field(description="JPEG, PNG or WebP files, or folders of them")
    point: PointOption = None
    thetas: ThetasOption = None
    runtime: RuntimeOption = "onnx"
    as_json: bool = Field(default=False, alias="json", description="print one JSON object per photo")
    as_csv: bool = Field(default=False, alias="csv", description="print comma-separated values")

    def execute(self) -> None:
        """Classify every photo that can be read, then report the ones that cannot."""
        if self.as_json and self.as_csv:
            raise ConfigError("--json and --csv exclude each other; give one of them")
        files = photos_in(self.photos)
        rows, faults = [], []
        with self._classifier() as classify, progress("photos", len(files)) as advance:
            for file in files:
                try:
                    rows.append({"image": str(file), **classify(_contents(file))})
                except DataError as error:
                    faults.append(str(error))
                except RequestError as error:
                    faults.append(f"{file}: {error}")
                advance(1)
        self._show(rows)
        if faults:
            more = f" ({len(faults)} of {len(files)} photos)" if len(files) > 1 else ""
            raise DataError(f"{faults[0]}{more}")

    @contextmanager
    def _classifier(self) -> Iterator[_Classify]:
        if not self.bundle.startswith(("http://", "https://")):
            yield self._in_process(Path(self.bundle))
            return
        if self.point or self.thetas:
            raise ConfigError("a node decides by its own policy; change it there with PUT /v1/policy")
        with httpx.Client(base_url=self.bundle, timeout=_TIMEOUT_S, trust_env=False) as client:
            yield lambda image: _asked(client, image)

    def _in_process(self, directory: Path) -> _Classify:
        from offramp.engine.classifier import Classifier

        loaded = load_bundle(directory)
        _, thetas = chosen_thetas(loaded.manifest, self.point, self.thetas)
        classifier = Classifier(loaded, thetas=thetas, runtime=self.runtime)
        names = loaded.manifest.exit_names

        def classify(image: bytes) -> Mapping[str, Any]:
            found = classifier.classify(image)
            place = {"exit": names[found.exit_number - 1], "tier": "here"}
            return _row(found.label, found.confidence, place, unfamiliar=found.unfamiliar, degraded=False)

        return classify

    def _show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.as_json:
            for row in rows:
                print(json.dumps(row, ensure_ascii=False))  # noqa: T201 - the output of the command
        elif self.as_csv:
            writer = csv.DictWriter(sys.stdout, _columns(rows), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        elif rows:
            _show_table(rows)


def _contents(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _asked(client: httpx.Client, image: bytes) -> Mapping[str, Any]:
    try:
        response = client.post("/v1/predict", content=image)
        body = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise UnansweredError(
            f"{client.base_url} did not answer like an edge node: {error or type(error).__name__}"
        ) from error
    if response.status_code != httpx.codes.OK:
        kind = RequestError if response.is_client_error else UnansweredError
        raise kind(str(body.get("error", response.text)))
    place = {"exit": body["exit"]["name"], "tier": body["exit"]["tier"]}
    told = {"unfamiliar": body.get("unfamiliar"), "degraded": body["degraded"]}
    return _row(in_words(body), body["confidence"], place, **told)


def _row(
    label: str, confidence: float, place: Mapping[str, str], *, unfamiliar: bool | None, degraded: bool
) -> Mapping[str, Any]:
    guarded = {} if unfamiliar is None else {"unfamiliar": unfamiliar}
    return {"label": label, "confidence": confidence, **place, **guarded, "degraded": degraded}


def in_words(body: Mapping[str, Any]) -> str:
    """The answer in words: the label, labels separated by `;`, or the value."""
    if "value" in body:
        return f"{body['value']:g}"
    return ";".join(one["label"] for one in body["labels"]) if "labels" in body else str(body["label"])


class UnansweredError(OfframpError):
    """The node did not answer, or is not an edge node."""


def _columns(rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """All columns, but `unfamiliar` only if the bundle has a guard."""
    return [column for column in _COLUMNS if column != "unfamiliar" or any(column in row for row in rows)]


def _show_table(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table()
    columns = _columns(rows)[:-1]
    for column in columns:
        table.add_column(column, justify="right" if column == "confidence" else "left", overflow="fold")
    for row in rows:
        shown = {**row, "confidence": f"{row['confidence']:.3f}"}
        if "unfamiliar" in row:
            shown["unfamiliar"] = "yes" if row["unfamiliar"] else ""
        table.add_row(*(str(shown[column]) for column in columns))
    Console().print(table)
    left = Counter(row["exit"] for row in rows)
    degraded = sum(row["degraded"] for row in rows)
    shares = ", ".join(f"{name} {count / len(rows):.1%}" for name, count in sorted(left.items()))
    unfamiliar = sum(row.get("unfamiliar", False) for row in rows)
    found = f"; {unfamiliar} unfamiliar" if "unfamiliar" in columns else ""
    console.print(f"{len(rows)} photos left at {shares}; {degraded} degraded{found}", highlight=False)
