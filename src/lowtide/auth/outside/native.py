"""Signing in with an id token that the phone's own system got: Sign in with Apple, Sign in with Google."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lowtide.auth.challenges import Challenges
from lowtide.auth.model import Evidence
from lowtide.auth.outside.apple import APPLE, Apple
from lowtide.auth.outside.issuers import IdTokens, Issuer, good_until
from lowtide.auth.outside.upstream import GOOGLE, read_proof, told_time
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import InvalidGrant, NotFound
from lowtide.storage.db import Tx

GOOGLE_KEYS = "https://www.googleapis.com/oauth2/v3/certs"


def apple_issuer(client_ids: Sequence[str], url: str = APPLE) -> Issuer:
    """Apple, for the apps' bundle ids and the web pages' service ids in ``client_ids``."""
    return Issuer(name="apple", issuers=(url,), audiences=tuple(client_ids), jwks_url=f"{url}/auth/keys")


def google_issuer(client_ids: Sequence[str], jwks_url: str = GOOGLE_KEYS) -> Issuer:
    """Google, for the OAuth client ids in ``client_ids``; Android's is the *web* client's."""
    return Issuer(name="google", issuers=GOOGLE, audiences=tuple(client_ids), jwks_url=jwks_url)


class NativeSignIn:
    """Checks id tokens of the issuers that are set up. Safe to share."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        id_tokens: IdTokens,
        apple: Apple,
        challenges: Challenges,
        clock: Clock,
    ):
        self._issuers: Mapping[str, Issuer] = {one.name: one for one in issuers if one.audiences}
        self._id_tokens = id_tokens
        self._apple = apple
        self._challenges = challenges
        self._clock = clock

    @property
    def names(self) -> tuple[str, ...]:
        """The providers that are set up."""
        return tuple(self._issuers)

    async def prove(
        self, provider: str, id_token: str, nonce: str, *, code: str | None = None, name: str | None = None
    ) -> Evidence:
        """Who the token is of. ``code``: Apple's authorization code, exchanged by a job once it has counted.

        ``name``: what Apple told the app, and only the app; believed as far as any name that a user gives.
        Raises ``NotFound`` for a provider that is not set up, and as ``IdTokens.verify``. ``spend`` raises
        ``InvalidGrant`` for a token that was used before (Apple's are good for a day).
        """
        issuer = self._issuer(provider)
        claims = await self._id_tokens.verify(issuer, id_token, nonce=nonce)
        # What is signed, and not the signature: some can be written in two ways.
        spent = f"id-token {id_token.rpartition('.')[0]}"
        until = int((good_until(claims) + 1) * 1000)

        async def spend(tx: Tx) -> None:
            if not await self._challenges.first(tx, spent, until):
                raise InvalidGrant("The id token was used before.", hint="Ask the provider for a new one.")
            if code and provider == "apple":
                await self._apple.keep(tx, code, _audience(issuer, claims), claims["sub"])

        now = self._clock.now()
        # Who does not say when it was had proved it when the token was made, which may be a day ago.
        proved = told_time(claims, now) or int(min(claims["iat"] * 1000, now))
        proof = msgspec.structs.replace(read_proof(provider, claims, name), auth_time=proved)
        return Evidence(proof, spend)

    def wake(self) -> None:
        """Let a code that was kept be exchanged: call it after the commit."""
        self._apple.wake()

    async def hear_apple(self, payload: str) -> None:
        """Take a notification of Apple. ``NotFound`` where it is not set up, else as ``Apple.hear``."""
        await self._apple.hear(self._issuer("apple"), self._id_tokens, payload)

    def _issuer(self, provider: str) -> Issuer:
        issuer = self._issuers.get(provider)
        if issuer is None:
            raise NotFound(
                f"Signing in with {provider[:32]!r} is not set up here.",
                hint="Set 'apple_client_ids' or 'google_client_ids'.",
            )
        return issuer


def _audience(issuer: Issuer, claims: Mapping[str, Any]) -> str:
    """For which of the app's client ids the token is."""
    audience = claims["aud"]
    named = audience if isinstance(audience, list) else [audience]
    return next(one for one in issuer.audiences if one in named)
