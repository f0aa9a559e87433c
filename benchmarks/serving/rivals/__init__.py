"""The rivals: what each is called, what it needs, and how to start it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import onnxruntime

PROGRAMS = Path(__file__).parent
# The releases that Offramp runs on here, so that decoders and kernels are the same.
_COMMON = (
    f"onnxruntime=={onnxruntime.__version__}",  # which onnxruntime-gpu provides too
    *(f"{package}=={version(package)}" for package in ("cykooz.resizer", "numpy", "pillow", "simplejpeg")),
)


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A server of the plain backbone.

    command: a program in its environment's bin/ and its arguments, with {port} and {workers} to be filled in. folder:
    of its environment; rivals that need the same packages share one. workers: processes that answer. at_once: images
    that each of them answers at the same time. threads: of ONNX Runtime, for one image. path: where it takes images.
    takes_form: whether it takes them as a form field, not as the body.
    """

    name: str
    folder: str
    requirements: tuple[str, ...]
    command: tuple[str, ...]
    workers: int = 2
    at_once: int = 1
    threads: int = 1
    path: str = "/v1/predict"
    takes_form: bool = False

    def argv(self, environment: Path, port: int) -> list[str]:
        """Its command line."""
        program, *rest = (part.format(port=port, workers=self.workers) for part in self.command)
        return [str(environment / "bin" / program), *rest]

    def variables(self, spec: Path, port: int) -> Mapping[str, str]:
        """Its environment variables besides the usual ones; `spec` says what to serve."""
        return {
            "PLAIN_SPEC": str(spec),
            "PYTHONPATH": str(PROGRAMS),
            "RIVAL_PORT": str(port),
            "RIVAL_WORKERS": str(self.workers),
            "RIVAL_AT_ONCE": str(self.at_once),
            "RIVAL_THREADS": str(self.threads),
            "OMP_NUM_THREADS": "1",
            "BENTOML_DO_NOT_TRACK": "True",
            "RAY_USAGE_STATS_ENABLED": "0",
        }


_FASTAPI = Rival(
    name="FastAPI, 2 workers",
    folder="fastapi",
    requirements=("fastapi", f"uvicorn[standard]=={version('uvicorn')}", *_COMMON),
    command=("python", str(PROGRAMS / "fastapi_server.py")),
)

# PyTriton is left out: its HTTP interface takes tensors in Triton's protocol, not a JPEG, and does not return JSON.
RIVALS: tuple[Rival, ...] = (
    replace(_FASTAPI, name="FastAPI, 1 worker", workers=1),
    # A network that takes milliseconds fills two cores in three ways, and which is best depends on the network.
    _FASTAPI,
    replace(_FASTAPI, name="FastAPI, 1 worker, 2 requests at once", workers=1, at_once=2),
    replace(_FASTAPI, name="FastAPI, 1 worker, 2 threads a request", workers=1, threads=2),
    Rival(
        name="Mosec",
        folder="mosec",
        requirements=("mosec", *_COMMON),
        # By default, it gives up after 3 s, which many clients with large photos wait.
        command=(
            "python",
            str(PROGRAMS / "mosec_server.py"),
            "--port={port}",
            "--address=127.0.0.1",
            "--timeout=60000",
        ),
        path="/inference",
    ),
    Rival(
        name="LitServe",
        folder="litserve",
        requirements=("litserve", "python-multipart", *_COMMON),
        command=("python", str(PROGRAMS / "litserve_server.py")),
        takes_form=True,
    ),
    Rival(
        name="BentoML",
        folder="bentoml",
        requirements=("bentoml", *_COMMON),
        command=("bentoml", "serve", "bentoml_server:Predict", "--port={port}", "--host=127.0.0.1"),
    ),
    Rival(
        name="MLServer",
        folder="mlserver",
        # Its processes ask for an event loop as uvloop 0.22 no longer lets them.
        requirements=("mlserver", "uvloop<0.22", *_COMMON),
        command=("python", str(PROGRAMS / "mlserver_server.py")),
    ),
    Rival(
        name="Ray Serve",
        folder="ray",
        requirements=("ray[serve]", *_COMMON),
        command=("python", str(PROGRAMS / "ray_server.py")),
    ),
)
