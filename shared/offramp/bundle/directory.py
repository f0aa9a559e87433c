"""A bundle as a directory: `bundle.json`, and one ONNX file per block, each checked against its hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from offramp.bundle.graphs import GraphError, check_graph
from offramp.bundle.manifest import FORMAT_VERSION, Block, Manifest
from offramp.bundle.reading import MAX_GRAPH_BYTES, MAX_MANIFEST_BYTES, opened, parsed, read_file
from offramp.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE_FILE, Signature, check_trusted
from offramp.errors import BundleError

MANIFEST_FILE = "bundle.json"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose manifest is valid and whose files have the hashes it names.

    graphs: ONNX of each block, by block number; the very bytes that were hashed. manifest_bytes: the very bytes that
    are signed; empty before the bundle is written. signature: what lies beside them, whether or not it fits.
    """

    directory: Path
    manifest: Manifest
    graphs: Mapping[int, bytes]
    manifest_bytes: bytes = b""
    signature: Signature | None = None


def load_bundle(directory: Path, *, trusted: Sequence[bytes] = ()) -> Bundle:
    """Read and verify a bundle. Its files are read once, and only if they are regular ones within this directory.

    Args:
        directory: of the bundle.
        trusted: public keys of Ed25519, one of which has to have signed it; if none are given, it need not be signed.

    Raises:
        BundleError: there is no bundle, this version cannot read its manifest, a file is missing, altered or not
            listed, a graph reaches beyond its own bytes, or no trusted key has signed it; the message names the file.
    """
    try:
        with opened(directory) as found:
            return _loaded(directory, found, trusted)
    except OSError as error:
        raise _no_bundle(directory, error) from error


def _loaded(directory: Path, found: int, trusted: Sequence[bytes]) -> Bundle:
    try:
        data = read_file(found, directory / MANIFEST_FILE, most_bytes=MAX_MANIFEST_BYTES)
    except OSError as error:
        raise _no_bundle(directory, error) from error
    names = {name for name in os.listdir(found) if not name.startswith(".")}
    signature = None
    if SIGNATURE_FILE in names:
        path = directory / SIGNATURE_FILE
        signature = Signature.read(read_file(found, path, most_bytes=MAX_SIGNATURE_BYTES), path)
    if trusted:
        check_trusted(data, signature, trusted, directory)
    manifest = _manifest_in(data, directory / MANIFEST_FILE)
    known = {MANIFEST_FILE, SIGNATURE_FILE, *(block.file for block in manifest.blocks)}
    if foreign := sorted(names - known):
        raise BundleError(
            f"{directory} holds {foreign[0]}, which its {MANIFEST_FILE} does not list; remove it"
        )
    graphs = {block.number: _read_graph(directory, found, block) for block in manifest.blocks}
    return Bundle(directory, manifest, graphs, data, signature)


def _no_bundle(directory: Path, error: OSError) -> BundleError:
    path = directory / MANIFEST_FILE
    return BundleError(f"no bundle in {directory}: {error.strerror}: {path}; make one with `offramp export`")


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


def _manifest_in(data: bytes, path: Path) -> Manifest:
    try:
        content: Any = parsed(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}; export the bundle again") from error
    found = content.get("format_version") if isinstance(content, dict) else None
    if found != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {found!r}, but this Offramp reads {FORMAT_VERSION}; "
            "export the bundle again with this version"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{path}: {place}: {first['msg']}; export the bundle again") from error


def _read_graph(directory: Path, found: int, block: Block) -> bytes:
    path = directory / block.file
    try:
        graph = read_file(found, path, most_bytes=MAX_GRAPH_BYTES)
    except OSError as error:
        raise BundleError(
            f"block {block.number} cannot be read: {error.strerror}: {path}; copy the whole bundle again"
        ) from error
    digest = hashlib.sha256(graph).hexdigest()
    if digest != block.sha256:
        raise BundleError(
            f"{path} was altered: its SHA-256 is {digest[:12]}…, but the manifest says {block.sha256[:12]}…; "
            "copy the whole bundle again"
        )
    try:
        check_graph(graph)
    except GraphError as error:
        raise BundleError(
            f"{path} is not a graph that can be served: {error}; export the bundle again"
        ) from error
    return graph
