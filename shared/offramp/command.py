"""A command: a settings class whose fields are its options, and an `execute` that uses them.

A command with a prefix, such as a node's, also reads environment variables and a TOML file. The command line wins over
the environment, the environment over the file, and the file over the default. pydantic checks all of them by the same
rules.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from offramp.environment import check_variables, is_service_link
from offramp.errors import ConfigError, OfframpError, StoppedError
from offramp.install import how_to_install
from offramp.logs import flush_logging, start_logging


class Command(BaseSettings):
    """The settings of a command. Read once, never changed."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        cli_kebab_case=True,
        cli_implicit_flags="toggle",
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    _typed: str = PrivateAttr(default="offramp")

    @property
    def as_typed(self) -> str:
        """The command as it was typed; runs and bundles keep it in their provenance."""
        return self._typed

    def execute(self) -> None:
        """Run the command; it raises the errors of `offramp.errors`."""
        raise NotImplementedError(f"{type(self).__name__} has settings but no execute method")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the interface is pydantic's
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **others: Any,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the arguments when a command is created in code; `read` adds the other sources."""
        return (init_settings,)

    @classmethod
    def read(
        cls,
        arguments: Sequence[str] = (),
        *,
        program: str = "offramp",
        given: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read a command's settings from all their sources.

        Args:
            arguments: of the command line, without the program's name.
            program: the words that were typed before them, for the help.
            given: settings by name; they win over all other sources.

        Raises:
            ConfigError: a value is missing or not allowed, an option, a variable or a key does not exist, or the file
                cannot be read.
        """
        sources = [_Source("argument", dict(given or {})), _command_line(cls, arguments, program)]
        if prefix := prefix_of(cls):
            sources.append(_environment(cls, prefix))
            file = next((source.values["config"] for source in sources if source.values.get("config")), None)
            if file is not None:
                sources.append(_file(cls, Path(file)))
        merged = {name: value for source in reversed(sources) for name, value in source.values.items()}
        try:
            command = cls(**merged)
            command._typed = shlex.join([*program.split(), *arguments])
            return command
        except ValidationError as error:
            raise ConfigError(_explained(cls, error.errors()[0], sources)) from error


def separated(given: Any) -> Any:
    """The values of a setting that takes several: a list, texts with commas, or both."""
    texts = [given] if isinstance(given, str) else given
    return tuple(dict.fromkeys(part.strip() for text in texts for part in str(text).split(",")))


# Several texts, none of them empty; on the command line the option may also be repeated.
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], NoDecode, BeforeValidator(separated)]


def run_command(command: type[Command], arguments: Sequence[str], *, program: str) -> None:
    """Read a command and run it; an `OfframpError` is printed on one line, and the exit status is 2.

    After a signal it is 128 and the signal's number, as in a shell.
    """
    if prefix_of(command):
        start_logging()  # reading the variables may already log something
    try:
        command.read(arguments, program=program).execute()
    except StoppedError as error:
        end_with(error, status=128 + error.signal_number)
    except OfframpError as error:
        end_with(error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        if extra := _extra_of(error.name or ""):
            end_with(ConfigError(f"{error.name} is not installed; run: {how_to_install(extra)}"))
        raise
    finally:
        flush_logging()


def end_with(error: OfframpError, *, status: int = 2) -> NoReturn:
    """Print an error to standard error, and exit with this status."""
    from rich.console import Console
    from rich.text import Text

    flush_logging()
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), str(error)))
    raise SystemExit(status)


def prefix_of(command: type[Command]) -> str:
    """The prefix of a command's environment variables; empty if it reads none."""
    return str(command.model_config.get("env_prefix", ""))


def variable_of(command: type[Command], name: str) -> str:
    """The environment variable of a setting, such as EDGE_MAX_BATCH; only a command with a prefix reads it."""
    return f"{prefix_of(command)}{name}".upper()


def option_of(name: str, field: FieldInfo) -> str:
    """How a setting is written on the command line: `--max-batch`, or `BUNDLE` for a positional argument.

    A switch that is on by default is `--no-NAME`.
    """
    shown = (field.alias or name).replace("_", "-")
    if _is_positional(field):
        return shown.upper()
    return f"--no-{shown}" if field.default is True else f"--{shown}"


@dataclass(frozen=True)
class _Source:
    """One source of settings, and the values it gave, as they were written."""

    name: str
    values: Mapping[str, Any]


class _Parser(argparse.ArgumentParser):
    """argparse's parser, but a wrong command line raises `ConfigError`."""

    def __init__(self, command: type[Command], program: str) -> None:
        places = [
            option_of(name, field) for name, field in command.model_fields.items() if _is_positional(field)
        ]
        super().__init__(
            program,
            " ".join(["%(prog)s [OPTIONS]", *places]),
            inspect.cleandoc(command.__doc__ or ""),
            formatter_class=_Help,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `{self.prog} --help` shows what it takes")


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)


_KINDS = {"int": "N", "float": "X", "Path": "PATH"}
_UNSAID = re.compile(r" ?\(default(: (None|\(\)|\[\]|True|False)| factory: [^)]*)\)$")


def _command_line(command: type[Command], arguments: Sequence[str], program: str) -> _Source:
    has_other_sources = bool(prefix_of(command))

    def add(parser: Any, *names: str, **more: Any) -> Any:
        is_positional = not names[0].startswith("-")
        if is_positional and has_other_sources and more.get("nargs") is None:
            more["nargs"] = "?"  # the environment or a file may have it
        elif not is_positional and "metavar" in more and "{" not in str(more["metavar"]):
            kind = re.sub(r"(list|tuple)\[(\w+).*\]", r"\2", str(more["metavar"]))
            more["metavar"] = _KINDS.get(kind, "TEXT")
        more["help"] = _UNSAID.sub("", str(more.get("help", ""))).replace("%", "%%")
        return argparse.ArgumentParser.add_argument(parser, *names, **more)

    source = CliSettingsSource[Any](
        command,
        cli_parse_args=list(arguments),
        root_parser=_Parser(command, program),
        add_argument_method=add,
        formatter_class=_Help,
    )
    return _Source("command line", _by_field(command, source()))


def _environment(command: type[Command], prefix: str) -> _Source:
    check_variables(prefix, command.model_fields)
    values = _by_field(command, EnvSettingsSource(command)())
    own = {name: value for name, value in values.items() if not is_service_link(f"{prefix}{name}")}
    return _Source("environment", own)


def _file(command: type[Command], path: Path) -> _Source:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give --config another file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}; write lines such as port = 8000") from error
    for name in found:
        if name not in command.model_fields:
            close = get_close_matches(name, command.model_fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "the settings reference lists them all"
            raise ConfigError(f"{path} sets '{name}', which is not a setting; {hint}")
    return _Source(str(path), found)


def _by_field(command: type[Command], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.alias or name: name for name, field in command.model_fields.items()}
    return {names.get(name, name): value for name, value in values.items()}


def _explained(command: type[Command], error: ErrorDetails, sources: Sequence[_Source]) -> str:
    """One sentence about a wrong value, with the name by which it was given."""
    name = str(error["loc"][0]) if error["loc"] else ""
    name = _by_field(command, {name: None}).popitem()[0]
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if name not in command.model_fields:
        return f"{name}: {message}" if name else message
    option, variable = option_of(name, command.model_fields[name]), variable_of(command, name)
    if error["type"] == "missing":
        others = f", or set {variable}, or {name} in a --config file" if prefix_of(command) else ""
        return f"{option} is missing; give it on the command line{others}"
    origin = next((source.name for source in sources if name in source.values), "default")
    where = {"command line": option, "environment": variable, "argument": name}.get(
        origin, f"{name} in {origin}"
    )
    return f"{where} is {error['input']!r}: {message}"


def _is_positional(field: FieldInfo) -> bool:
    return any(getattr(mark, "__name__", "") == "_CliPositionalArg" for mark in field.metadata)


_EXTRAS = {
    "edge": ("fastapi", "fastapi_offline", "httptools", "orjson", "python_multipart", "starlette", "uvicorn"),
    "cloud": ("grpc_health", "grpc_reflection", "httptools", "uvicorn"),
    "dashboard": ("nicegui",),
    "train": ("kornia", "lightning", "onnx", "onnxscript", "torch", "torchmetrics"),
    "evaluate": ("scipy",),
    "transformers": ("safetensors", "transformers"),
    "report": ("jinja2", "matplotlib"),
    "heif": ("pillow_heif",),
}


def _extra_of(module: str) -> str | None:
    package = module.partition(".")[0]
    return next((extra for extra, packages in _EXTRAS.items() if package in packages), None)
