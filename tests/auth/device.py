"""A device with a key of its own: what signs DPoP proofs, right ones and wrong ones."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.auth.ring import NOW, segment, without_none


class Device:
    """A key pair: P-256, or Ed25519 when ``edwards``."""

    def __init__(self, *, edwards: bool = False):
        self.private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
        if edwards:
            self.private = ed25519.Ed25519PrivateKey.generate()
            x = _text(self.private.public_key().public_bytes_raw())
            self.jwk = {"crv": "Ed25519", "kty": "OKP", "x": x}
        else:
            self.private = ec.generate_private_key(ec.SECP256R1())
            numbers = self.private.public_key().public_numbers()
            x, y = (_text(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
            self.jwk = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        self.jkt = _text(hashlib.sha256(json.dumps(self.jwk, separators=(",", ":")).encode()).digest())
        self.made = 0

    def proof(
        self,
        *,
        method: str = "POST",
        url: str = "https://api.example.com/v1/oauth/token",
        token: str | None = None,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A proof for a request. ``header`` and ``claims`` change its parts; None takes one away."""
        self.made += 1
        head = {"typ": "dpop+jwt", "alg": "ES256" if len(self.jwk) == 4 else "EdDSA", "jwk": self.jwk}
        payload: dict[str, Any] = {"jti": f"number-{self.made}", "htm": method, "htu": url, "iat": NOW}
        if token is not None:
            payload["ath"] = _text(hashlib.sha256(token.encode()).digest())
        signed = (
            f"{segment(without_none(head | dict(header or {})))}.{segment(without_none(payload | claims))}"
        )
        return f"{signed}.{segment(self.sign(signed))}"

    def sign(self, signed: str) -> bytes:
        """JOSE's signature: r and s of 32 bytes each, or Ed25519's own."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(signed.encode())
        r, s = decode_dss_signature(self.private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
