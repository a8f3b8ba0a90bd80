"""The addresses of admins and of the app's own servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from lowtide.audit.trail import Trail
from lowtide.auth.admin import MAX_PAGE, Admin, Known
from lowtide.auth.answers import Account, Device, WayIn, account, device, way_in
from lowtide.auth.deletion import Deletion
from lowtide.auth.model import MAX_EMAIL, MAX_PERSON, Status, User
from lowtide.kernel.errors import Conflict, IdentityTaken, NotFound
from lowtide.kernel.http import KIB, Request, Route

Name = Annotated[str, msgspec.Meta(max_length=MAX_PERSON)]


class Listed(Account, frozen=True, kw_only=True):
    """A user as an admin sees them."""

    status: Status
    signed_in_at: int | None


class UserQuery(msgspec.Struct, frozen=True):
    search: Annotated[str, msgspec.Meta(max_length=MAX_EMAIL)] = ""
    """An id, or a part of an address, a number or a name."""
    before: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """The id of the last user of the page before."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 50


class UserList(msgspec.Struct, frozen=True):
    users: list[Listed]
    """Newest first."""


class UserDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a user but their data."""

    user: Listed
    identities: list[WayIn]
    sessions: list[Device]
    spaces: Mapping[str, tuple[str, ...]]
    """Space -> the user's roles there."""
    factors: tuple[str, ...]
    """Second factors that are set up."""


class Making(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user to be made. Whoever proves the address is them: the admin vouches for it."""

    email: Annotated[str, msgspec.Meta(max_length=MAX_EMAIL)] | None = None
    name: Name | None = None
    claims: dict[str, Any] = {}
    roles: tuple[str, ...] = ()


class Changing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; what is not given stays."""

    name: Name | msgspec.UnsetType | None = msgspec.UNSET
    claims: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    roles: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET
    """True: signed out everywhere, and nobody signs in as this user."""


class Wiping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    wipe: bool = False
    """Ask the devices to delete what they hold, too."""


class Ended(msgspec.Struct, frozen=True):
    sessions: int


class Membership(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    roles: tuple[str, ...] = ()


def admin_routes(admin: Admin, deletion: Deletion, trail: Trail) -> list[Route]:
    """``/v1/admin/users`` and what is under it."""

    async def users(request: Request[None, UserQuery]) -> UserList:
        """Users, the newest first. A search looks at every user. Audited."""
        asked = request.query
        await trail.look(request, "user.list", asked=msgspec.to_builtins(asked))
        found = await admin.search(asked.search, asked.before, asked.limit)
        return UserList([listed(user) for user in found])

    async def read(request: Request[None, None]) -> UserDetails:
        """One user with identities, devices and spaces. Audited."""
        return details(await admin.read(request.principal, request.params["id"], request.id))

    async def create(request: Request[Making, None]) -> Listed:
        """A user who has not signed in yet."""
        asked = request.body
        made = await admin.create(
            request.principal,
            email=asked.email,
            name=asked.name,
            claims=asked.claims,
            roles=asked.roles,
            request=request.id,
        )
        return listed(made)

    async def change(request: Request[Changing, None]) -> Listed:
        """Change name, claims or roles; lock out or let in again. Old tokens are refused at once."""
        asked = request.body
        changed = await admin.change(
            request.principal,
            request.params["id"],
            name=asked.name,
            claims=asked.claims,
            roles=asked.roles,
            disabled=asked.disabled,
            request=request.id,
        )
        return listed(changed)

    async def end_sessions(request: Request[Wiping, None]) -> Ended:
        """Sign a user out everywhere."""
        id, wipe = request.params["id"], request.body.wipe
        return Ended(await admin.end_sessions(request.principal, id, wipe=wipe, request=request.id))

    async def set_member(request: Request[Membership, None]) -> None:
        """Let a user into a space, or give them other roles there."""
        named = request.params
        await admin.set_member(request.principal, named["id"], named["space"], request.body.roles, request.id)

    async def remove_member(request: Request[None, None]) -> None:
        """Take a user out of a space."""
        named = request.params
        await admin.remove_member(request.principal, named["id"], named["space"], request.id)

    async def delete(request: Request[None, None]) -> None:
        """Delete a user: signed out everywhere at once, the records soon after."""
        await deletion.delete(request.principal, request.params["id"], request.id)

    def route(method: Any, path: str, handler: Any, summary: str, *errors: Any, **options: Any) -> Route:
        return Route(
            method,
            "/v1/admin/users" + path,
            handler,
            auth="admin",
            max_body=16 * KIB,
            summary=summary,
            errors=errors,
            tags=("users",),
            **options,
        )

    return [
        route("GET", "", users, "List and search users", query=UserQuery, response=UserList),
        route("POST", "", create, "Make a user", IdentityTaken, body=Making, response=Listed, status=201),
        route("GET", "/{id}", read, "One user", NotFound, response=UserDetails),
        route("PATCH", "/{id}", change, "Change a user", NotFound, Conflict, body=Changing, response=Listed),
        route("DELETE", "/{id}", delete, "Delete a user", NotFound, Conflict),
        route(
            "POST",
            "/{id}/end-sessions",
            end_sessions,
            "Sign a user out everywhere",
            NotFound,
            body=Wiping,
            response=Ended,
        ),
        route(
            "PUT", "/{id}/spaces/{space}", set_member, "Let a user into a space", NotFound, body=Membership
        ),
        route("DELETE", "/{id}/spaces/{space}", remove_member, "Take a user out of a space", NotFound),
    ]


def listed(user: User) -> Listed:
    """A user as an admin sees them."""
    return Listed(**msgspec.structs.asdict(account(user)), status=user.status, signed_in_at=user.signed_in_at)


def details(known: Known) -> UserDetails:
    """All of it."""
    return UserDetails(
        user=listed(known.user),
        identities=[way_in(one) for one in known.identities],
        sessions=[device(one, "") for one in known.sessions],
        spaces=known.spaces,
        factors=known.factors,
    )
