"""Signed bundles: `offramp sign`, what nodes that trust a key refuse, and what `inspect` says."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edge_node.settings import EdgeSettings
from offramp.bundle import Bundle, load_bundle, write_manifest
from offramp.bundle.signature import read_trusted
from offramp.cli.inspect import Inspect
from offramp.cli.sign import Sign
from offramp.errors import BundleError, ConfigError
from tests.test_processes import check_one_clear_line, run_node


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle that a test may sign and spoil."""
    return Path(shutil.copytree(tiny_bundle.directory, tmp_path / "copy"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key to sign with."""
    return made(tmp_path / "owner.pem")


def made(file: Path) -> Path:
    Sign(make_key=file).execute()
    return file


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def trusting(bundle: Path, keys: Path) -> Bundle:
    """What a node that trusts these keys starts with."""
    return EdgeSettings(bundle=bundle, trusted_keys=keys).load_bundle()


def check_refused(bundle: Path, keys: Path, *says: str) -> None:
    with pytest.raises(BundleError) as caught:
        trusting(bundle, keys)
    for text in says:
        assert text in str(caught.value)


def test_a_signed_bundle_starts_where_its_key_is_trusted(copy: Path, key: Path) -> None:
    Sign(bundle=copy, key=key).execute()
    assert trusting(copy, public(key)).manifest == load_bundle(copy).manifest


def test_a_new_key_is_for_its_owner_alone(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"PRIVATE" not in public(key).read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        made(key)


def test_without_a_signature_it_is_refused_by_name(copy: Path, key: Path) -> None:
    check_refused(copy, public(key), str(copy), "is not signed, expected a signature by ed25519:")


def test_the_signature_of_another_key_is_refused_with_both_names(
    copy: Path, key: Path, tmp_path: Path
) -> None:
    Sign(bundle=copy, key=made(tmp_path / "stranger.pem")).execute()
    signature = load_bundle(copy).signature
    assert signature is not None
    check_refused(copy, public(key), signature.fingerprint, "not trusted here")


def test_of_several_trusted_keys_any_will_do(copy: Path, key: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(public(made(tmp_path / "old.pem")).read_bytes() + public(key).read_bytes())
    Sign(bundle=copy, key=key).execute()
    assert len(read_trusted(both)) == 2 and trusting(copy, both).signature is not None


@pytest.mark.parametrize("name", ["bundle.json", "block-1.onnx", "bundle.sig"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
def test_one_byte_changed_anywhere_is_refused(copy: Path, key: Path, name: str, place: float) -> None:
    Sign(bundle=copy, key=key).execute()
    data = bytearray((copy / name).read_bytes())
    data[int(place * len(data))] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError):
        trusting(copy, public(key))


def test_a_manifest_that_was_changed_since_is_refused_until_it_is_signed_again(copy: Path, key: Path) -> None:
    Sign(bundle=copy, key=key).execute()
    manifest = load_bundle(copy).manifest
    points = tuple(point.model_copy(update={"name": "other"}) for point in manifest.operating_points[:1])
    write_manifest(
        copy,
        manifest.model_copy(update={"operating_points": points, "default_operating_point": "other"}),
    )
    check_refused(copy, public(key), "altered after ed25519:")
    Sign(bundle=copy, key=key).execute()
    assert trusting(copy, public(key)).manifest.default_operating_point == "other"


def test_inspect_says_who_signed(copy: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Inspect(bundle=copy).execute()
    assert "not signed" in capsys.readouterr().out
    Sign(bundle=copy, key=key).execute()
    Inspect(bundle=copy).execute()
    signature = load_bundle(copy).signature
    assert signature is not None and f"signed by {signature.fingerprint}" in capsys.readouterr().out
    with (copy / "bundle.json").open("a") as file:
        file.write("\n")
    Inspect(bundle=copy).execute()
    assert "altered after" in capsys.readouterr().out


def test_a_key_that_others_may_read_is_refused(copy: Path, key: Path) -> None:
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Sign(bundle=copy, key=key).execute()


def test_a_damaged_bundle_is_not_signed(copy: Path, key: Path) -> None:
    with (copy / "block-1.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="altered"):
        Sign(bundle=copy, key=key).execute()
    assert not (copy / "bundle.sig").exists()


@pytest.mark.parametrize("what", ["nothing", "a secret", "another kind", "half of it"])
def test_a_file_of_trusted_keys_holds_public_keys_of_ed25519(key: Path, tmp_path: Path, what: str) -> None:
    other = generate_private_key(SECP256R1()).public_key()
    contents = {
        "nothing": b"",
        "a secret": key.read_bytes(),
        "another kind": other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "half of it": public(key).read_bytes().replace(b"M", b"", 1),
    }[what]
    file = tmp_path / "keys.pem"
    file.write_bytes(contents)
    with pytest.raises(ConfigError, match=r"keys\.pem holds"):
        read_trusted(file)


def test_it_is_signed_with_ed25519_only(copy: Path, tmp_path: Path) -> None:
    key = tmp_path / "ec.pem"
    key.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="expected Ed25519"):
        Sign(bundle=copy, key=key).execute()


@pytest.mark.parametrize("module", ["edge_node", "cloud_node"])
def test_a_node_says_in_one_line_why_it_does_not_start(copy: Path, key: Path, module: str) -> None:
    result = run_node(module, str(copy), "--trusted-keys", str(public(key)))
    check_one_clear_line(result, "is not signed, expected a signature by ed25519:")
