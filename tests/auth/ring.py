"""Keys without a database, and tokens put together by hand: what an attacker can do."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from lowtide.auth.keys import SigningKey, thumbprint

NOW = 1_790_000_000


class Ring:
    """Signing keys in memory."""

    def __init__(self) -> None:
        self.generation = 0
        self.keys: dict[str, SigningKey] = {}
        self.add()

    def add(self) -> SigningKey:
        """A new current key."""
        private = ec.generate_private_key(ec.SECP256R1())
        public = private.public_key()
        key = SigningKey(thumbprint(public), "current", public, private, NOW * 1000)
        self.keys[key.kid] = key
        self.current = key
        self.generation += 1
        return key

    def drop(self, kid: str) -> None:
        del self.keys[kid]
        self.generation += 1

    def find(self, kid: str) -> SigningKey | None:
        return self.keys.get(kid)


def segment(value: Mapping[str, Any] | str | bytes) -> str:
    """One part of a token: a JSON object, or bytes as they are."""
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        value = json.dumps(value).encode()
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def es256(key: SigningKey, signed: str) -> bytes:
    """The signature of JOSE: r and s, 32 bytes each."""
    assert key.private is not None
    r, s = decode_dss_signature(key.private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def forge(
    key: SigningKey,
    claims: Mapping[str, Any] | str | bytes | None = None,
    header: Mapping[str, Any] | str | bytes | None = None,
) -> str:
    """A token with a right signature over whatever the parts are; good ones where nothing is said."""
    head = segment(good_header(key) if header is None else header)
    signed = f"{head}.{segment(good_claims() if claims is None else claims)}"
    return f"{signed}.{segment(es256(key, signed))}"


def good_header(key: SigningKey, **changes: Any) -> dict[str, Any]:
    return without_none({"alg": "ES256", "typ": "at+jwt", "kid": key.kid} | changes)


def good_claims(**changes: Any) -> dict[str, Any]:
    """A valid payload with ``changes``; None takes a claim away."""
    claims = {"iss": "lowtide", "aud": "app", "sub": "ann", "iat": NOW, "exp": NOW + 600}
    return without_none(claims | changes)


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
