"""Access tokens: who is asking, proved by a signature and nothing else.

A token is a JWT in the shape of RFC 9068: ``typ`` at+jwt, signed ES256 by one of the app's keys. The
algorithm is not the token's to choose (RFC 8725): whatever its header says, an ECDSA signature of a
key that we keep is checked, and anything but ES256 in the header is refused before.

A verified token is remembered by its digest until it expires, so a signature is checked once a token
and process: about 100 µs the first time, 1 µs from then on.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from lowtide.auth.keys import LONGEST, KeySource
from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import decode_json
from lowtide.kernel.errors import Malformed, TokenExpired, Unauthorized
from lowtide.kernel.schema import Principal

MAX_TOKEN = 8192
"""Characters of a token."""
MAX_NAME = 128
"""Characters of a user's id and of a space's name."""
REGISTERED = frozenset({"iss", "aud", "sub", "exp", "iat", "nbf", "jti", "space", "scope"})
"""Claims that mean something here; the rest is the app's, in ``Principal.claims``."""
SERVER = "server"
"""The scope of the app's own servers."""

_ECDSA = ec.ECDSA(hashes.SHA256())
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_HEADER = frozenset({"alg", "typ", "kid"})


class Tokens:
    """Signs tokens and verifies them."""

    def __init__(
        self,
        keys: KeySource,
        clock: Clock,
        *,
        audience: str,
        issuer: str,
        leeway: int = 60,
        longest: int = LONGEST,
        remembered: int = 20_000,
    ):
        """``leeway``: seconds that clocks may differ. ``longest``: seconds that a token may be valid.

        ``remembered``: verified tokens kept in memory, about 1 KiB each; the least recently seen goes.
        """
        self._keys = keys
        self._clock = clock
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        self._longest = longest
        self._remembered = remembered
        self._seen: OrderedDict[bytes, tuple[Principal, int]] = OrderedDict()
        self._generation = keys.generation

    def sign(
        self,
        user: str,
        *,
        space: str = "main",
        ttl: int = 3600,
        claims: Mapping[str, Any] | None = None,
        server: bool = False,
    ) -> str:
        """A token for ``user`` that is good for ``ttl`` seconds.

        ``claims`` are the app's own, any JSON; streams may use them as keys. ``server``: for the app's own
        code, which no write rule binds. ``ValueError`` for a name that ``verify`` would refuse, a
        claim that is not the app's to set, a ``ttl`` beyond ``longest``, and a token that is too long.
        """
        own = dict(claims or {})
        if taken := REGISTERED & own.keys():
            raise ValueError(f"these claims are not yours to set: {', '.join(sorted(taken))}")
        if not 0 < ttl <= self._longest:
            raise ValueError(f"a token is good for 1 to {self._longest} seconds")
        for what, name in (("user", user), ("space", space)):
            if not _is_name(name) or (what == "space" and "/" in name):
                raise ValueError(f"not a {what}'s name: {name!r}")
        key = self._keys.current
        now = self._clock.now() // 1000
        payload = own | {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": user,
            "space": space,
            "iat": now,
            "exp": now + ttl,
        }
        if server:
            payload["scope"] = SERVER
        header = {"alg": "ES256", "typ": "at+jwt", "kid": key.kid}
        signed = f"{_encoded(header)}.{_encoded(payload)}"
        if key.private is None:
            raise ValueError(f"the key {key.kid} only verifies")
        r, s = decode_dss_signature(key.private.sign(signed.encode(), _ECDSA))
        signature = base64.urlsafe_b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        token = f"{signed}.{signature.rstrip(b'=').decode()}"
        if len(token) > MAX_TOKEN:
            raise ValueError(f"the token is longer than {MAX_TOKEN} characters")
        return token

    def verify(self, token: str) -> Principal:
        """Whom ``token`` stands for. Does no I/O.

        Raises ``TokenExpired`` for one that was good once, and ``Unauthorized`` for everything else
        that is wrong with it.
        """
        if len(token) > MAX_TOKEN or not token.isascii():
            raise Unauthorized("The token is not a JWT that this server signed.")
        now = self._clock.now()
        if self._generation != self._keys.generation:
            self._seen.clear()
            self._generation = self._keys.generation
        digest = hashlib.sha256(token.encode()).digest()
        seen = self._seen.get(digest)
        if seen is not None:
            if now < seen[1]:
                self._seen.move_to_end(digest)
                return seen[0]
            del self._seen[digest]
            raise TokenExpired
        principal, until = self._check(token, now)
        self._seen[digest] = (principal, until)
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return principal

    def _check(self, token: str, now: int) -> tuple[Principal, int]:
        segments = token.split(".")
        if len(segments) != 3:
            raise Unauthorized("The token is not a signed JWT.")
        header = _object(segments[0])
        if header.keys() != _HEADER:
            raise Unauthorized("The token's header must hold alg, typ and kid, and nothing else.")
        if header["alg"] != "ES256":
            raise Unauthorized("The token is not signed with ES256.")
        kind = header["typ"]
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") != "at+jwt":
            raise Unauthorized("The token is not an access token: its typ must be at+jwt.")
        kid = header["kid"]
        key = self._keys.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise Unauthorized("The token is signed with a key that this server does not have.")
        signature = _decoded(segments[2])
        if len(signature) != 64:
            raise Unauthorized("The token's signature is wrong.")
        der = encode_dss_signature(
            int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        )
        try:
            key.public.verify(der, f"{segments[0]}.{segments[1]}".encode(), _ECDSA)
        except InvalidSignature:
            raise Unauthorized("The token's signature is wrong.") from None
        return self._read(_object(segments[1]), now)

    def _read(self, claims: dict[str, Any], now: int) -> tuple[Principal, int]:
        """The claims of a token whose signature is right."""
        if claims.get("iss") != self._issuer:
            raise Unauthorized(f"The token's issuer (iss) is not {self._issuer!r}.")
        audience = claims.get("aud")
        if audience != self._audience and not (isinstance(audience, list) and self._audience in audience):
            raise Unauthorized(f"The token's audience (aud) is not {self._audience!r}.")
        leeway = self._leeway * 1000
        issued, expires = _time(claims, "iat"), _time(claims, "exp")
        if issued > now + leeway or ("nbf" in claims and _time(claims, "nbf") > now + leeway):
            raise Unauthorized("The token is from the future: a clock is wrong.")
        if expires <= issued:
            raise Unauthorized("The token expires before it is issued.")
        until = expires + leeway
        if now >= until:
            raise TokenExpired
        user, space, scope = claims.get("sub"), claims.get("space", "main"), claims.get("scope", "")
        if not (_is_name(user) and _is_name(space) and isinstance(scope, str)):
            raise Unauthorized(f"The token's sub and space must be texts of 1 to {MAX_NAME} characters.")
        if "/" in space:
            raise Unauthorized("The token's space holds a '/'.")
        principal = Principal(
            user=user,
            space=space,
            claims={name: value for name, value in claims.items() if name not in REGISTERED},
            expires_at=expires,
            server=SERVER in scope.split(" "),
        )
        return principal, until


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and _CONTROL.search(value) is None


def _time(claims: Mapping[str, Any], name: str) -> int:
    """A NumericDate (RFC 7519 section 2) in milliseconds."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise Unauthorized(f"The token's {name} is not a time.")
    return int(value * 1000)


def _encoded(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


def _decoded(segment: str) -> bytes:
    # Strict: no padding, no other alphabet, no bits left over. One content, one token.
    if _SEGMENT.fullmatch(segment) is None or len(segment) % 4 == 1:
        raise Unauthorized("The token is not base64url.")
    data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != segment:
        raise Unauthorized("The token is not base64url.")
    return data


def _object(segment: str) -> dict[str, Any]:
    """A segment's JSON object. A name given twice is refused: two readers could see two tokens."""
    data = _decoded(segment)
    try:
        decode_json(data, max_bytes=MAX_TOKEN, max_depth=8)
        value = json.loads(data, object_pairs_hook=_once)
    except (Malformed, ValueError) as error:
        raise Unauthorized("The token does not hold JSON.") from error
    if not isinstance(value, dict):
        raise Unauthorized("The token does not hold a JSON object.")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found
