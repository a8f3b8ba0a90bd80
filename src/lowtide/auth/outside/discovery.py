"""What an OpenID provider says of itself: OpenID Connect Discovery 1.0, RFC 8414.

Fetched when first needed, kept for an hour, and for a week while the provider is away. Its addresses lead
this server out, so they are asked for only through ``Egress``, which goes to no private network.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from lowtide.auth.outside.issuers import AGAIN, FRESH, MAX_DOCUMENT, PATIENCE, SOON, STALE
from lowtide.egress import Egress
from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import decode_as
from lowtide.kernel.errors import LowtideError, Unavailable

log = logging.getLogger("lowtide.auth")

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""What an id token may be signed with: never "none", never a shared secret."""

Url = Annotated[str, msgspec.Meta(max_length=2048)]


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a provider's metadata that signing in needs."""

    issuer: Url
    authorization_endpoint: Url
    token_endpoint: Url
    jwks_uri: Url
    userinfo_endpoint: Url | None = None
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What its id tokens may be signed with."""
        return tuple(one for one in ALGORITHMS if one in self.id_token_signing_alg_values_supported)


class Discovery:
    """The metadata of one issuer. Safe to share by every request of a loop."""

    def __init__(self, egress: Egress, clock: Clock, issuer: str):
        self._egress = egress
        self._clock = clock
        self._issuer = issuer
        self._found: Metadata | None = None
        self._fetched = 0.0
        self._tried: float | None = None
        self._fetching = asyncio.Lock()

    async def find(self) -> Metadata:
        """The metadata. Raises ``Unavailable`` while nothing that is fresh enough is known."""
        age = self._clock.monotonic() - self._fetched
        if self._found is None or age > STALE or (age > FRESH and not self._fetching.locked()):
            await self._refresh()
        if self._found is None or self._clock.monotonic() - self._fetched > STALE:
            raise Unavailable("The identity provider does not answer.")
        return self._found

    async def _refresh(self) -> None:
        tried = self._tried
        async with self._fetching:
            now = self._clock.monotonic()
            pause = AGAIN if self._found is not None else SOON
            if self._tried != tried or (tried is not None and now - tried < pause):
                return
            self._tried = now
            try:
                self._found = await self._fetch()
            except (LowtideError, ValueError) as error:
                log.warning("the metadata of %s could not be fetched: %s", self._issuer, error)
                return
            self._fetched = self._clock.monotonic()

    async def _fetch(self) -> Metadata:
        # Section 4.1: a slash at the issuer's end is taken away first.
        answer = await self._egress.request(
            "GET",
            f"{self._issuer.rstrip('/')}/.well-known/openid-configuration",
            headers={"accept": "application/json"},
            deadline=PATIENCE,
            max_bytes=MAX_DOCUMENT,
        )
        if answer.status != 200:
            raise Unavailable(f"It answered {answer.status}.")
        return read_metadata(answer.body, self._issuer)


def read_metadata(document: bytes, issuer: str) -> Metadata:
    """The metadata of ``issuer`` in ``document``. ``ValueError`` or ``Malformed`` for what it cannot be.

    The document must name its issuer exactly (section 4.3), and every address must be https, or of the
    issuer's own scheme and host: a test's http.
    """
    found = decode_as(Metadata, document, max_bytes=MAX_DOCUMENT, max_depth=16)
    if found.issuer != issuer:
        raise ValueError(f"it calls itself {found.issuer[:200]!r}")
    home = urlsplit(issuer)
    addresses = [found.authorization_endpoint, found.token_endpoint, found.jwks_uri]
    for address in [*addresses, *filter(None, [found.userinfo_endpoint])]:
        parts = urlsplit(address)
        own = (parts.scheme, parts.netloc) == (home.scheme, home.netloc)
        if not (parts.scheme == "https" or own) or not parts.hostname or parts.fragment:
            raise ValueError(f"an address is not https: {address[:200]!r}")
    if not found.algorithms:
        raise ValueError("it signs id tokens with nothing that is known here")
    return found
