"""`certs`: an authority of one's own, and certificates for the nodes of a cluster."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import CliPositionalArg

from offramp.cli.progress import console
from offramp.command import Command
from offramp.errors import ConfigError

_LOCAL = ("localhost", "127.0.0.1", "::1")


def _node(text: str) -> str:
    name, has_address, address = text.partition("=")
    if (
        not re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]{0,62}", name)
        or name == "ca"
        or bool(has_address) != bool(address)
    ):
        raise ValueError(
            "write NAME, or NAME=ADDRESS with a host name or IP address under which others reach the node"
        )
    return text


class MakeCertificates(Command):
    """Make an authority and certificates for the nodes of a cluster of one's own.

    Writes ca.pem, ca.key and, for each node, NAME.pem and NAME.key. What is there stays, so further nodes can be added
    later; --renew makes new certificates for the nodes that are named. Copy ca.pem and its own two files to each node,
    and keep ca.key where no node runs.

    Example: offramp certs certificates --node edge-1 --node cloud=cloud.example --node cloud=10.0.0.7
    """

    directory: CliPositionalArg[Path] = Field(description="directory for the files; it is made if needed")
    node: list[Annotated[str, AfterValidator(_node)]] = Field(
        default=["edge", "cloud", "dashboard"],
        description="a node's name, or NAME=ADDRESS with a host name or IP address under which others reach it; repeat "
        "the option for several addresses and nodes",
    )
    days: int = Field(default=365, ge=1, le=36500, description="how many days certificates are valid")
    renew: bool = Field(default=False, description="replace the certificates of these nodes")

    def execute(self) -> None:
        """Write the files."""
        from offramp.serving.access.authority import Authority, write

        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.directory} cannot be made: {error.strerror}; name another directory"
            ) from error
        authority = Authority.kept_in(self.directory)
        if authority is None:
            authority = Authority.made(max(3650, self.days))
            authority.keep(self.directory)
            console.print(f"{self.directory / 'ca.pem'}: a new authority")
        for name, given in self._addresses().items():
            files = [self.directory / f"{name}.{kind}" for kind in ("key", "pem")]
            if all(file.exists() for file in files) and not self.renew:
                console.print(f"{files[1]}: was there, and stays")
                continue
            addresses = (*given, *_LOCAL, socket.gethostname())
            certificate, key = authority.issue(name, addresses, days=self.days)
            write(files[0], key, secret=True)
            write(files[1], certificate)
            console.print(f"{files[1]}: for {', '.join(dict.fromkeys((name, *addresses)))}")

    def _addresses(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for each in self.node:
            name, _, address = each.partition("=")
            found.setdefault(name, []).extend([address] if address else [])
        return found
