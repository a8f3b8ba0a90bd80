"""What the auth component serves."""

from __future__ import annotations

import msgspec

from lowtide.audit.model import actor_of, via_of
from lowtide.audit.trail import Trail
from lowtide.auth.keys import Keys, State
from lowtide.kernel.errors import Conflict, NotFound
from lowtide.kernel.http import Request, Response, Route

JWKS = "/.well-known/jwks.json"


class ShownKey(msgspec.Struct, frozen=True):
    """A signing key, without what it signs with. Times are milliseconds since 1970."""

    kid: str
    state: State
    created_at: int
    retires_at: int | None
    """When an old key is forgotten; null for one in use."""


class ShownKeys(msgspec.Struct, frozen=True):
    """Every signing key, the oldest first."""

    keys: list[ShownKey]


def auth_routes(keys: Keys) -> list[Route]:
    """``GET /.well-known/jwks.json``: the public keys (RFC 7517), cached for five minutes."""

    async def jwks(_: Request[None, None]) -> Response:
        """The keys with which other servers can verify this server's tokens."""
        return Response(
            body=keys.jwks(),
            media_type="application/jwk-set+json",
            headers={"cache-control": "public, max-age=300", "cross-origin-resource-policy": "cross-origin"},
        )

    return [
        Route(
            "GET",
            JWKS,
            jwks,
            auth="none",
            produces="application/jwk-set+json",
            summary="The public keys",
            tags=("auth",),
        )
    ]


def key_routes(keys: Keys, trail: Trail) -> list[Route]:
    """What admins do with the signing keys."""

    def shown() -> ShownKeys:
        return ShownKeys([ShownKey(k.kid, k.state, k.created_at, k.retires_at) for k in keys.all()])

    async def listed(request: Request[None, None]) -> ShownKeys:
        """One key signs (current), one is published and waits (next), old ones only verify."""
        await trail.look(request, "key.list")
        return shown()

    async def rotate(request: Request[None, None]) -> ShownKeys:
        """The next key signs from now on; what the one before it signed stays good. It happens by itself
        every ninety days. At most once in ten minutes: every verifier must have heard of the next key."""
        who = request.principal
        await keys.rotate(actor_of(who), via=via_of(who), request=request.id)
        return shown()

    async def revoke(request: Request[None, None]) -> None:
        """Every token that the key signed becomes invalid, on other nodes within a minute. For a key that
        may have been copied. Apps fetch new tokens with their refresh tokens, and nobody is signed out."""
        who = request.principal
        await keys.revoke(request.params["kid"], actor_of(who), via=via_of(who), request=request.id)

    return [
        Route(
            "GET",
            "/v1/admin/keys",
            listed,
            response=ShownKeys,
            auth="admin",
            summary="The signing keys",
            tags=("admin",),
        ),
        Route(
            "POST",
            "/v1/admin/keys/rotate",
            rotate,
            response=ShownKeys,
            auth="admin",
            summary="Let the next key sign",
            errors=(Conflict,),
            tags=("admin",),
        ),
        Route(
            "DELETE",
            "/v1/admin/keys/{kid}",
            revoke,
            auth="admin",
            summary="Make every token that a key signed invalid",
            errors=(NotFound,),
            tags=("admin",),
        ),
    ]
