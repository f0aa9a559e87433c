"""`python deploy/sbom.py DIRECTORY`: what is in each image and in the wheel, as CycloneDX, with hashes and licences.

Names, versions and hashes are those of requirements/; licences are those that the packages installed beside this script
declare. A package that is locked for another system only has none.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PARTS = ("edge", "cloud", "dashboard")
# What some packages say, as SPDX has it.
_SPDX = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
_NAMES = re.compile(r"[A-Za-z0-9.+-]+")
_WORDS = {"AND", "OR", "WITH"}


def licence_of(name: str) -> str | None:
    """The licence that an installed package declares, as an SPDX expression where it is one; None if it has none."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    declared = found.metadata.get("License-Expression") or _of_classifiers(found)
    declared = declared or str(found.metadata.get("License") or "").strip().splitlines()[:1]
    text = declared if isinstance(declared, str) else " ".join(declared)
    return _SPDX.get(text.lower(), text) or None


def names_in(licence: str) -> set[str]:
    """The licences of an expression."""
    return set(_NAMES.findall(licence)) - _WORDS


def _of_classifiers(found: Distribution) -> str:
    said = found.metadata.get_all("Classifier") or []
    last = [text.rpartition(" :: ")[2] for text in said if text.startswith("License :: ")]
    return " AND ".join(_SPDX.get(text.lower(), text) for text in last if text != "OSI Approved")


def bill_of(requirements: str) -> dict[str, Any]:
    """The bill of materials of a requirements file's text, with licences."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "cyclonedx_py",
        "requirements",
        "-",
        "--output-reproducible",
    ]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), "--of", "JSON"]
    made = subprocess.run(command, input=requirements, capture_output=True, text=True, check=True).stdout
    bill: dict[str, Any] = json.loads(made)
    for component in bill["components"]:
        component.pop("description", None)  # the line of the file again
        if licence := licence_of(component["name"]):
            component["licenses"] = [{"license": {"name": licence}}]
    return bill


def main(directory: Path) -> None:
    """Write sbom-PART.json for each image and for the wheel."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {part: (ROOT / "requirements" / f"{part}.txt").read_text() for part in PARTS}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts["wheel"] = "\n".join(project["dependencies"])
    for part, text in texts.items():
        bill = bill_of(text)
        file = directory / f"sbom-{part}.json"
        file.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
        print(f"{file}: {len(bill['components'])} packages")  # noqa: T201 - the output of the command


if __name__ == "__main__":
    main(Path(sys.argv[1]))
