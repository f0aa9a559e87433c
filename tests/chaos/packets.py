"""Drops the packets of one port of this machine, both ways, as a broken link does: nothing is closed or confirmed.

It needs root and iptables. The rules name the loopback interface and one port, and are gone at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Self

from offramp.errors import ConfigError


class LostPackets:
    """The link to one port."""

    def __init__(self, port: str) -> None:
        """Raise ConfigError if packets cannot be dropped here."""
        if os.geteuid() != 0 or shutil.which("iptables") is None:
            raise ConfigError("dropping packets needs root and iptables; run this as root on Linux")
        self._port = port
        self._is_lost = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_lost:
            self.heal()

    def lose(self) -> None:
        """From now on nothing gets through."""
        self._is_lost = True
        self._rules("--insert")

    def heal(self) -> None:
        """Everything gets through again."""
        self._rules("--delete")
        self._is_lost = False

    def _rules(self, change: str) -> None:
        for end in ("--dport", "--sport"):
            rule = ["--in-interface", "lo", "--protocol", "tcp", end, self._port, "--jump", "DROP"]
            subprocess.run(["iptables", "--wait", change, "INPUT", *rule], check=True, capture_output=True)
