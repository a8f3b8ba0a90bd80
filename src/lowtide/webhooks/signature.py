"""Signatures of messages: Standard Webhooks 1.0, symmetric (v1, HMAC-SHA256)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

PREFIX = "whsec_"


def sign(secret: bytes, message: str, seconds: int, body: bytes) -> str:
    """The signature of one secret: ``v1,`` and base64."""
    signed = f"{message}.{seconds}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def headers(secrets: Iterable[bytes], message: str, seconds: int, body: bytes) -> dict[str, str]:
    """What a message is sent with; it is signed with every secret that is in force."""
    return {
        "content-type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(sign(secret, message, seconds, body) for secret in secrets),
    }


def shown(secret: bytes) -> str:
    """A secret as receivers' libraries take it."""
    return PREFIX + base64.b64encode(secret).decode()
