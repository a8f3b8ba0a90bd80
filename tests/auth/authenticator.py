"""An authenticator in software: what a phone's secure chip answers, and what a forger would.

W3C Web Authentication Level 3, sections 6.1 (authenticator data) and 6.5 (attestation objects).
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from lowtide.kernel.base64url import decode, encode

PRESENT, VERIFIED, ELIGIBLE, BACKED_UP, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40


class Authenticator:
    """Holds one passkey. Every field may be changed by a test that wants to lie."""

    def __init__(self, *, rp_id: str = "app.example", origin: str = "https://app.example"):
        self.rp_id = rp_id
        self.origin = origin
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.credential_id = os.urandom(32)
        self.flags = PRESENT | VERIFIED
        self.counter = 0
        self.handle = ""
        self.cross_origin: Any = False

    @property
    def id(self) -> str:
        return encode(self.credential_id)

    def register(self, options: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """RegistrationResponseJSON for ``options``."""
        self.handle = options["user"]["id"]
        public = self.key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: public.x.to_bytes(32, "big"), -3: public.y.to_bytes(32, "big")}
        data = self._data(self.flags | ATTESTED)
        data += bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id
        data += changes.pop("public_key", None) or cbor2.dumps(cose)
        statement = {"fmt": "none", "attStmt": {}, "authData": data}
        response = {
            "clientDataJSON": self._client_data("webauthn.create", options["challenge"]),
            "attestationObject": encode(changes.pop("object", None) or cbor2.dumps(statement)),
            "transports": ["internal", "hybrid"],
        }
        return self._credential(response) | changes

    def sign_in(self, options: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """AuthenticationResponseJSON for ``options``."""
        data = self._data(self.flags)
        client_data = self._client_data("webauthn.get", options["challenge"])
        signed = data + hashlib.sha256(decode(client_data)).digest()
        response = {
            "clientDataJSON": client_data,
            "authenticatorData": encode(data),
            "signature": encode(self.key.sign(signed, ec.ECDSA(hashes.SHA256()))),
            "userHandle": self.handle or None,
        }
        return self._credential(response | changes)

    def _credential(self, response: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "rawId": self.id,
            "type": "public-key",
            "response": response,
            "clientExtensionResults": {},
            "authenticatorAttachment": "platform",
        }

    def _data(self, flags: int) -> bytes:
        return hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.counter.to_bytes(4, "big")

    def _client_data(self, kind: str, challenge: str) -> str:
        content = {
            "type": kind,
            "challenge": challenge,
            "origin": self.origin,
            "crossOrigin": self.cross_origin,
        }
        return encode(json.dumps(content).encode())
