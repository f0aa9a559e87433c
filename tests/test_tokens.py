"""Signed tokens: which are taken, and which rights they give."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from offramp.errors import ConfigError
from offramp.serving.access.access import Access, AccessFiles
from tests.test_access import caller


@pytest.fixture
def signing() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def access(tmp_path: Path, signing: Ed25519PrivateKey) -> Access:
    file = tmp_path / "public.pem"
    file.write_bytes(signing.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Access(
        AccessFiles(token_keys=file, token_issuer="https://login.example", token_audience="offramp")
    )


def token_of(key: Any, algorithm: str = "EdDSA", **claims: Any) -> str:
    fine = {"iss": "https://login.example", "aud": "offramp", "sub": "ops", "exp": time.time() + 60}
    return jwt.encode({**fine, "scope": "watch change", **claims}, key, algorithm)


def test_a_token_has_the_rights_of_its_scope(access: Access, signing: Ed25519PrivateKey) -> None:
    token = token_of(signing)
    assert caller(access, token) == ["change", "watch"]
    assert caller(access, token) == ["change", "watch"]  # now remembered
    assert caller(access, token_of(signing, scope="everything")) == []


@pytest.mark.parametrize(
    "claims",
    [{"exp": 1}, {"iss": "x"}, {"aud": "x"}, {"exp": None}, {"sub": None}, {"nbf": 9e9}, {"iat": 9e9}],
)
def test_a_token_that_is_late_early_or_for_others_is_refused(
    access: Access, signing: Ed25519PrivateKey, claims: dict[str, Any]
) -> None:
    try:
        token = token_of(signing, **claims)
    except TypeError:
        pytest.skip("this library does not make such a token")
    assert caller(access, token) is None


def test_a_token_that_others_signed_or_nobody_is_refused(access: Access) -> None:
    assert caller(access, token_of(Ed25519PrivateKey.generate())) is None
    assert caller(access, token_of(None, "none")) is None
    assert caller(access, token_of("s" * 32, "HS256")) is None


def test_keys_of_tokens_need_an_issuer_and_an_audience(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token_issuer"):
        Access(AccessFiles(token_keys=tmp_path / "x.pem"))
