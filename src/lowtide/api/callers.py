"""Who asks, whether they have proved it, and whether an address is for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from lowtide.api.rates import Rates
from lowtide.auth.tokens import MAX_TOKEN
from lowtide.kernel.errors import (
    Forbidden,
    HeadTooLarge,
    ProofInvalid,
    ScopeMissing,
    SessionRevoked,
    TokenExpired,
    Unauthorized,
)
from lowtide.kernel.http import Route
from lowtide.kernel.schema import Principal

Authenticate = Callable[[str], Principal]
"""A token to whom it stands for; raises ``Unauthorized``."""


class Prove(Protocol):
    """Checks a proof of possession: ``lowtide.auth.dpop.Proofs.check``."""

    def __call__(self, proof: str, *, method: str, host: str, path: str, token: str) -> str: ...


class Callers:
    """Reads tokens. ``authenticate`` must not block: a signature check, or a dict hit.

    Without ``prove`` no token that is bound to a key is believed, without ``rates`` refused ones are not
    counted.
    """

    def __init__(self, authenticate: Authenticate, prove: Prove | None, rates: Rates | None):
        self._authenticate = authenticate
        self._prove = prove
        self._rates = rates

    def who(
        self,
        fields: Mapping[bytes, bytes],
        method: str,
        path: str,
        peer: str,
        added: list[tuple[bytes, bytes]],
    ) -> Principal:
        """Whom the headers ``fields`` speak for. ``peer`` is the client's address; ``added`` gets what the
        rates have to say. Raises ``Unauthorized`` and its kin, ``HeadTooLarge``, ``TooManyRequests``."""
        header = fields.get(b"authorization")
        if header is None:
            raise Unauthorized
        if len(header) > MAX_TOKEN:
            raise HeadTooLarge(f"A token is at most {MAX_TOKEN} bytes.", limit=MAX_TOKEN)
        scheme, _, sent = header.partition(b" ")
        scheme = scheme.lower()
        if scheme not in (b"bearer", b"token", b"dpop") or not sent.isascii():
            raise Unauthorized("The Authorization header is not 'Bearer' and a token.")
        token = sent.decode("ascii").strip(" ")
        try:
            who = self._authenticate(token)
            if who.jkt or scheme == b"dpop":
                self._check_proof(who, scheme, token, fields, method, path)
        except Unauthorized as error:
            if self._rates is not None:
                genuine = isinstance(error, TokenExpired | SessionRevoked | ProofInvalid)
                self._rates.refused(token, genuine, peer, added)
            raise
        return who

    def still(self, token: str) -> bool:
        """Is the token of a request that has become a stream still good? "" always is."""
        if not token:
            return True
        try:
            self._authenticate(token)
        except Unauthorized:
            return False
        return True

    def _check_proof(
        self,
        who: Principal,
        scheme: bytes,
        token: str,
        fields: Mapping[bytes, bytes],
        method: str,
        path: str,
    ) -> None:
        proof = fields.get(b"dpop")
        if not who.jkt:
            raise Unauthorized("The token is bound to no key: send it as 'Bearer'.")
        if scheme != b"dpop" or proof is None or self._prove is None:
            # RFC 9449 section 7.2: a bound token is no bearer token.
            raise ProofInvalid("The token is bound to a key: send it as 'DPoP', with a proof.")
        host = fields.get(b"host", b"").decode("latin-1")
        proved = self._prove(proof.decode("latin-1"), method=method, host=host, path=path, token=token)
        if proved != who.jkt:
            raise ProofInvalid("The proof is of another key than the token's.")


def sent_token(fields: Mapping[bytes, bytes]) -> str:
    """The token of headers that ``Callers.who`` has taken."""
    return fields[b"authorization"].partition(b" ")[2].decode("ascii").strip(" ")


def permit(route: Route, who: Principal) -> None:
    """Raise ``Forbidden`` or ``ScopeMissing`` unless this address is for ``who``."""
    if who.client and route.scope not in who.scope:
        raise ScopeMissing(f"The token was not granted the scope {route.scope!r}.", scope=route.scope)
    if route.auth == "server" and not who.server:
        raise Forbidden("This address is for the app's own servers.", hint="Use a server's token.")
    # An admin who lets an app read their notes has not made it an admin.
    if route.auth == "admin" and (not who.admin or who.client):
        raise Forbidden(
            "This address is for admins.",
            hint="Sign in through the app as a user with the role admin; OAuth clients are none.",
        )
