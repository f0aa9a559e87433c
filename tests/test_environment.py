"""Variables that other programs leave in a container, beside those that are settings."""

from __future__ import annotations

import logging

import pytest

from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from offramp.command import Command, prefix_of
from offramp.errors import ConfigError
from offramp_dashboard.settings import DashboardSettings

COMMANDS: list[tuple[type[Command], int]] = [
    (EdgeSettings, 8000),
    (CloudSettings, 50051),
    (DashboardSettings, 8080),
]
READ = {EdgeSettings: ["b"], CloudSettings: ["b"], DashboardSettings: []}


def service_links(name: str, address: str, port: int, protocol: str = "tcp") -> dict[str, str]:
    """What Kubernetes puts into every container for a Service of this name, with its default and a named port."""
    one = f"{name}_PORT_{port}_{protocol.upper()}"
    return {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_SERVICE_PORT_HTTP": str(port),
        f"{name}_PORT": f"{protocol}://{address}:{port}",
        one: f"{protocol}://{address}:{port}",
        f"{one}_PROTO": protocol,
        f"{one}_PORT": str(port),
        f"{one}_ADDR": address,
    }


@pytest.mark.parametrize(("command", "port"), COMMANDS)
@pytest.mark.parametrize(("address", "protocol"), [("10.0.0.1", "tcp"), ("[fd00::1]", "udp")])
def test_a_kubernetes_service_of_a_nodes_name_is_left_alone(
    command: type[Command],
    port: int,
    address: str,
    protocol: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prefix = prefix_of(command)
    for service in (prefix.rstrip("_"), f"{prefix}METRICS", f"{prefix}MAX_BATCH"):
        for name, value in service_links(service, address, 9999, protocol).items():
            monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO):
        found = command.read(READ[command]).model_dump()
    assert found["port"] == port
    assert found.get("metrics_port") is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (EdgeSettings, ["EDGE_VERSION", "EDGE_URL", "EDGE_PATH", "EDGE_DRIVER_BIN"]),
        (
            CloudSettings,
            ["CLOUD_SDK_VERSION", "CLOUD_RUN_JOB", "CLOUD_REGION", "CLOUD_BUILD", "CLOUD_PROJECT"],
        ),
        (DashboardSettings, ["DASHBOARD_URL", "DASHBOARD_TITLE", "DASHBOARD_TOKEN"]),
    ],
)
def test_variables_of_other_programs_are_not_spoken_of(
    command: type[Command],
    names: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in names:
        monkeypatch.setenv(name, "1")
    with caplog.at_level(logging.INFO):
        command.read(READ[command])
    assert not caplog.records


@pytest.mark.parametrize(
    ("command", "written", "meant"),
    [
        (EdgeSettings, "EDGE_PROT", "EDGE_PORT"),
        (EdgeSettings, "EDGE_WORKER", "EDGE_WORKERS"),
        (CloudSettings, "CLOUD_METRIC_PORT", "CLOUD_METRICS_PORT"),
        (DashboardSettings, "DASHBOARD_SAMPEL", "DASHBOARD_SAMPLES"),
    ],
)
def test_a_misspelt_variable_still_stops_the_start(
    command: type[Command], written: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(written, "1")
    with pytest.raises(ConfigError, match=f"unknown variable {written}; did you mean {meant}"):
        command.read(READ[command])


def test_a_port_that_is_neither_a_number_nor_a_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_PORT", "http://10.0.0.1:8000")
    with pytest.raises(ConfigError, match=r"EDGE_PORT is 'http://10\.0\.0\.1:8000'"):
        EdgeSettings.read(["b"])
