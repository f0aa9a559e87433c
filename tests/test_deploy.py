"""What docker-compose.yml promises of every service, read from the file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from offramp.cli.processes import node_process
from tests.conftest import ROOT
from tests.nodes import closed_port_address

COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
_VARIABLE = re.compile(r"\$\{[A-Z_]+:-([^}]*)\}")


def default(text: str) -> str:
    """A value as it is where no variable is set."""
    return _VARIABLE.sub(r"\1", text)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_and_has_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"] and service["cpus"] and service["pids_limit"]
    assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "ports" in service])
def test_ports_are_for_this_machine_only_until_they_are_published(name: str) -> None:
    assert all(default(port).startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" not in service])
def test_images_of_others_have_a_version_and_can_be_pinned_by_digest(name: str) -> None:
    image = SERVICES[name]["image"]
    if not image.startswith("offramp-"):
        assert image.startswith(f"${{{name.upper()}_IMAGE:-") and re.search(
            r":v?\d+\.\d+\.\d+$", default(image)
        )


def test_our_images_are_built_on_one_that_can_be_pinned_by_digest() -> None:
    built = [service["build"] for service in SERVICES.values() if "build" in service]
    assert {build["args"]["PYTHON"] for build in built} == {"${PYTHON_IMAGE:-python:3.11-slim-bookworm}"}


def test_each_service_that_people_reach_is_encrypted_and_knows_them() -> None:
    for name in ("edge-1", "edge-2"):
        assert {"EDGE_TLS_CERT", "EDGE_TLS_KEY", "EDGE_KEYS"} <= set(SERVICES[name]["environment"])
    assert {"DASHBOARD_TLS_CERT", "DASHBOARD_KEY_FILE", "DASHBOARD_CA"} <= set(
        SERVICES["dashboard"]["environment"]
    )
    grafana = SERVICES["grafana"]["environment"]
    assert grafana["GF_SERVER_PROTOCOL"] == "https" and "GF_SECURITY_ADMIN_PASSWORD__FILE" in grafana
    assert "GF_AUTH_ANONYMOUS_ENABLED" not in grafana


def test_the_probe_of_a_dashboard_says_whether_it_lives() -> None:
    def probe(port: str) -> int:
        environment = {**os.environ, "DASHBOARD_PORT": port}
        command = [sys.executable, str(ROOT / "deploy" / "probe.py"), "dashboard"]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    edge = f"http://{closed_port_address()}"
    with node_process("offramp_dashboard", ["--port", "0", "--edge", edge], name="dashboard") as dashboard:
        port = dashboard.address.rpartition(":")[2]
        assert probe(port) == 0
    assert probe(port) != 0
