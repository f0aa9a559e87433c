"""`keys`: the API keys of a cluster, and what each may do."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import CliPositionalArg
from rich.table import Table

from offramp.cli.progress import console
from offramp.command import Command
from offramp.errors import ConfigError


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", text):
        raise ValueError("write up to 40 small letters, digits, '-' and '_'")
    return text


_Right = Literal["ask", "watch", "change"]


class ManageKeys(Command):
    """Make API keys, show what each may do, or revoke them. Nodes notice a change within a second.

    A new key is printed once and kept only as a hash. Its rights are ask (POST /v1/predict), watch (/metrics, the
    bundle and the policy) and change (the policy). Two keys may have one name: make the new one, use it, then revoke
    the old one by the beginning of its hash. Without a name, the keys are listed.

    Example: offramp keys keys.json camera-7 --right ask --days 90
    """

    file: CliPositionalArg[Path] = Field(description="file of keys, for the setting keys of a node")
    name: CliPositionalArg[Annotated[str, AfterValidator(_name)] | None] = Field(
        default=None, description="whose key it is"
    )
    right: list[_Right] = Field(
        default=[], description="what the key may do; repeat the option for several rights"
    )
    days: int | None = Field(
        default=None, ge=1, description="how many days it works (default: until revoked)"
    )
    write: Path | None = Field(
        default=None,
        description="write the key into this file, which only its owner can read, instead of printing it",
    )
    revoke: bool = Field(
        default=False, description="revoke all keys of this name, or the one that --hash tells"
    )
    hash: str | None = Field(
        default=None, pattern="^[0-9a-f]{8,64}$", description="how the hash of the key to revoke begins"
    )

    def execute(self) -> None:
        """Change the file, or show it."""
        from offramp.serving.access.keys import KeptKeys

        kept = KeptKeys.read(self.file).keys if self.file.exists() else ()
        if self.name is None:
            if self.right or self.revoke:
                raise ConfigError("NAME is missing; write whose key it is, behind the file")
            console.print(_table(kept))
        elif self.revoke:
            self._revoke(kept)
        elif self.right:
            self._add(kept, self.name)
        else:
            raise ConfigError(
                f"a key for {self.name} without a right; give --right ask, watch or change, or --revoke"
            )

    def _add(self, kept: Any, name: str) -> None:
        from offramp.serving.access.authority import write
        from offramp.serving.access.keys import Right, new_key

        until = None if self.days is None else datetime.now(UTC) + timedelta(days=self.days)
        key, entry = new_key(name, [Right(right) for right in self.right], until)
        _write(self.file, (*kept, entry))
        if self.write:
            write(self.write, key.encode(), secret=True)
            console.print(f"{self.write}: the key of {name}")
        else:
            console.print(f"the key of {name}, which is shown only now:")
            print(key)  # noqa: T201 - the output of the command

    def _revoke(self, kept: Any) -> None:
        gone = [one for one in kept if one.name == self.name and one.sha256.startswith(self.hash or "")]
        if not gone:
            raise ConfigError(
                f"{self.file} has no such key of {self.name}; `offramp keys {self.file}` lists them"
            )
        _write(self.file, tuple(one for one in kept if one not in gone))
        console.print(f"{len(gone)} of {self.name} revoked")


def _write(file: Path, kept: Any) -> None:
    from offramp.serving.access.authority import write
    from offramp.serving.access.keys import KeptKeys

    write(file, KeptKeys(keys=kept).model_dump_json(indent=2).encode() + b"\n")


def _table(kept: Any) -> Table:
    table = Table(title=f"{len(kept)} keys")
    for column in ("name", "rights", "until", "hash begins with"):
        table.add_column(column)
    for one in kept:
        rights = ", ".join(sorted(one.rights))
        table.add_row(
            one.name, rights, f"{one.until:%Y-%m-%d}" if one.until else "it is revoked", one.sha256[:12]
        )
    return table
