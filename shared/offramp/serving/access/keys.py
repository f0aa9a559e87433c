"""API keys: a file of their hashes, which says what each may do.

A key is `NAME.SECRET`, and its secret has 256 random bits, so one round of SHA-256 is all that its hash needs. Several
keys may have the same name, so that one can be replaced by another while both work.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from offramp.errors import ConfigError
from offramp.record import Record
from offramp.serving.access.following import Followed, read_file

NAME = r"[a-z0-9][a-z0-9_-]{0,39}"


class Right(StrEnum):
    """What a caller may do.

    ask: have samples classified. watch: read metrics, bundle and policy. change: change the policy, and whatever else
    changes a node.
    """

    ASK = "ask"
    WATCH = "watch"
    CHANGE = "change"


ALL_RIGHTS = frozenset(Right)


@dataclass(frozen=True)
class Caller:
    """Who asks, and what they may do; `name` is None if nobody had to say who they are."""

    name: str | None
    rights: frozenset[Right]


class KeptKey(Record):
    """One key, as the file keeps it."""

    name: str = Field(pattern=f"^{NAME}$")
    rights: frozenset[Right] = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the whole key, in hexadecimal")
    until: AwareDatetime | None = Field(default=None, description="when it stops working; null: never")


class KeptKeys(Record):
    """The contents of the file."""

    keys: tuple[KeptKey, ...] = ()

    @classmethod
    def read(cls, file: Path) -> KeptKeys:
        """Read a file of keys.

        Raises:
            ConfigError: it cannot be read, other users may write it, or it is no such file.
        """
        if not file.exists():
            raise ConfigError(f"{file} is not there; `offramp keys {file} NAME --right ask` makes it")
        if file.stat().st_mode & 0o022:
            raise ConfigError(
                f"{file} says who may do what, and other users may write it; run: chmod 644 {file}"
            )
        try:
            return cls.model_validate_json(read_file(file))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "file"
            raise ConfigError(
                f"{file} is no file of keys: {place}: {first['msg']}; make it with `offramp keys`"
            ) from error


def new_key(name: str, rights: Sequence[Right], until: datetime | None = None) -> tuple[str, KeptKey]:
    """A new key, and what the file keeps of it."""
    key = f"{name}.{secrets.token_urlsafe(32)}"
    kept = KeptKey(name=name, rights=frozenset(rights), sha256=_hash(key.encode()), until=until)
    return key, kept


class Keys:
    """The keys of a file, which is read again when it changes."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            ConfigError: as `KeptKeys.read`.
        """
        self._kept = Followed([file], lambda: KeptKeys.read(file).keys, what="keys")

    def caller(self, key: bytes) -> Caller | None:
        """Who has this key; None if nobody has, or not any more."""
        name, found = key.partition(b".")[0], _hash(key)
        for kept in self._kept.current:
            if kept.name.encode() == name and hmac.compare_digest(kept.sha256, found):
                expired = kept.until is not None and kept.until <= datetime.now(UTC)
                return None if expired else Caller(kept.name, kept.rights)
        return None


def _hash(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
