"""Play Integrity: Google's verdict on an app and its device, read here without asking Google.

The token is a JWE (RFC 7516, A256KW and A256GCM) around a JWS (ES256), with the keys that the Play Console
gives to whoever manages them oneself. Pure: no I/O, no clock; 0.2 ms.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from cryptography.hazmat.primitives.serialization import load_der_public_key

from lowtide.auth.jws import read, read_object, verified
from lowtide.auth.wellknown import AndroidApp
from lowtide.kernel.base64url import decode, encode
from lowtide.kernel.errors import InvalidGrant, SetupError

MAX_TOKEN = 16_384
"""Characters of an integrity token; Google's have some 2,000."""
FRESH = 300_000
"""Milliseconds after which a verdict is too old."""
LEEWAY = 120_000
"""Milliseconds that clocks may differ."""
DEVICE = "MEETS_DEVICE_INTEGRITY"
RECOGNIZED = "PLAY_RECOGNIZED"


class ConsoleKeys(msgspec.Struct, frozen=True, eq=False):
    """The two keys that the Play Console shows for an app's integrity responses."""

    decryption: bytes
    verification: ec.EllipticCurvePublicKey


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What Google says of the app and its device."""

    package: str
    device: tuple[str, ...]


def read_console_keys(decryption: str, verification: str) -> ConsoleKeys | None:
    """The settings ``play_decryption_key`` and ``play_verification_key``; None without both.

    Raises ``SetupError``.
    """
    if not decryption and not verification:
        return None
    try:
        secret = base64.b64decode(decryption, validate=True)
        public = load_der_public_key(base64.b64decode(verification, validate=True))
    except (binascii.Error, ValueError) as error:
        raise SetupError(
            f"A key of Play Integrity cannot be read: {error}.",
            hint="Copy both as the Play Console shows them.",
        ) from error
    if len(secret) != 32 or not isinstance(public, ec.EllipticCurvePublicKey):
        raise SetupError("Play Integrity needs a 256-bit AES key and an EC key.")
    return ConsoleKeys(secret, public)


def check_verdict(
    token: str, *, keys: ConsoleKeys, challenge: str, apps: tuple[AndroidApp, ...], now: int
) -> Verdict:
    """The verdict in ``token``, asked for by a genuine app of ``apps`` on a genuine device.

    The app gave Google the SHA-256 of ``challenge`` as base64url: as ``nonce`` (classic requests) or as
    ``requestHash`` (standard ones). ``now``: milliseconds since 1970. Raises ``InvalidGrant``.
    """
    claims = _opened(token, keys)
    asked, app, device = (_part(claims, one) for one in ("requestDetails", "appIntegrity", "deviceIntegrity"))
    wanted = encode(hashlib.sha256(challenge.encode()).digest())
    given = asked.get("nonce", asked.get("requestHash"))
    if not isinstance(given, str) or not hmac.compare_digest(given.rstrip("=").encode(), wanted.encode()):
        raise InvalidGrant("The verdict was given for another challenge.")
    age = now - _milliseconds(asked.get("timestampMillis"))
    if not -LEEWAY <= age <= FRESH + LEEWAY:
        raise InvalidGrant("The verdict is too old, or from the future.")
    package = asked.get("requestPackageName")
    prints = app.get("certificateSha256Digest")
    if app.get("appRecognitionVerdict") != RECOGNIZED or app.get("packageName") != package:
        raise InvalidGrant("Google does not recognize the app.")
    known = {
        encode(bytes.fromhex(one.certificate.replace(":", ""))) for one in apps if one.package == package
    }
    if not isinstance(prints, list) or not known & {
        one.rstrip("=") for one in prints if isinstance(one, str)
    }:
        raise InvalidGrant(
            "The verdict is of another app.", hint="Add the app to the setting 'android_apps'."
        )
    labels = device.get("deviceRecognitionVerdict")
    if not isinstance(labels, list) or DEVICE not in labels:
        raise InvalidGrant("Google does not vouch for the device.")
    return Verdict(
        package=str(package),
        device=tuple(one for one in labels if isinstance(one, str)),
    )


def _opened(token: str, keys: ConsoleKeys) -> dict[str, Any]:
    parts = token.split(".")
    if len(token) > MAX_TOKEN or len(parts) != 5 or not token.isascii():
        raise InvalidGrant("The integrity token is not a JWE.")
    try:
        header = read_object(parts[0], MAX_TOKEN)
        # The algorithms are not the token's to choose.
        if (
            (header.get("alg"), header.get("enc")) != ("A256KW", "A256GCM")
            or "zip" in header
            or "crit" in header
        ):
            raise InvalidGrant("The integrity token is encrypted in another way.")
        wrapped, nonce, content, tag = (decode(part) for part in parts[1:])
        if (len(wrapped), len(nonce), len(tag)) != (40, 12, 16):
            raise InvalidGrant("The integrity token's parts have wrong sizes.")
        secret = aes_key_unwrap(keys.decryption, wrapped)
        plain = AESGCM(secret).decrypt(nonce, content + tag, parts[0].encode())
        signed = read(plain.decode("ascii"), most=MAX_TOKEN)
    except (ValueError, InvalidTag, InvalidUnwrap) as error:
        raise InvalidGrant("The integrity token does not open with this server's keys.") from error
    if signed.header.get("alg") != "ES256" or not verified(signed, keys.verification):
        raise InvalidGrant("The integrity token is not signed by Google.")
    return signed.claims


def _part(claims: dict[str, Any], name: str) -> dict[str, Any]:
    found = claims.get(name)
    return found if isinstance(found, dict) else {}


def _milliseconds(value: object) -> int:
    # JSON of Google's writes 64-bit numbers as texts.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidGrant("The verdict has no time.")
