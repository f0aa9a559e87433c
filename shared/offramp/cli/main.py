"""The list of commands, and how to run one by its name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points, version

from offramp.command import Command, end_with, run_command
from offramp.errors import ConfigError

_OWN = {
    "attach": "attach:Attach",
    "train": "train:Train",
    "compress": "compress:Compress",
    "export": "export:Export",
    "quantise": "quantise:Quantise",
    "guard": "guard:GuardExits",
    "calibrate": "calibrate:Calibrate",
    "evaluate": "evaluate:Evaluate",
    "profile": "profile:ProfileBlocks",
    "plan": "plan:PlanSplit",
    "inspect": "inspect:Inspect",
    "sign": "sign:Sign",
    "predict": "predict:Predict",
    "data": "data:FetchData",
    "up": "up:Up",
    "stream": "stream:Stream",
    "link": "link:SlowLink",
    "certs": "certs:MakeCertificates",
    "keys": "keys:ManageKeys",
}
_GROUP = "offramp.commands"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; by default the arguments of the process.

    Raises:
        SystemExit: the command failed, or was asked for help.
    """
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("--help", "-h"):
        print(overview())  # noqa: T201 - the output of the command
    elif name == "--version":
        print(f"offramp {version('offramp')}")  # noqa: T201 - the output of the command
    elif name in (found := commands()):
        run_command(load(found[name]), rest, program=f"offramp {name}")
    else:
        close = get_close_matches(name, found, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(found)}"
        end_with(ConfigError(f"no command '{name}'; {hint}"))


def commands() -> Mapping[str, EntryPoint]:
    """The entry point of each command, by name: the library's own, then those of the installed nodes."""
    own = {name: EntryPoint(name, f"offramp.cli.{place}", _GROUP) for name, place in _OWN.items()}
    return own | {entry.name: entry for entry in sorted(entry_points(group=_GROUP))}


def load(entry: EntryPoint) -> type[Command]:
    """Import the command of an entry point."""
    command: type[Command] = entry.load()
    return command


def overview() -> str:
    """The help of `offramp` itself: every command with the first line of its docstring."""
    rows = [f"  {name:<10}  {_summary(load(entry))}" for name, entry in commands().items()]
    return "\n".join(
        [
            "usage: offramp COMMAND [OPTIONS]",
            "",
            "Early-exit neural networks: train, export, calibrate, evaluate, and serve on tiers.",
            "",
            *rows,
            "",
            "`offramp COMMAND --help` shows the options of a command, with an example.",
            "`offramp --version` shows the version.",
        ]
    )


def _summary(command: type[Command]) -> str:
    return (command.__doc__ or "").strip().partition("\n")[0]
