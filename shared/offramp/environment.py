"""Tells the variables of a command's settings from those that other programs put into the environment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches

from offramp.errors import ConfigError
from offramp.logs import line

# What Kubernetes and Docker put into every container for each service, here without EDGE_ of a service named "edge".
_LINK = re.compile(r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")

_log = logging.getLogger("offramp.environment")


def check_variables(prefix: str, settings: Iterable[str]) -> None:
    """Check that every variable with this prefix is a setting, or clearly none of ours.

    Raises:
        ConfigError: a name resembles a setting, so it is probably misspelt.
    """
    known = {name.upper() for name in settings}
    for variable in sorted(os.environ):
        name = variable.removeprefix(prefix)
        if name == variable or name in known or _LINK.fullmatch(name) or is_service_link(variable):
            continue
        # Without the prefix, which would make any two names alike.
        if meant := get_close_matches(name, known, n=1, cutoff=0.75):
            raise ConfigError(f"unknown variable {variable}; did you mean {prefix}{meant[0]}?")
        # Other programs use these prefixes too, as in CLOUD_SDK_VERSION.
        _log.debug(line("ignored", variable=variable, detail="not a setting of this node"))


def is_service_link(variable: str) -> bool:
    """Whether a variable such as EDGE_PORT holds the address of a service, tcp://10.0.0.1:8000."""
    name = variable.upper()
    return name.endswith("_PORT") and bool(_ADDRESS.fullmatch(os.environ.get(name, "")))
