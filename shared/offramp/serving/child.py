"""`python -m offramp.serving.child MODULE …`: runs a module that ends when its parent process does.

The kernel sends the child SIGTERM however the parent ends, even after kill -9. The child asks for this itself, because
running code between fork and exec is not safe once gRPC runs.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def end_with_parent(parent: int) -> None:
    """Have the kernel send this process SIGTERM when the process with id `parent` ends; if it has, end now."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Take the module's name out of the arguments and run it."""
    end_with_parent(os.getppid())
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
