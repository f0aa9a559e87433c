"""Runs the nodes of any checkout of the project, this one or an older one, as child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from offramp.cli.processes import NodeProcess
from offramp.errors import ConfigError, OfframpError

HERE = Path(__file__).resolve().parent.parent
# The caller's settings for its own nodes and its own Python must not reach another checkout.
_PRIVATE = ("EDGE_", "CLOUD_", "OFFRAMP_", "PYTHON")
# Long, so that a busy machine does not cause degraded answers.
_TIMEOUT_S = "30"
_WHERE = """
from importlib.util import find_spec
for name in ("edge_node", "cloud_node", "offramp"):
    spec = find_spec(name)
    print(f"{name}={spec.origin if spec else 'nowhere'}")
"""


@dataclass(frozen=True)
class Checkout:
    """A folder with the project, and the interpreter of an environment in which that folder is installed."""

    directory: Path = HERE
    python: Path = Path(sys.executable)

    def check(self) -> None:
        """Check that the interpreter runs the code of this checkout.

        Raises:
            ConfigError: it runs other code, or does not run.
        """
        if not (self.directory.is_dir() and self.python.is_file()):
            raise ConfigError(
                f"{self.directory} is not a directory, or {self.python} not a file; give a checkout and its interpreter"
            )
        said = subprocess.run(
            self._command("-c", _WHERE),
            check=False,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self._environment({}),
        )
        if said.returncode:
            raise ConfigError(f"{self.python} does not run: {said.stderr.strip()[-300:]}")
        for found in said.stdout.splitlines():
            name, _, origin = found.partition("=")
            if not Path(origin).resolve().is_relative_to(self.directory.resolve()):
                raise ConfigError(
                    f"{self.python} imports {name} from {origin}, expected it below {self.directory}; give --python of "
                    "an environment in which that checkout is installed"
                )

    @contextmanager
    def serving(self, bundle: str, *, with_cloud: bool) -> Iterator[str]:
        """Run an edge node, alone or with a cloud node, with a shipped bundle at its default operating point.

        Args:
            bundle: name of a folder in the checkout's `models/`.
            with_cloud: whether the edge offloads; otherwise it runs all blocks itself.

        Yields:
            The URL that takes photos.

        Raises:
            ConfigError: a node does not start.
        """
        with self.nodes(self.directory / "models" / bundle, with_cloud=with_cloud) as nodes:
            yield f"http://{nodes['edge'].address}/v1/predict"

    @contextmanager
    def nodes(
        self, bundle: Path, *, with_cloud: bool, cloud_blocks: str | None = None
    ) -> Iterator[Mapping[str, NodeProcess]]:
        """The same with any bundle; a cloud with all blocks gets photos where these are smaller than features.

        Yields:
            The processes: `edge` and, if there is one, `cloud`.
        """
        settings = {"BUNDLE": str(bundle.resolve()), "PORT": "0"}
        with ExitStack() as stack:
            upstream, nodes = {}, {}
            if with_cloud:
                its = {**settings, "BLOCKS": cloud_blocks} if cloud_blocks else settings
                nodes["cloud"] = stack.enter_context(self._node("cloud_node", "CLOUD_", its))
                upstream = {"UPSTREAM": nodes["cloud"].address, "OFFLOAD_TIMEOUT_S": _TIMEOUT_S}
            nodes["edge"] = stack.enter_context(self._node("edge_node", "EDGE_", {**settings, **upstream}))
            yield nodes

    @contextmanager
    def _node(self, module: str, prefix: str, settings: Mapping[str, str]) -> Iterator[NodeProcess]:
        # All versions of the nodes can be started this way, with settings in variables.
        process = subprocess.Popen(
            self._command("-m", module),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env=self._environment({f"{prefix}{name}": value for name, value in settings.items()}),
        )
        node = NodeProcess(f"{self.directory.name} {module.removesuffix('_node')}", process, lambda _: None)
        try:
            node.wait_until_ready()
            yield node
        finally:
            node.terminate()
            node.wait()
            node.close()

    def _command(self, *arguments: str) -> list[str]:
        # -P: import nothing from the current directory.
        return [str(self.python.absolute()), "-P", *arguments]

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
        return {**kept, **settings}


def end_with_status(parser: ArgumentParser, command: Callable[[], bool]) -> None:
    """Run a command and exit: with 0 if all is well, 1 if not, or 2 and one line if the command cannot run."""
    try:
        parser.exit(0 if command() else 1)
    except OfframpError as error:
        parser.exit(2, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)
