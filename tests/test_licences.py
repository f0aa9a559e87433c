"""What our images contain may be used as they are used: every licence is known, and none binds what runs beside it."""

from __future__ import annotations

import pytest

from deploy.sbom import PARTS, bill_of, licence_of, names_in
from tests.conftest import ROOT
from tests.test_locks import pins

FINE = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "HPND",
    "ISC",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-2.0",  # binds its own files only
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}
# Judged by hand: docutils is in the public domain but for a few files, and the one under the GPL, for Emacs, is not in
# its wheel.
JUDGED = {"docutils": "Public Domain AND BSD-3-Clause AND GNU General Public License (GPL)"}


@pytest.mark.parametrize("part", PARTS)
def test_every_licence_in_an_image_is_known_and_fine(part: str) -> None:
    found = {name: licence_of(name) for name in pins(f"{part}.txt")}
    unknown = {
        name: licence
        for name, licence in found.items()
        if licence is not None and not names_in(licence) <= FINE and JUDGED.get(name) != licence
    }
    assert not unknown
    missing = [
        name
        for name, licence in found.items()
        if licence is None and not any(pin.marker for pin in pins(f"{part}.txt")[name])
    ]
    assert not missing, "these are locked for every system, but declare no licence"


def test_the_bill_of_an_image_has_versions_hashes_and_licences() -> None:
    pytest.importorskip("cyclonedx_py", reason="needs cyclonedx-bom, of the group dev")
    bill = bill_of((ROOT / "requirements" / "cloud.txt").read_text())
    assert bill["bomFormat"] == "CycloneDX" and bill["metadata"]["component"]["name"] == "offramp"
    components = {each["name"].lower(): each for each in bill["components"]}
    assert set(components) == set(pins("cloud.txt"))
    numpy = components["numpy"]
    assert numpy["version"] and numpy["externalReferences"][0]["hashes"] and numpy["licenses"]
