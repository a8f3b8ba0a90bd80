"""Bytes as text that fits addresses, headers and names: base64url without padding (RFC 7515 section 2)."""

from __future__ import annotations

import base64
import re

_TEXT = re.compile(r"[A-Za-z0-9_-]+")


def encode(data: bytes) -> str:
    """``data`` as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes of strict base64url: no padding, no other alphabet, no bits left over; or ``ValueError``."""
    if _TEXT.fullmatch(text) is None or len(text) % 4 == 1:
        raise ValueError("it is not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode(data) != text:
        raise ValueError("it is not base64url")
    return data
