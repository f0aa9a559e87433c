"""The bundle: a network cut into blocks, on disk, with everything needed to serve it."""

from offramp.bundle.directory import Bundle, load_bundle, write_bundle, write_manifest
from offramp.bundle.manifest import Manifest, OperatingPoint
from offramp.bundle.preprocessing import Preprocessing

__all__ = [
    "Bundle",
    "Manifest",
    "OperatingPoint",
    "Preprocessing",
    "load_bundle",
    "write_bundle",
    "write_manifest",
]
