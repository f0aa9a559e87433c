"""Decides who a caller is, and what they may do: by an API key, or by a signed token (JWT)."""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from offramp.errors import ConfigError
from offramp.serving.access.following import Followed, read_file
from offramp.serving.access.keys import ALL_RIGHTS, Caller, Keys, Right

ANYBODY = Caller(None, ALL_RIGHTS)
NOBODY = Caller(None, frozenset())

_ALGORITHMS = ["EdDSA", "ES256", "ES384", "RS256", "PS256"]
_LEEWAY_S = 30  # clocks differ
_MAX_BYTES = 8192  # of a header that says who asks
_REMEMBERED = 1024


@dataclass(frozen=True, kw_only=True)
class AccessFiles:
    """What callers are known by; without any, everybody may do everything.

    keys: a file that `offramp keys` makes. token_keys: the public keys that sign tokens: a JWK Set, or one key in PEM.
    token_issuer, token_audience: what a token has to name.
    """

    keys: Path | None = None
    token_keys: Path | None = None
    token_issuer: str | None = None
    token_audience: str | None = None


class Access:
    """Knows callers by what their Authorization header says."""

    def __init__(self, files: AccessFiles) -> None:
        """Read the files.

        Raises:
            ConfigError: one of them cannot be read, or is not what it should be.
        """
        self._keys = Keys(files.keys) if files.keys else None
        self._tokens = Tokens(files) if files.token_keys else None

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything."""
        return self._keys is None and self._tokens is None

    def caller(self, authorization: bytes | None) -> Caller | None:
        """Who sends this header; `NOBODY` if there is none, None if it is not valid."""
        if self.is_open:
            return ANYBODY
        if authorization is None:
            return NOBODY
        shown = _shown(authorization)
        if shown is None:
            return None
        found = self._keys.caller(shown) if self._keys else None
        if found is None and self._tokens:
            found = self._tokens.caller(shown)
        return found


def _shown(authorization: bytes) -> bytes | None:
    """The key or token of a header: a bearer's, or the password of what a browser asks for."""
    scheme, _, rest = authorization.partition(b" ")
    rest = rest.strip()
    if len(authorization) > _MAX_BYTES:
        return None
    if scheme.lower() == b"bearer":
        return rest
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return None
    return None


class Tokens:
    """Signed tokens. Their claim `scope` has the rights, separated by spaces; `exp` and `sub` are required."""

    def __init__(self, files: AccessFiles) -> None:
        """Read the keys that sign them.

        Raises:
            ConfigError: there are none, or it is not said who issues tokens, or for whom.
        """
        assert files.token_keys is not None
        if not (files.token_issuer and files.token_audience):
            raise ConfigError(
                "keys of tokens without token_issuer and token_audience would let in tokens that were made for another "
                "service; give all three"
            )
        file = files.token_keys
        self._keys = Followed([file], lambda: _public_keys(file), what="token_keys")
        self._issuer = files.token_issuer
        self._audience = files.token_audience
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._known_by = self._keys.current

    def caller(self, token: bytes) -> Caller | None:
        """Who this token was issued for; None if it is not valid."""
        if self._keys.current is not self._known_by:
            self._known.clear()
            self._known_by = self._keys.current
        if known := self._known.get(token):
            return known[0] if time() < known[1] + _LEEWAY_S else None
        claims = self._claims(token)
        if claims is None:
            return None
        granted = str(claims.get("scope", "")).split()
        caller = Caller(str(claims["sub"])[:100], frozenset(right for right in Right if right in granted))
        self._known[token] = caller, float(claims["exp"])
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return caller

    def _claims(self, token: bytes) -> dict[str, Any] | None:
        import jwt

        for key in self._known_by:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=_ALGORITHMS,
                    issuer=self._issuer,
                    audience=self._audience,
                    leeway=_LEEWAY_S,
                    options={"require": ["exp", "sub"]},
                )
            except (jwt.PyJWTError, ValueError, TypeError):
                continue
            return claims
        return None


def _public_keys(file: Path) -> list[Any]:
    import jwt
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found = read_file(file)
    try:
        if found.lstrip().startswith(b"{"):
            return list(jwt.PyJWKSet.from_dict(json.loads(found)).keys)
        return [load_pem_public_key(found)]
    except (ValueError, TypeError, jwt.PyJWTError) as error:
        raise ConfigError(
            f"{file} has no public keys: {error}; give a JWK Set, or one public key in PEM"
        ) from error
