"""Signatures of bundles: Ed25519 over the bytes of `bundle.json`, which holds the hash of every other file.

A signature lies beside the manifest in `bundle.sig`. Whoever trusts a key can tell a bundle that its owner made from
any other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from offramp.errors import BundleError, ConfigError
from offramp.record import Record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_FILE = "bundle.sig"
MAX_SIGNATURE_BYTES = 4096
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


class Signature(Record):
    """The contents of `bundle.sig`."""

    format_version: Literal[1] = 1
    public_key: str = Field(pattern=r"^[0-9a-f]{64}$", description="of Ed25519, in hexadecimal")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$", description="of bundle.json, in hexadecimal")

    @property
    def fingerprint(self) -> str:
        """The name of the key that is said to have made it."""
        return fingerprint(bytes.fromhex(self.public_key))

    def fits(self, manifest: bytes) -> bool:
        """Whether its key made it for this manifest. Whether the key is to be trusted is another question."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), manifest)
        except (InvalidSignature, ValueError):
            return False
        return True

    @classmethod
    def read(cls, data: bytes, path: Path) -> Signature:
        """Read the contents of a file.

        Raises:
            BundleError: it is no signature.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise BundleError(
                f"{path} is not a signature; remove it, then run `offramp sign` again"
            ) from error


def fingerprint(public_key: bytes) -> str:
    """A short name of a public key of 32 bytes, by which people compare it."""
    return f"ed25519:{hashlib.sha256(public_key).hexdigest()[:32]}"


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The contents of `bundle.sig` for a manifest."""
    own = key.public_key().public_bytes_raw()
    signature = Signature(public_key=own.hex(), signature=key.sign(manifest).hex())
    return (signature.model_dump_json(indent=2) + "\n").encode()


def check_trusted(
    manifest: bytes, signature: Signature | None, trusted: Sequence[bytes], directory: Path
) -> None:
    """Check that one of the keys that are trusted has signed a manifest.

    Args:
        manifest: its bytes.
        signature: what lies beside it; None if nothing does.
        trusted: public keys of 32 bytes, as `read_trusted` returns them.
        directory: of the bundle, for errors.

    Raises:
        BundleError: none of them has.
    """
    expected = ", ".join(map(fingerprint, trusted))
    if signature is None:
        raise BundleError(
            f"{directory} is not signed, expected a signature by {expected}; run `offramp sign`"
        )
    if bytes.fromhex(signature.public_key) not in trusted:
        raise BundleError(
            f"{directory} is signed by {signature.fingerprint}, which is not trusted here, expected {expected}; sign "
            "it with a trusted key, or add this one to --trusted-keys"
        )
    if not signature.fits(manifest):
        raise BundleError(
            f"{directory} was altered after {signature.fingerprint} signed it; copy the whole bundle again, or sign it "
            "again"
        )


def read_trusted(path: Path) -> tuple[bytes, ...]:
    """The public keys in a PEM file, each of 32 bytes.

    Raises:
        ConfigError: it cannot be read, or holds something else, or nothing.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        blocks = _PEM.findall(path.read_bytes())
        return tuple(_ed25519(load_pem_public_key(block)).public_bytes_raw() for block in blocks) or _none(
            path
        )
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; name a file of public keys") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} holds something that is no public key of Ed25519 in PEM; `offramp sign --make-key` makes one"
        ) from error


def _ed25519(key: object) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not isinstance(key, Ed25519PublicKey):
        raise TypeError("another kind of key")
    return key


def _none(path: Path) -> tuple[bytes, ...]:
    raise ConfigError(
        f"{path} holds no key, expected public keys in PEM; `offramp sign --make-key` makes one"
    )
