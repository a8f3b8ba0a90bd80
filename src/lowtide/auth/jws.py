"""Signed JSON in its compact form (RFC 7515), read strictly: access tokens, proofs and id tokens.

One content has one text here: other spellings of the same bytes, names given twice and headers that
nobody asked for are refused, so that two readers never see two tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from lowtide.kernel.base64url import decode, encode
from lowtide.kernel.codec import decode_json
from lowtide.kernel.errors import Malformed

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_ECDSA = ec.ECDSA(hashes.SHA256())
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class Signed(msgspec.Struct, frozen=True):
    """A token taken apart; nothing about it is proved yet."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signature: bytes
    content: bytes
    """What the signature is over."""


def read(token: str, *, most: int) -> Signed:
    """``token`` taken apart. ``ValueError`` for one beyond ``most`` characters, or that is not three parts
    of strict base64url with two JSON objects."""
    if len(token) > most or not token.isascii():
        raise ValueError("it is too long, or not ASCII")
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("it has not three parts")
    content = token[: len(parts[0]) + 1 + len(parts[1])].encode()
    return Signed(read_object(parts[0], most), read_object(parts[1], most), decode(parts[2]), content)


def write(header: Mapping[str, Any], claims: Mapping[str, Any], private: ec.EllipticCurvePrivateKey) -> str:
    """The token of ``claims``, signed ES256. About 40 us."""
    content = f"{encode(msgspec.json.encode(header))}.{encode(msgspec.json.encode(claims))}"
    r, s = decode_dss_signature(private.sign(content.encode(), _ECDSA))
    return f"{content}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def verified(signed: Signed, key: PublicKey) -> bool:
    """Did ``key`` sign it? ES256 for a P-256 key, Ed25519 for the other. About 100 us."""
    signature = signed.signature
    if len(signature) != 64:
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(encode_dss_signature(r, s), signed.content, _ECDSA)
        else:
            key.verify(signature, signed.content)
    except InvalidSignature:
        return False
    return True


def read_jwk(jwk: object) -> tuple[PublicKey, str]:
    """A public key (RFC 7517, RFC 8037) and its thumbprint (RFC 7638, SHA-256).

    P-256 and Ed25519 only. ``ValueError`` for any other, for a point that is not on its curve, and for
    one that has private parts: who sends those has lost the key.
    """
    if not isinstance(jwk, dict):
        raise ValueError("the key is not a JSON object")
    if _PRIVATE & jwk.keys():
        raise ValueError("the key has private parts")
    kind, curve = jwk.get("kty"), jwk.get("crv")
    if kind == "EC" and curve == "P-256":
        x, y = _coordinate(jwk, "x"), _coordinate(jwk, "y")
        numbers = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        )
        return numbers.public_key(), _thumbprint(crv="P-256", kty="EC", x=encode(x), y=encode(y))
    if kind == "OKP" and curve == "Ed25519":
        x = _coordinate(jwk, "x")
        key = ed25519.Ed25519PublicKey.from_public_bytes(x)
        return key, _thumbprint(crv="Ed25519", kty="OKP", x=encode(x))
    raise ValueError("the key is neither P-256 nor Ed25519")


def _coordinate(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk.get(name)
    data = decode(value) if isinstance(value, str) else b""
    if len(data) != 32:
        raise ValueError(f"the key's {name} has not 32 bytes")
    return data


def _thumbprint(**members: str) -> str:
    return encode(hashlib.sha256(msgspec.json.encode(members, order="sorted")).digest())


def read_object(segment: str, most: int) -> dict[str, Any]:
    """The JSON object in ``segment``; ``ValueError`` for another value or a name given twice."""
    data = decode(segment)
    try:
        decode_json(data, max_bytes=most, max_depth=8)
    except Malformed as error:
        raise ValueError("it does not hold JSON") from error
    value = json.loads(data, object_pairs_hook=_once)
    if not isinstance(value, dict):
        raise ValueError("it does not hold a JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found
