"""Every module can be the first one imported, and serving loads no more than it uses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import FASHION_BUNDLE, ROOT

# Imports each module in a process of its own, forked from one that has loaded the libraries of others, but nothing of
# ours: as good as a new interpreter, in a hundredth of its time.
_EACH_ALONE = """
import gc, importlib, json, os, sys, traceback

for library in sys.argv[1].split():
    try:
        importlib.import_module(library)
    except ModuleNotFoundError:
        pass
ours = [name for name in sys.modules if name.partition(".")[0] in sys.argv[2].split()]
assert not ours, ours
gc.disable()
gc.freeze()

failures = {}
for module in json.load(sys.stdin):
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            os.write(writing, f"needs {error.name}".encode())
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        said = told.read().decode()
    _, status = os.waitpid(child, 0)
    if said or status:
        failures[module] = said or f"ended with {status}"
print(json.dumps(failures))
"""

_LIBRARIES = """
    constriction fastapi fastapi_offline google.protobuf grpc.aio grpc_health.v1.health grpc_reflection.v1alpha
    httptools httpx jinja2 lightning matplotlib.pyplot nicegui numpy onnx onnx2fx onnxruntime openvino
    opentelemetry.sdk.trace orjson PIL.Image prometheus_client pydantic pydantic_settings rich.console starlette torch
    torch.onnx torchmetrics uvicorn uvloop
"""
_ROOTS = {"offramp": "shared", "edge_node": ".", "cloud_node": ".", "offramp_dashboard": "."}


def modules() -> list[str]:
    """Every module of the project, the generated ones included."""
    found = []
    for package, where in _ROOTS.items():
        for file in (ROOT / where / package).rglob("*.py"):
            parts = file.relative_to(ROOT / where).with_suffix("").parts
            found.append(".".join(parts).removesuffix(".__init__"))
    return sorted(found)


def test_every_module_can_be_imported_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _EACH_ALONE, _LIBRARIES, " ".join(_ROOTS)],
        cwd=ROOT,
        input=json.dumps(modules()),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    failures = json.loads(done.stdout.splitlines()[-1])
    # Ray Serve has an environment of its own.
    failures = [f"{module}: {said}" for module, said in failures.items() if said != "needs ray"]
    assert not failures, "\n".join(failures)


_LISTS_WHEN_ASKED = """
import runpy, sys, threading
def tell():
    sys.stdin.read()
    print(*sorted(sys.modules), flush=True)
threading.Thread(target=tell, daemon=True).start()
package, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(package, run_name="__main__", alter_sys=True)
"""


def loaded_by(package: str) -> set[str]:
    """The modules that a node has loaded when it is ready."""
    command = [sys.executable, "-c", _LISTS_WHEN_ASKED, package, str(FASHION_BUNDLE), "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "event=ready" in line:
                break
        process.stdin.close()
        loaded = process.stdout.readline().split()
        process.terminate()
    assert "event=ready" in "".join(said), "".join(said[-20:])
    return set(loaded)


@pytest.mark.parametrize(("package", "others"), [("cloud_node", "edge_node"), ("edge_node", "cloud_node")])
def test_a_node_loads_only_what_serving_needs(package: str, others: str) -> None:
    loaded = loaded_by(package)
    assert "offramp.serving.node" in loaded
    rooms = ("offramp.cli", "offramp.authoring", "offramp_dashboard", others)
    libraries = (
        "torch",
        "lightning",
        "onnx",
        "openvino",
        "matplotlib",
        "jinja2",
        "scipy",
        "nicegui",
        "typer",
        "rich",
    )
    for unwanted in (*rooms, *libraries):
        assert not {name for name in loaded if name == unwanted or name.startswith(f"{unwanted}.")}
