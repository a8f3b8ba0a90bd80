"""App Attest: a key that Apple says lies in the secure chip of a genuine device, made by an app of this team.

The nine steps of Apple's "Validating apps that connect to your server", for the attestation of a key and for
its later assertions. Pure: no I/O, no clock. 1 ms of CPU an attestation, 0.1 ms an assertion; the packages
for CBOR and certificates are imported when first needed, so call these in a thread.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lowtide.kernel.base64url import decode, encode
from lowtide.kernel.errors import InvalidGrant

if TYPE_CHECKING:
    from cryptography import x509

Environment = Literal["production", "development"]

MAX_STATEMENT = 32_768
"""Characters of an attestation or an assertion as base64; Apple's have some 8,000."""
MAX_DEPTH = 8
"""Levels of CBOR."""
NONCE = "1.2.840.113635.100.8.2"
"""The extension of the certificate that holds the nonce."""
ENVIRONMENTS: dict[bytes, Environment] = {
    b"appattest" + bytes(7): "production",
    b"appattestdevelop": "development",
}
_HEAD = 37
"""Bytes of authenticator data before the key: hash of the app, flags, counter."""

# "Apple App Attestation Root CA", valid until 2045; published by Apple's certificate authority.
ROOT = b"""-----BEGIN CERTIFICATE-----
MIICITCCAaegAwIBAgIQC/O+DvHN0uD7jG5yH2IXmDAKBggqhkjOPQQDAzBSMSYw
JAYDVQQDDB1BcHBsZSBBcHAgQXR0ZXN0YXRpb24gUm9vdCBDQTETMBEGA1UECgwK
QXBwbGUgSW5jLjETMBEGA1UECAwKQ2FsaWZvcm5pYTAeFw0yMDAzMTgxODMyNTNa
Fw00NTAzMTUwMDAwMDBaMFIxJjAkBgNVBAMMHUFwcGxlIEFwcCBBdHRlc3RhdGlv
biBSb290IENBMRMwEQYDVQQKDApBcHBsZSBJbmMuMRMwEQYDVQQIDApDYWxpZm9y
bmlhMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAERTHhmLW07ATaFQIEVwTtT4dyctdh
NbJhFs/Ii2FdCgAHGbpphY3+d8qjuDngIN3WVhQUBHAoMeQ/cLiP1sOUtgjqK9au
Yen1mMEvRq9Sk3Jm5X8U62H+xTD3FE9TgS41o0IwQDAPBgNVHRMBAf8EBTADAQH/
MB0GA1UdDgQWBBSskRBTM72+aEH/pwyp5frq5eWKoTAOBgNVHQ8BAf8EBAMCAQYw
CgYIKoZIzj0EAwMDaAAwZQIwQgFGnByvsiVbpTKwSga0kP0e8EeDS4+sQmTvb7vn
53O5+FRXgeLhpJ06ysC5PrOyAjEAp5U4xDgEgllF7En3VcE3iexZZtKeYnpqtijV
oyFraWVIyd/dganmrduC1bmTBGwD
-----END CERTIFICATE-----
"""


class AttestedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that Apple vouches for."""

    key_id: str
    """base64url."""
    public_key: str
    """The P-256 point, uncompressed, base64url."""
    app: str
    """Team's id, dot, bundle's id."""
    environment: Environment
    counter: int = 0


def check_attestation(
    statement: str,
    *,
    key_id: str,
    challenge: str,
    apps: tuple[str, ...],
    now: int,
    root: bytes = ROOT,
    development: bool = False,
) -> AttestedKey:
    """The key of ``statement``, which a genuine app of ``apps`` made for ``challenge``.

    ``statement`` is the attestation object as base64url; the app gave Apple the SHA-256 of ``challenge``.
    ``now``: milliseconds since 1970. ``development``: are keys of Apple's sandbox taken, too? Raises
    ``InvalidGrant``.
    """
    found = _read(statement, {"fmt", "attStmt", "authData"})
    inner = found["attStmt"]
    if found["fmt"] != "apple-appattest" or not isinstance(inner, dict):
        raise InvalidGrant("The attestation is not one of App Attest.")
    leaf = _chain(inner.get("x5c"), root, now)
    data = found["authData"]
    if not isinstance(data, bytes) or len(data) < _HEAD + 18:
        raise InvalidGrant("The attestation's authenticator data is cut.")
    nonce = hashlib.sha256(data + hashlib.sha256(challenge.encode()).digest()).digest()
    if not hmac.compare_digest(_nonce(leaf), nonce):
        raise InvalidGrant("The attestation was made for another challenge.")
    public = leaf.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
        raise InvalidGrant("The attested key is not a P-256 key.")
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    digest = hashlib.sha256(point).digest()
    if not hmac.compare_digest(digest, _bytes(key_id)):
        raise InvalidGrant("The attestation is of another key.")
    app = _app(data, apps)
    if int.from_bytes(data[33:37], "big") != 0:
        raise InvalidGrant("The attested key was used before.")
    environment = ENVIRONMENTS.get(data[_HEAD : _HEAD + 16])
    if environment is None or (environment == "development" and not development):
        raise InvalidGrant("The attestation is of Apple's sandbox, or of none of its services.")
    length = int.from_bytes(data[_HEAD + 16 : _HEAD + 18], "big")
    if data[_HEAD + 18 : _HEAD + 18 + length] != digest:
        raise InvalidGrant("The attestation's credential is another key.")
    return AttestedKey(key_id=encode(digest), public_key=encode(point), app=app, environment=environment)


def check_assertion(statement: str, *, challenge: str, key: AttestedKey) -> int:
    """The counter of an assertion that ``key`` made for ``challenge``; it is greater than ``key.counter``.

    Raises ``InvalidGrant``.
    """
    found = _read(statement, {"signature", "authenticatorData"})
    signature, data = found["signature"], found["authenticatorData"]
    if not isinstance(signature, bytes) or not isinstance(data, bytes) or len(data) < _HEAD:
        raise InvalidGrant("The assertion cannot be read.")
    nonce = hashlib.sha256(data + hashlib.sha256(challenge.encode()).digest()).digest()
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decode(key.public_key))
    try:
        public.verify(signature, nonce, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise InvalidGrant("The assertion's signature is wrong.") from None
    _app(data, (key.app,))
    counter = int.from_bytes(data[33:37], "big")
    if counter <= key.counter:
        raise InvalidGrant("The assertion was made before one that is known: it is a repeat, or of a copy.")
    return counter


def same_id(key_id: str) -> str:
    """A key's id in the spelling in which it is kept. Raises ``InvalidGrant``."""
    return encode(_bytes(key_id))


def _read(statement: str, names: set[str]) -> dict[str, Any]:
    import cbor2

    if len(statement) > MAX_STATEMENT:
        raise InvalidGrant(f"A statement has at most {MAX_STATEMENT} characters.")
    raw = _bytes(statement)
    try:
        found = cbor2.loads(raw, max_depth=MAX_DEPTH, allow_duplicate_keys=False)
    # Tags make the package build dates, numbers and patterns, which fail in as many ways.
    except Exception as error:
        raise InvalidGrant("The statement is not CBOR.") from error
    if not isinstance(found, dict) or not names <= found.keys():
        raise InvalidGrant("The statement lacks a part.")
    return found


def _chain(certificates: object, root: bytes, now: int) -> x509.Certificate:
    """The first of ``certificates``, signed by the second, signed by ``root``; all of them good ``now``."""
    if not isinstance(certificates, list) or len(certificates) != 2:
        raise InvalidGrant("The attestation has not two certificates.")
    from cryptography import x509  # 3 MB that a server without App Attest does not need

    try:
        leaf, between = [x509.load_der_x509_certificate(one) for one in certificates]
        trusted = x509.load_pem_x509_certificate(root)
        leaf.verify_directly_issued_by(between)
        between.verify_directly_issued_by(trusted)
        constraints = between.extensions.get_extension_for_class(x509.BasicConstraints).value
        lasting = [(one.not_valid_before_utc, one.not_valid_after_utc) for one in (leaf, between, trusted)]
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise InvalidGrant("The attestation's certificates do not lead to Apple's.") from error
    at = datetime.fromtimestamp(now / 1000, UTC)
    if not constraints.ca or not all(begin <= at <= end for begin, end in lasting):
        raise InvalidGrant("A certificate of the attestation may not sign, or not now.")
    return leaf


def _nonce(leaf: x509.Certificate) -> bytes:
    from cryptography import x509

    try:
        found = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(NONCE)).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise InvalidGrant("The attestation's certificate holds no nonce.") from error
    value = found.value if isinstance(found, x509.UnrecognizedExtension) else b""
    # SEQUENCE { [1] { OCTET STRING of 32 bytes } }: there is one way to write that in DER.
    if len(value) != 38 or value[:6] != b"\x30\x24\xa1\x22\x04\x20":
        raise InvalidGrant("The attestation's nonce cannot be read.")
    return value[6:]


def _app(data: bytes, apps: tuple[str, ...]) -> str:
    for app in apps:
        if hmac.compare_digest(hashlib.sha256(app.encode()).digest(), data[:32]):
            return app
    raise InvalidGrant("The statement is of another app.", hint="Add the app to the setting 'apple_apps'.")


def _bytes(text: str) -> bytes:
    """base64 of either alphabet: Apple's API gives key ids in the one, most apps encode in the other."""
    try:
        return decode(text.rstrip("=").replace("+", "-").replace("/", "_"))
    except ValueError as error:
        raise InvalidGrant("It is not base64.") from error
