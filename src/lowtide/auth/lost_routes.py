"""``/v1/admin/users/{id}/ways-in``, and the lost ones among them taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from lowtide.auth.answers import WayIn, way_in
from lowtide.auth.lost import LostWays, Ways
from lowtide.auth.methods.secondfactor import SecondFactorKept
from lowtide.auth.passkeys.service import Passkey
from lowtide.kernel.errors import Conflict, NotFound
from lowtide.kernel.http import Request, Route


class UserWays(msgspec.Struct, frozen=True, kw_only=True):
    """What lets a user in. Nothing of it is secret."""

    email: str | None
    """Their verified address: a code mailed to it signs them in."""
    password: bool
    second_factor: SecondFactorKept
    passkeys: Sequence[Passkey]
    """The oldest first."""
    identities: list[WayIn]
    """Every way in that was linked; a passkey is among them."""


def lost_routes(lost: LostWays) -> list[Route]:
    """The addresses of admins and of the app's own servers for users who have lost a way in."""

    async def read(request: Request[None, None]) -> UserWays:
        """A user's second factor, passkeys and identities. Audited."""
        return told(await lost.read(request.principal, request.params["id"], request.id))

    async def remove_second_factor(request: Request[None, None]) -> UserWays:
        """Take the authenticator app and the recovery codes away, for a user who has lost both.

        Make sure first that it is the user who asks. A password of less than 15 characters goes with them:
        it may not stand alone. The user is signed out everywhere, and told by mail. The answer is what is
        left. 409 `conflict` for an admin's own.
        """
        return told(await lost.remove_second_factor(request.principal, request.params["id"], request.id))

    async def remove_passkey(request: Request[None, None]) -> UserWays:
        """Take a passkey away that its user has lost, even if it is the last way in.

        The user is signed out everywhere, and told by mail. The answer is what is left: without an identity
        and a verified address nothing signs this user in again. 409 `conflict` for an admin's own.
        """
        named = request.params
        return told(await lost.remove_passkey(request.principal, named["id"], named["passkey"], request.id))

    def route(method: Any, path: str, handler: Any, summary: str, *errors: Any) -> Route:
        return Route(
            method,
            "/v1/admin/users/{id}" + path,
            handler,
            auth="admin",
            response=UserWays,
            summary=summary,
            errors=errors,
            tags=("users",),
        )

    return [
        route("GET", "/ways-in", read, "What lets a user in", NotFound),
        route(
            "DELETE",
            "/second-factor",
            remove_second_factor,
            "Take a lost second factor away",
            NotFound,
            Conflict,
        ),
        route(
            "DELETE", "/passkeys/{passkey}", remove_passkey, "Take a lost passkey away", NotFound, Conflict
        ),
    ]


def told(ways: Ways) -> UserWays:
    """``ways``, as an admin sees them."""
    return UserWays(
        email=ways.user.email if ways.user.email_verified else None,
        password=ways.password,
        second_factor=ways.second_factor,
        passkeys=ways.passkeys,
        identities=[way_in(one) for one in ways.identities],
    )
