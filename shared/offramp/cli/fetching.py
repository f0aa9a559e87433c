"""Downloads files: they are checked as they arrive, and get their names only when they are complete."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from offramp.errors import ConfigError, DataError

_TIMEOUT_S = 30.0  # longest wait for the next byte
_ELSEWHERE = "give --mirror an address that has it"


@dataclass(frozen=True)
class Original:
    """A file as its authors published it; `size` in bytes."""

    name: str
    size: int
    sha256: str

    def is_in(self, directory: Path) -> bool:
        """Whether the file is there, complete and unaltered."""
        path = directory / self.name
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


@contextmanager
def fetcher() -> Iterator[httpx.Client]:
    """A client that goes through the proxy of HTTPS_PROXY or HTTP_PROXY, if there is one.

    Raises:
        ConfigError: the address of that proxy is not valid.
    """
    try:
        # Ask for the bytes as stored: otherwise a server may declare a .gz file to be compressed only for transfer.
        client = httpx.Client(
            timeout=_TIMEOUT_S, follow_redirects=True, headers={"accept-encoding": "identity"}
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(f"HTTPS_PROXY, HTTP_PROXY or ALL_PROXY cannot be used: {error}") from error
    with client:
        yield client


def fetch(
    client: httpx.Client, address: str, file: Original, directory: Path, advance: Callable[[int], None]
) -> None:
    """Fetch one file, and leave it in `directory` if it is the original.

    Args:
        client: made by `fetcher`.
        address: of the directory that has the file.
        file: the file to fetch.
        directory: where to put it; a file of the same name is replaced.
        advance: called with the number of bytes that have arrived since the last call.

    Raises:
        DataError: the file cannot be reached, does not exist, breaks off, or is not the original.
        OSError: `directory` cannot be written.
    """
    url = f"{address.rstrip('/')}/{file.name}"
    with _whole_or_nothing(directory / file.name) as partial:
        found = _download(client, url, file, partial, advance)
        if found != file.sha256:
            raise DataError(
                f"{url} has SHA-256 {found}, but the original has {file.sha256}: it is damaged or a different file; "
                f"try again, or {_ELSEWHERE}"
            )


def _download(
    client: httpx.Client, url: str, file: Original, to: BinaryIO, advance: Callable[[int], None]
) -> str:
    """Write the file to `to`, and return the SHA-256 of what arrived."""
    digest, received = hashlib.sha256(), 0
    try:
        with client.stream("GET", url) as response:
            if not response.is_success:
                raise DataError(
                    f"{url} answers {response.status_code} {response.reason_phrase}; {_ELSEWHERE}"
                )
            for chunk in response.iter_raw():
                received += len(chunk)
                if received > file.size:
                    raise DataError(f"{url} is longer than the original's {file.size} bytes; {_ELSEWHERE}")
                to.write(chunk)
                digest.update(chunk)
                advance(len(chunk))
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
        if received:
            raise DataError(
                f"{url} broke off after {received} of {file.size} bytes: {said}; run this again"
            ) from error
        raise DataError(
            f"{url} cannot be reached: {said}; check the network, set HTTPS_PROXY if you need a proxy, or "
            f"{_ELSEWHERE}"
        ) from error
    return digest.hexdigest()


@contextmanager
def _whole_or_nothing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. It gets its name only at the end, and is removed if anything fails."""
    partial = path.with_name(f".fetching-{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
