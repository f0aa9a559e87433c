"""Which files are photos, by their names and first bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from offramp.authoring.data.container import Container
from offramp.engine.images import PHOTO_SUFFIXES as SERVED_SUFFIXES

# What a node serves, and BMP, which is only for training and evaluation.
PHOTO_SUFFIXES = SERVED_SUFFIXES | {".bmp"}
# Images that we cannot read: leaving them out in silence would change what is learned.
_OTHER_IMAGES = re.compile(
    r"\.(avif|jxl|jp2|j2k|tiff?|gif|apng|ico|psd|svg|tga|p[pgbn]m|exr|hdr|dng|cr2|cr3|nef|arw|orf|rw2|raf|raw|dcm)"
)
_NO_IMAGES = re.compile(
    r"\.(txt|md|rst|[ct]sv|jsonl?|xml|ya?ml|toml|ini|html?|pdf|py|ipynb|db|cls|log|npy|mat|pkl|zip|tar|gz|url|lnk|docx?|xlsx?)"
)
_PHOTO_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_OTHER_STARTS = (b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ", b"8BPS")
_PHOTO_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OTHER_BRANDS = (b"avif", b"avis")
_HEAD = 16


@dataclass(frozen=True)
class Sorted:
    """Names of files: photos, images that we cannot read, and everything else. Hidden files are in none of them."""

    photos: tuple[str, ...]
    unreadable: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple[str, ...]


def sort_files(container: Container) -> Sorted:
    """Sort the files of a container; those whose suffix says nothing are judged by their first bytes."""
    found: Mapping[str, list[str]] = {"photo": [], "unreadable": [], "other": [], "folder": []}
    for name in container.names:
        if not is_hidden(name):
            found["folder" if name.endswith("/") else _kind(container, name)].append(name)
    return Sorted(*(tuple(found[kind]) for kind in ("photo", "unreadable", "other", "folder")))


def is_hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden, or is what macOS adds to an archive."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def suffix_of(name: str) -> str:
    """The suffix, in lower case."""
    return PurePosixPath(name).suffix.lower()


def counted(names: Iterable[str]) -> str:
    """How many files there are of each suffix, such as `12 .gif, 3 without suffix`."""
    counts: dict[str, int] = {}
    for name in names:
        suffix = suffix_of(name) or "without suffix"
        counts[suffix] = counts.get(suffix, 0) + 1
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))


def _kind(container: Container, name: str) -> str:
    suffix = suffix_of(name)
    if suffix in PHOTO_SUFFIXES:
        return "photo"
    if _OTHER_IMAGES.fullmatch(suffix):
        return "unreadable"
    if _NO_IMAGES.fullmatch(suffix):
        return "other"
    head = container.read(name, _HEAD)
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if head.startswith(_PHOTO_STARTS) or brand in _PHOTO_BRANDS or _is_webp(head) or _is_bmp(head):
        return "photo"
    if head.startswith(_OTHER_STARTS) or brand in _OTHER_BRANDS:
        return "unreadable"
    return "other"


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _is_bmp(head: bytes) -> bool:
    # Two letters say little; the four reserved bytes behind the size are zero in every BMP.
    return head[:2] == b"BM" and head[6:10] == bytes(4)
