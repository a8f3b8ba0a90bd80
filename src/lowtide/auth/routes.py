"""What the auth component serves."""

from __future__ import annotations

from lowtide.auth.keys import Keys
from lowtide.kernel.http import Request, Response, Route

JWKS = "/.well-known/jwks.json"


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
