"""The `offramp` command: the library's own commands, and those that installed nodes add."""

from __future__ import annotations

from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from offramp.cli.bundles import calibrate, export
from offramp.cli.judge import evaluate, predict
from offramp.cli.link import link
from offramp.cli.measure import profile
from offramp.cli.runs import compress, train
from offramp.cli.stream import stream
from offramp.cli.up import up

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False
)

for command in (train, compress, export, calibrate, evaluate, profile, predict, up, stream, link):
    app.command()(command)
for entry in sorted(entry_points(group="offramp.commands")):
    app.command(entry.name)(entry.load())


@app.callback()
def offramp(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    """Early-exit neural networks: train, export, calibrate, evaluate, and serve on tiers."""
    if show_version:
        typer.echo(version("offramp"))
        raise typer.Exit


def main() -> None:
    """Entry point of the `offramp` script."""
    app()
