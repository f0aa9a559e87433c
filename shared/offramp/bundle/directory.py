"""A bundle as a directory: `bundle.json`, and one ONNX file per block, each checked against its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from offramp.bundle.manifest import FORMAT_VERSION, Block, Manifest
from offramp.errors import BundleError

MANIFEST_FILE = "bundle.json"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose manifest is valid and whose files have the hashes it names."""

    directory: Path
    manifest: Manifest
    graphs: Mapping[int, bytes]  # ONNX of each block, by block number: the very bytes that were hashed


def load_bundle(directory: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        BundleError: there is no bundle, this version cannot read its manifest, or a file is missing, altered or not
            listed; the message names the file.
    """
    manifest = _read_manifest(directory)
    graphs = {block.number: _read_graph(directory, block) for block in manifest.blocks}
    known = {MANIFEST_FILE, *(block.file for block in manifest.blocks)}
    foreign = sorted(
        p.name for p in directory.iterdir() if p.name not in known and not p.name.startswith(".")
    )
    if foreign:
        raise BundleError(
            f"{directory} holds {foreign[0]}, which its {MANIFEST_FILE} does not list; remove it"
        )
    return Bundle(directory, manifest, graphs)


def write_bundle(directory: Path, manifest: Manifest, graphs: Mapping[int, bytes]) -> Bundle:
    """Write a new bundle and read it back, verified.

    Raises:
        BundleError: the directory exists and is not empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise BundleError(f"{directory} is not empty; choose another directory or remove it")
    directory.mkdir(parents=True, exist_ok=True)
    for block in manifest.blocks:
        (directory / block.file).write_bytes(graphs[block.number])
    write_manifest(directory, manifest)
    return load_bundle(directory)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace `bundle.json` atomically: a reader sees the old file or the new one, never half of one."""
    partial = directory / f".{MANIFEST_FILE}.partial"
    partial.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(directory / MANIFEST_FILE)


def _read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST_FILE
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"no bundle in {directory}: {error.strerror}: {path}; make one with `offramp export`"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}; export the bundle again") from error
    found = content.get("format_version") if isinstance(content, dict) else None
    if found != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {found!r}, but this Offramp reads {FORMAT_VERSION}; "
            "export the bundle again with this version"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{path}: {place}: {first['msg']}; export the bundle again") from error


def _read_graph(directory: Path, block: Block) -> bytes:
    path = directory / block.file
    try:
        graph = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"block {block.number} cannot be read: {error.strerror}: {path}; copy the whole bundle again"
        ) from error
    found = hashlib.sha256(graph).hexdigest()
    if found != block.sha256:
        raise BundleError(
            f"{path} was altered: its SHA-256 is {found[:12]}…, but the manifest says {block.sha256[:12]}…; "
            "copy the whole bundle again"
        )
    return graph
