"""How a command hears what it is told: options, variables, a TOML file, and what it says of what does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from offramp.cli.main import commands, load
from offramp.command import Command
from offramp.errors import ConfigError
from tests.commands import check_refused, offramp
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES


def config(directory: Path, text: str) -> str:
    path = directory / "edge.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


class TestSources:
    def test_the_command_line_comes_before_the_environment_before_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = config(tmp_path, 'bundle = "c"\nport = 3\nmax_batch = 3\nthreads = 3\n')
        monkeypatch.setenv("EDGE_PORT", "2")
        monkeypatch.setenv("EDGE_MAX_BATCH", "2")
        settings = EdgeSettings.read(["--config", file, "--port", "1"])
        found = (settings.bundle, settings.port, settings.max_batch, settings.threads, settings.workers)
        assert found == (Path("c"), 1, 2, 3, os.cpu_count())

    def test_a_variable_names_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLOUD_CONFIG", config(tmp_path, 'bundle = "b"\nmax_samples = 7\n'))
        assert CloudSettings.read().max_samples == 7

    def test_settings_made_in_code_ask_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGE_PORT", "2")
        assert EdgeSettings(bundle=Path("b")).port == 8000

    def test_a_switch_that_is_on_can_be_turned_off_in_each_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not EdgeSettings.read(["b", "--no-upstream-health-check"]).upstream_health_check
        file = config(tmp_path, "upstream_health_check = false")
        assert not EdgeSettings.read(["b", "--config", file]).upstream_health_check
        monkeypatch.setenv("EDGE_UPSTREAM_HEALTH_CHECK", "false")
        assert not EdgeSettings.read(["b"]).upstream_health_check

    def test_a_command_without_a_prefix_does_not_read_variables(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("LIMIT", "limit", "POINT"):
            monkeypatch.setenv(name, "7")
        command = load(commands()["evaluate"]).read(["b", "--data", "d"])
        assert command.model_dump()["limit"] is None and command.model_dump()["point"] is None


class TestWhatDoesNotFit:
    """An error names the setting as it was given, and only what there is."""

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["b", "--max-batch", "0"], "--max-batch is '0': should be greater than or equal to 1"),
            (["b", "--port", "x"], "--port is 'x': should be a valid integer"),
            (["b", "--blocks", "2-1"], "--blocks is '2-1': not a range of blocks; write FIRST-LAST"),
            (["b", "--upstrem", "x:1"], "unrecognized arguments: --upstrem"),
            (["b", "c"], "unrecognized arguments: c"),
            (["b", "--port"], "argument --port: expected one argument"),
            (
                [],
                "BUNDLE is missing; give it on the command line, or set EDGE_BUNDLE, or bundle in a --config",
            ),
        ],
    )
    def test_on_the_command_line(self, arguments: list[str], says: str) -> None:
        with pytest.raises(ConfigError) as refused:
            EdgeSettings.read(arguments)
        assert says in str(refused.value)

    @pytest.mark.parametrize("name", list(EdgeSettings.model_fields))
    def test_in_a_variable(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if name in ("bundle", "config", "policy_file"):
            return  # any text is a path
        monkeypatch.setenv(f"EDGE_{name.upper()}", "")
        with pytest.raises(ConfigError, match=f"^EDGE_{name.upper()} is ''"):
            EdgeSettings.read(["b"])

    def test_in_a_misspelt_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGE_MAX_BACH", "3")
        with pytest.raises(ConfigError, match="unknown variable EDGE_MAX_BACH; did you mean EDGE_MAX_BATCH"):
            EdgeSettings.read(["b"])

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("port = 'x'", "port in {} is 'x': should be a valid integer"),
            ("prot = 1", "{} sets 'prot', which is not a setting; did you mean port?"),
            ("[edge]\nport = 1", "{} sets 'edge', which is not a setting"),
            ("port", "{} is not TOML"),
        ],
    )
    def test_in_a_file(self, text: str, says: str, tmp_path: Path) -> None:
        file = config(tmp_path, text)
        with pytest.raises(ConfigError) as refused:
            EdgeSettings.read(["b", "--config", file])
        assert says.format(file) in str(refused.value)

    def test_in_a_file_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match=r"gone\.toml cannot be read: No such file"):
            EdgeSettings.read(["b", "--config", "gone.toml"])

    def test_every_option_that_an_error_can_name_exists(self) -> None:
        for settings in (EdgeSettings, CloudSettings):
            shown = offramp("edge" if settings is EdgeSettings else "cloud", "--help").stdout
            for name, field in settings.model_fields.items():
                option = "BUNDLE" if name == "bundle" else f"--{name.replace('_', '-')}"
                assert option in shown or f"--no-{name.replace('_', '-')}" in shown, (option, field)


class _Weigh(Command):
    """Weigh things."""

    model_config = SettingsConfigDict(env_prefix="WEIGH_")
    things: CliPositionalArg[list[str]]
    at_most: float = Field(default=1.0, alias="most", gt=0, description="heaviest")


def test_an_alias_is_the_name_that_people_see() -> None:
    assert _Weigh.read(["a", "b", "--most", "2"]).at_most == 2
    with pytest.raises(ConfigError, match="--most is '-1'"):
        _Weigh.read(["a", "--most=-1"])


_WRONG = ("--no-such-option", "nowhere", "--data=nowhere", "--out=/proc/nowhere", "--port=99999", "--rate=x")


@pytest.mark.parametrize("name", list(commands()))
def test_no_command_answers_wrong_input_with_a_traceback(name: str, tmp_path: Path) -> None:
    for wrong in ([], ["nowhere"], *([text] for text in _WRONG), [str(tmp_path), "--data", str(tmp_path)]):
        if name == "up" and not wrong:
            continue  # its defaults are fine
        if name in ("dashboard", "link") and not wrong:
            continue
        if name in ("certs", "keys") and wrong in (["nowhere"], [str(tmp_path)]):
            continue  # they make what is not there
        check_refused(offramp(name, *wrong))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "nowhere", "--out", "here"], "is not a training run"),
        (["predict", "nowhere", str(SAMPLES)], "no bundle in nowhere"),
        (["predict", str(FASHION_BUNDLE), str(ROOT / "docs" / "decisions")], "has no photos"),
        (["predict", "http://127.0.0.1:9", str(SAMPLES / "bag")], "did not answer like an edge node"),
        (["predict", str(FASHION_BUNDLE), str(SAMPLES / "bag"), "--json", "--csv"], "exclude each other"),
        (["evalute"], "did you mean evaluate?"),
        (["frobnicate"], "the commands are attach, train"),
    ],
)
def test_each_says_what_to_do(arguments: list[str], says: str) -> None:
    check_refused(offramp(*arguments), says)


def test_the_version_is_that_of_the_package() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "offramp.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "offramp 0.1.0"
