"""`sign`: signs a bundle, so that nodes can refuse every other one; and makes the key for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offramp.bundle import load_bundle
from offramp.cli.progress import console
from offramp.command import Command
from offramp.errors import ConfigError


class Sign(Command):
    """Sign a bundle, so that nodes that trust your key refuse every other one.

    The signature (Ed25519) lies beside the manifest, in bundle.sig, and holds for every file that the manifest lists.
    Sign again after whatever changes the manifest, such as `offramp calibrate`. The key stays with you; nodes get its
    public half with the setting trusted_keys.

    Example: offramp sign --make-key owner.pem, then offramp sign models/b-lenet-fashion --key owner.pem
    """

    bundle: CliPositionalArg[Path | None] = Field(default=None, description="directory of the bundle to sign")
    key: Path | None = Field(default=None, description="private key, in PEM, that only its owner can read")
    make_key: Path | None = Field(
        default=None, description="write a new private key into this file, and its public half into FILE.pub"
    )

    def execute(self) -> None:
        """Make a key, or sign."""
        if self.make_key is not None:
            if self.bundle is not None or self.key is not None:
                raise ConfigError("--make-key makes a key and signs nothing; leave BUNDLE and --key out")
            _make_key(self.make_key)
        elif self.bundle is None or self.key is None:
            raise ConfigError("BUNDLE and --key say what is signed with what; --make-key FILE makes a key")
        else:
            _sign(self.bundle, self.key)


def _make_key(file: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    from offramp.bundle.signature import fingerprint
    from offramp.serving.access.authority import write

    public = file.with_name(f"{file.name}.pub")
    for taken in (file, public):
        if taken.exists():
            raise ConfigError(f"{taken} exists, and bundles may be signed with it; name another file")
    key = Ed25519PrivateKey.generate()
    write(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), secret=True)
    write(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    name = fingerprint(key.public_key().public_bytes_raw())
    console.print(f"{file} is the key {name}; give nodes {public}", highlight=False, soft_wrap=True)


def _sign(directory: Path, key_file: Path) -> None:
    from offramp.bundle.signature import SIGNATURE_FILE, Signature, sign
    from offramp.serving.access.authority import write

    key = _private_key(key_file)
    # Read first: whoever signs a damaged bundle would vouch for it.
    bundle = load_bundle(directory)
    data = sign(bundle.manifest_bytes, key)
    write(directory / SIGNATURE_FILE, data)
    signer = Signature.read(data, directory / SIGNATURE_FILE).fingerprint
    console.print(f"{bundle.manifest.bundle_id} is signed by {signer}", highlight=False, soft_wrap=True)


def _private_key(file: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from offramp.serving.access.certificates import private_file

    try:
        key = load_pem_private_key(private_file(file), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{file} is not a private key in PEM without a password; `offramp sign --make-key` makes one"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{file} is another kind of key, expected Ed25519; `offramp sign --make-key` makes one"
        )
    return key
