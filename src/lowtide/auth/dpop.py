"""Proof of possession (DPoP, RFC 9449): a token that only the key's holder can use.

A device signs a small token for each request: the method, the address, a time and a number used once.
Its public key travels in the proof; what a token was bound to is that key's thumbprint, the ``jkt``.

A phone's clock may be wrong. A proof whose time is off is answered ``use_dpop_nonce`` with a nonce of the
server; with a fresh nonce in it, a proof's own time does not count. Nonces are stateless: a time slot and
its HMAC under a secret that all nodes have.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ed25519

from lowtide.auth import jws
from lowtide.kernel import base64url
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import NonceNeeded, ProofInvalid
from lowtide.kernel.http import Request

ALGORITHMS = ("ES256", "Ed25519", "EdDSA")
"""The last two are one: RFC 9864 gave it the name before the last."""
MAX_PROOF = 4096
"""Characters of a proof."""
MAX_JTI = 256
"""Characters of a proof's number used once."""
WINDOW = 60
"""Seconds that a proof's time may be off before a nonce is asked for."""
SLOT = 150
"""Seconds of a nonce's slot: a nonce is good for its slot and the next one."""
LIFE = max(2 * WINDOW, 2 * SLOT)
"""Seconds for which any proof of now can count: by its time, or by its nonce."""
REMEMBERED = 50_000
"""Proofs whose number is remembered; beyond it the oldest is forgotten. About 200 bytes each."""

_HEADER = frozenset({"typ", "alg", "jwk"})
_UNRESERVED = re.compile(r"%(2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}")
_PORTS = {"https": ":443", "http": ":80"}


class Proofs:
    """Checks proofs and gives out nonces. Does no I/O; about 0.25 ms a proof."""

    def __init__(self, clock: Clock, secrets: Callable[[], tuple[bytes, ...]], *, public_url: str = ""):
        """``secrets``: what nonces are made with, the first, and believed by, all; the same on every node.

        ``public_url``: the server's own address. When it is https, no proof for an http address counts.
        """
        self._clock = clock
        self._secrets = secrets
        self._public = public_url.rstrip("/").lower()
        self._seen: OrderedDict[bytes, float] = OrderedDict()

    def nonce(self) -> str:
        """A nonce that is good for two and a half to five minutes."""
        slot = self._clock.now() // 1000 // SLOT
        return _nonce(self._secrets()[0], slot)

    def of(self, request: Request[Any, Any], *, token: str | None = None) -> str | None:
        """The thumbprint of the key that ``request`` proves, in its ``DPoP`` header; None without one.

        Raises as ``check`` does.
        """
        proved = self.read(request, token=token)
        return None if proved is None else proved[0]

    def read(self, request: Request[Any, Any], *, token: str | None = None) -> tuple[str, str] | None:
        """As ``of``, with what the proof is called: no other has the same, on any node."""
        proof = request.header("dpop")
        if proof is None:
            return None
        host = request.header("host") or ""
        return self._checked(proof, request.method, host, request.path, token)

    def check(self, proof: str, *, method: str, host: str, path: str, token: str | None = None) -> str:
        """The thumbprint of the key that made ``proof`` for this request, and for ``token`` if there is one.

        ``host`` is the request's Host, already known to be this server's; ``path`` its raw path. Each proof
        counts once. Raises ``ProofInvalid``, and ``NonceNeeded`` (with a nonce) for one that would be right
        with a fresh nonce. RFC 9449 section 4.3.
        """
        return self._checked(proof, method, host, path, token)[0]

    def _checked(self, proof: str, method: str, host: str, path: str, token: str | None) -> tuple[str, str]:
        try:
            signed = jws.read(proof, most=MAX_PROOF)
            if not signed.header.keys() >= _HEADER or signed.header.keys() - _HEADER - {"kid"}:
                raise ValueError("its header must hold typ, alg and jwk, and nothing else")
            if signed.header["typ"] != "dpop+jwt":
                raise ValueError("its typ is not dpop+jwt")
            key, thumbprint = jws.read_jwk(signed.header["jwk"])
            # The key decides what is verified; the name must fit it and cannot choose another.
            edwards = isinstance(key, ed25519.Ed25519PublicKey)
            names = ("Ed25519", "EdDSA") if edwards else ("ES256",)
            if signed.header["alg"] not in names:
                raise ValueError(f"its alg is not {names[0]}, which its key is for")
            if not jws.verified(signed, key):
                raise ValueError("its signature is wrong")
            number = self._read(signed.claims, method, host, path, token)
        except ValueError as error:
            raise ProofInvalid(f"The DPoP proof does not count: {error}.") from None
        self._fresh(signed.claims)
        return thumbprint, self._once(thumbprint, number)

    def _read(self, claims: dict[str, Any], method: str, host: str, path: str, token: str | None) -> str:
        number = claims.get("jti")
        if not isinstance(number, str) or not 0 < len(number) <= MAX_JTI:
            raise ValueError(f"its jti is not a text of 1 to {MAX_JTI} characters")
        if claims.get("htm") != method:
            raise ValueError("its htm is another method")
        address = claims.get("htu")
        if not isinstance(address, str) or not self._here(address, host, path):
            raise ValueError("its htu is another address")
        made = claims.get("iat")
        if isinstance(made, bool) or not isinstance(made, int | float) or not 0 <= made < 2**40:
            raise ValueError("its iat is not a time")
        if token is not None:
            digest = base64url.encode(hashlib.sha256(token.encode()).digest())
            given = claims.get("ath")
            if not isinstance(given, str) or not hmac.compare_digest(given.encode(), digest.encode()):
                raise ValueError("its ath is not of this token")
        return number

    def _here(self, address: str, host: str, path: str) -> bool:
        parts = urlsplit(address)
        scheme = parts.scheme
        if scheme not in _PORTS or "@" in parts.netloc or "\\" in address:
            return False
        if _path(parts.path) != _path(path):
            return False
        authority = parts.netloc.lower().removesuffix(_PORTS[scheme])
        if f"{scheme}://{authority}" == self._public:
            return True
        if scheme == "http" and self._public.startswith("https:"):
            return False
        return authority != "" and authority == host.lower().removesuffix(_PORTS[scheme])

    def _fresh(self, claims: dict[str, Any]) -> None:
        given = claims.get("nonce")
        now = self._clock.now() / 1000
        if given is None:
            if abs(now - claims["iat"]) > WINDOW:
                raise NonceNeeded("The proof's time is not the server's.", nonce=self.nonce())
            return
        slot = int(now) // SLOT
        good = [_nonce(secret, at).encode() for secret in self._secrets() for at in (slot, slot - 1)]
        if not isinstance(given, str) or not any(
            hmac.compare_digest(given.encode("utf-8", "replace"), nonce) for nonce in good
        ):
            raise NonceNeeded("The proof's nonce is not fresh.", nonce=self.nonce())

    def _once(self, thumbprint: str, number: str) -> str:
        now = self._clock.monotonic()
        while self._seen and next(iter(self._seen.values())) <= now:
            self._seen.popitem(last=False)
        digest = hashlib.sha256(f"{thumbprint} {number}".encode("utf-8", "surrogatepass")).digest()
        if digest in self._seen:
            raise ProofInvalid("The DPoP proof does not count: it was used before.")
        self._seen[digest] = now + LIFE
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return digest.hex()


def _nonce(secret: bytes, slot: int) -> str:
    return base64url.encode(hmac.digest(secret, b"dpop nonce %d" % slot, "sha256")[:18])


def _path(path: str) -> str:
    """``path`` as RFC 3986 section 6.2.2 has it: what need not be escaped is not."""
    plain = _UNRESERVED.sub(lambda found: chr(int(found[1], 16)), path or "/")
    return _PERCENT.sub(lambda found: found[0].upper(), plain)
