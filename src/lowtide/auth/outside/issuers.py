"""Id tokens of others, checked with the keys that their issuer publishes (OpenID Connect Core, 3.1.3.7).

The keys are fetched when first needed and kept. A token with a key's name that is not known has them fetched
again, but at most once in ``AGAIN`` seconds, so that made-up names cost the issuer nothing. While it is
away, the keys that are known go on for ``STALE`` seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from lowtide.auth.jws import Signed, read
from lowtide.egress import Egress
from lowtide.kernel.base64url import decode
from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import decode_json
from lowtide.kernel.errors import InvalidGrant, LowtideError, Unavailable

log = logging.getLogger("lowtide.auth")

MAX_ID_TOKEN = 16_384
"""Characters of an id token."""
MAX_KEYS = 64
"""Keys of one issuer; of more, none is believed."""
MAX_DOCUMENT = 262_144
"""Bytes of an issuer's key set, and of its other documents."""
FRESH = 3600.0
"""Seconds after which keys are fetched again."""
AGAIN = 60.0
"""Seconds between two fetches."""
SOON = 2.0
"""The same while nothing is known of the issuer yet."""
STALE = 7 * 86_400.0
"""Seconds for which keys are believed while their issuer does not answer."""
PATIENCE = 5.0
"""Seconds that an issuer may take to answer."""
LEEWAY = 120
"""Seconds that clocks may differ."""
LONGEST_USE = 86_400
"""Seconds after it was issued at which an id token is too old, whatever it says of its end."""

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES = {
    "P-256": (ec.SECP256R1(), "ES256"),
    "P-384": (ec.SECP384R1(), "ES384"),
    "P-521": (ec.SECP521R1(), "ES512"),
}


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """Who issues id tokens, and which of them are for this app."""

    name: str
    """The identities' provider."""
    issuers: tuple[str, ...]
    """What ``iss`` may be, exactly."""
    audiences: tuple[str, ...]
    """What ``aud`` may be: the app's client ids there."""
    jwks_url: str
    algorithms: tuple[str, ...] = ("RS256",)


class IssuerKey(msgspec.Struct, frozen=True, eq=False):
    """A public key of an issuer, and the algorithms that it may be used with."""

    key: PublicKey
    algorithms: frozenset[str]


class IssuerKeys:
    """The key set at one address. Safe to share by every request of a loop."""

    def __init__(self, egress: Egress, clock: Clock, url: str):
        self._egress = egress
        self._clock = clock
        self._url = url
        self._keys: Mapping[str, IssuerKey] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching = asyncio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> IssuerKey:
        """The key called ``kid``, or the only one for ``algorithm`` where the token names none.

        Raises ``InvalidGrant`` for a key that the issuer does not have, ``Unavailable`` when it cannot be
        asked and nothing is known of it.
        """
        found = self._known(kid, algorithm)
        age = None if self._fetched is None else self._clock.monotonic() - self._fetched
        if found is None or age is None or age > FRESH:
            # Whoever has a key that was good a while ago need not wait for another's fetch.
            if found is None or age is None or age > STALE or not self._fetching.locked():
                await self._refresh()
            found = self._known(kid, algorithm)
        if self._fetched is None or self._clock.monotonic() - self._fetched > STALE:
            raise Unavailable("The keys of the id token's issuer cannot be fetched.")
        if found is None:
            raise InvalidGrant("The id token is signed with a key that its issuer does not publish.")
        if algorithm not in found.algorithms:
            raise InvalidGrant("The id token's algorithm does not fit its issuer's key.")
        return found

    def _known(self, kid: str | None, algorithm: str) -> IssuerKey | None:
        if kid is not None:
            return self._keys.get(kid)
        fitting = [key for key in self._keys.values() if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None

    async def _refresh(self) -> None:
        tried = self._tried
        async with self._fetching:
            if self._tried != tried:
                return  # another did while this one waited
            now = self._clock.monotonic()
            if tried is not None and now - tried < (SOON if self._fetched is None else AGAIN):
                return
            self._tried = now
            try:
                answer = await self._egress.request(
                    "GET",
                    self._url,
                    headers={"accept": "application/json"},
                    deadline=PATIENCE,
                    max_bytes=MAX_DOCUMENT,
                )
                if answer.status != 200:
                    raise Unavailable(f"It answered {answer.status}.")
                self._keys = await asyncio.to_thread(read_key_set, answer.body)
            except (LowtideError, ValueError) as error:
                log.warning("the keys at %s could not be fetched: %s", self._url, error)
                return
            self._fetched = self._clock.monotonic()


class IdTokens:
    """Checks the id tokens of any number of issuers."""

    def __init__(self, egress: Egress, clock: Clock):
        self._egress = egress
        self._clock = clock
        self._sets: dict[str, IssuerKeys] = {}

    async def verify(self, issuer: Issuer, token: str, *, nonce: str | None) -> Mapping[str, Any]:
        """The claims of ``token``, which ``issuer`` signed for this app and which has not expired.

        ``nonce`` is what the app gave to the issuer, or what it gave the SHA-256 of, as hexadecimal digits:
        Apple's native way. None: there must be none, which is for tokens that came straight from the issuer.
        Raises ``InvalidGrant``, or ``Unavailable`` while the issuer's keys cannot be had. Costs 0.1 ms;
        with a fetch up to five seconds.
        """
        claims = await self.signed(issuer, token)
        check_claims(claims, issuer.audiences, self._clock.now() // 1000)
        check_nonce(claims, nonce)
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
            raise InvalidGrant("The id token's sub is not a text of 1 to 255 characters.")
        return claims

    async def signed(self, issuer: Issuer, token: str) -> Mapping[str, Any]:
        """The claims of ``token``, which ``issuer`` signed, and of which nothing else is checked yet."""
        signed = _taken_apart(token)
        header = signed.header
        algorithm, kid = header.get("alg"), header.get("kid")
        # The list is ours: "none", and HMAC with a public key as its secret, are on none.
        if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
            raise InvalidGrant("The id token's algorithm is not one that its issuer uses.")
        if "crit" in header or not (kid is None or isinstance(kid, str)):
            raise InvalidGrant("The id token's header asks for what this server does not do.")
        if signed.claims.get("iss") not in issuer.issuers:
            raise InvalidGrant("The id token is from another issuer.")
        keys = self._sets.get(issuer.jwks_url)
        if keys is None:
            keys = self._sets[issuer.jwks_url] = IssuerKeys(self._egress, self._clock, issuer.jwks_url)
        key = await keys.find(kid, algorithm)
        if not verified(signed, algorithm, key.key):
            raise InvalidGrant("The id token's signature is wrong.")
        return signed.claims


def check_claims(claims: Mapping[str, Any], audiences: Sequence[str], now: int) -> None:
    """Is the token for one of ``audiences``, and good at ``now``, in seconds? Raises ``InvalidGrant``."""
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(one, str) and one in audiences for one in named):
        raise InvalidGrant(
            "The id token is for another app.", hint="Add its 'aud' to the client ids of this server."
        )
    if len(named) > 1 and claims.get("azp") not in audiences:
        raise InvalidGrant("The id token was given to another app.")
    issued = _seconds(claims, "iat")
    if issued > now + LEEWAY or ("nbf" in claims and _seconds(claims, "nbf") > now + LEEWAY):
        raise InvalidGrant("The id token is from the future: a clock is wrong.")
    if now >= good_until(claims):
        raise InvalidGrant("The id token has expired.", hint="Ask the provider for a new one.")


def good_until(claims: Mapping[str, Any]) -> int:
    """The second from which the token is good no more. Raises ``InvalidGrant`` for one that does not say."""
    return min(_seconds(claims, "exp"), _seconds(claims, "iat") + LONGEST_USE) + LEEWAY


def check_nonce(claims: Mapping[str, Any], nonce: str | None) -> None:
    """Does the token carry ``nonce`` or its SHA-256, and none where none is wanted? ``InvalidGrant``."""
    claim = claims.get("nonce")
    if nonce is None:
        if claim is not None:
            raise InvalidGrant("The id token has a nonce, and none was sent along.")
        return
    if not isinstance(claim, str):
        raise InvalidGrant(
            "The id token has no nonce.", hint="Give the provider a random nonce, and this server the same."
        )
    hashed = hashlib.sha256(nonce.encode()).hexdigest()
    given = claim.encode()
    if not (hmac.compare_digest(given, nonce.encode()) or hmac.compare_digest(given, hashed.encode())):
        raise InvalidGrant("The id token's nonce is not the one that was sent along.")


def verified(signed: Signed, algorithm: str, key: PublicKey) -> bool:
    """Did ``key`` sign it with ``algorithm`` (RFC 7518 section 3.1, RFC 8037)?"""
    try:
        digest = _HASHES.get(algorithm[2:])
        if isinstance(key, ed25519.Ed25519PublicKey):
            if algorithm != "EdDSA":
                return False
            key.verify(signed.signature, signed.content)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            size = (key.curve.key_size + 7) // 8
            if not algorithm.startswith("ES") or digest is None or len(signed.signature) != 2 * size:
                return False
            r, s = signed.signature[:size], signed.signature[size:]
            der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
            key.verify(der, signed.content, ec.ECDSA(digest))
        elif algorithm.startswith("RS") and digest is not None:
            key.verify(signed.signature, signed.content, padding.PKCS1v15(), digest)
        elif algorithm.startswith("PS") and digest is not None:
            salted = padding.PSS(padding.MGF1(digest), digest.digest_size)
            key.verify(signed.signature, signed.content, salted, digest)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def read_key_set(document: bytes) -> Mapping[str, IssuerKey]:
    """The keys of a JSON Web Key Set (RFC 7517) that can sign, by name.

    A key of a kind that is not known here is left out. ``ValueError`` for a document that is not a key set
    or holds more than ``MAX_KEYS``; ``Malformed`` for one that is not JSON.
    """
    found = decode_json(document, max_bytes=MAX_DOCUMENT, max_depth=8)
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise ValueError(f"not a key set of at most {MAX_KEYS} keys")
    named: dict[str, IssuerKey] = {}
    for at, jwk in enumerate(keys):
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
            continue
        key = _key(jwk)
        if key is None:
            continue
        kid, algorithm = jwk.get("kid"), jwk.get("alg")
        if isinstance(algorithm, str):
            key = IssuerKey(key.key, key.algorithms & {algorithm})
        # Without a name it is found by its algorithm only.
        named[kid if isinstance(kid, str) else f"\0{at}"] = key
    return named


def _key(jwk: Mapping[str, Any]) -> IssuerKey | None:
    try:
        match jwk.get("kty"), jwk.get("crv"):
            case "RSA", _:
                n, e = _number(jwk, "n"), _number(jwk, "e")
                # Below it can be broken, above it costs the server's time.
                if not 2048 <= n.bit_length() <= 8192 or not 3 <= e < 2**32:
                    return None
                names = {f"{kind}{size}" for kind in ("RS", "PS") for size in _HASHES}
                return IssuerKey(rsa.RSAPublicNumbers(e, n).public_key(), frozenset(names))
            case "EC", str() as curve if curve in _CURVES:
                kind, algorithm = _CURVES[curve]
                numbers = ec.EllipticCurvePublicNumbers(_number(jwk, "x"), _number(jwk, "y"), kind)
                return IssuerKey(numbers.public_key(), frozenset({algorithm}))
            case "OKP", "Ed25519":
                public = ed25519.Ed25519PublicKey.from_public_bytes(decode(jwk["x"]))
                return IssuerKey(public, frozenset({"EdDSA"}))
    except (KeyError, TypeError, ValueError) as error:
        log.warning("a key of an issuer cannot be read: %s", error)
    return None


def _number(jwk: Mapping[str, Any], name: str) -> int:
    return int.from_bytes(decode(jwk[name]), "big")


def _taken_apart(token: str) -> Signed:
    try:
        return read(token, most=MAX_ID_TOKEN)
    except ValueError as error:
        raise InvalidGrant("The id token is not a signed JWT.") from error


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    """A NumericDate (RFC 7519 section 2)."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise InvalidGrant(f"The id token's {name} is not a time.")
    return int(value)
