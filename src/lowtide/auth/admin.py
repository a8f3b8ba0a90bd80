"""What admins and the app's own servers do with users: find, make, change, lock out, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lowtide.audit import Entry
from lowtide.audit.model import actor_of, via_of
from lowtide.auth.accounts import Accounts
from lowtide.auth.model import Identity, Session, User, normal_email
from lowtide.auth.users import check_claims, check_roles, check_space, person_name
from lowtide.kernel.errors import Conflict, IdentityTaken, Malformed, NotFound, NotUnique
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx

MAX_PAGE = 200
"""Users of one page."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a user but their data."""

    user: User
    identities: list[Identity]
    sessions: list[Session]
    spaces: Mapping[str, tuple[str, ...]]
    factors: tuple[str, ...]


class Admin:
    """Changes users. Each change is audited in its transaction, and their tokens are renewed or refused
    at once.
    """

    def __init__(self, database: Database, accounts: Accounts):
        self._database = database
        self._accounts = accounts
        self._users = accounts.users
        self._sessions = accounts.sessions

    async def search(self, text: str, before: str, limit: int) -> list[User]:
        """As ``Users.search``."""
        return await self._database.read(lambda tx: self._users.search(tx, text, before, limit))

    async def read(self, by: Principal, id: str, request: str) -> Known:
        """One user. ``NotFound``. A privileged look: audited."""

        async def work(tx: Tx) -> Known:
            await self._sessions.check(tx, by)
            user = await self._users.find(tx, id)
            if user is None:
                raise NotFound("There is no such user.")
            await self._write(tx, "user.read", by, id, request)
            return Known(
                user=user,
                identities=await self._users.identities(tx, id),
                sessions=await self._sessions.of_user(tx, id),
                spaces=await self._users.memberships(tx, id),
                factors=tuple(
                    [n for kind in self._accounts.sign_in.credentials for n in await kind.factors(tx, id)]
                ),
            )

        return await self._database.write(work)

    async def create(
        self,
        by: Principal,
        *,
        email: str | None = None,
        name: str | None = None,
        claims: Mapping[str, Any] | None = None,
        roles: tuple[str, ...] = (),
        request: str = "",
    ) -> User:
        """A user who has not signed in yet: whoever proves ``email`` is them.

        The admin vouches for the address, so a mailed code or a provider that verified it signs in as
        this user. Raises ``IdentityTaken`` for an address that somebody has, ``Malformed``.
        """
        check_claims(claims or {})
        check_roles(roles)
        address = None if email is None else checked_email(email)
        draft = User(
            id="",
            email=address,
            email_verified=address is not None,
            name=person_name(name),
            claims=dict(claims or {}),
            roles=roles,
        )

        async def work(tx: Tx) -> User:
            await self._sessions.check(tx, by)
            user = await self._users.create(tx, draft)
            await self._write(
                tx, "user.create", by, user.id, request, after={"roles": roles, "claims": claims}
            )
            return user

        try:
            return await self._database.write(work)
        except NotUnique:
            raise IdentityTaken("A user has this address already.") from None

    async def change(
        self,
        by: Principal,
        id: str,
        *,
        name: str | msgspec.UnsetType | None = msgspec.UNSET,
        claims: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        roles: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET,
        disabled: bool | msgspec.UnsetType = msgspec.UNSET,
        request: str = "",
    ) -> User:
        """Change what is given; the user's tokens say so from their next refresh, and old ones are refused.

        ``disabled``: ends every session, and nobody signs in as this user. Raises ``NotFound``,
        ``Malformed``, ``Conflict`` for a user who is being deleted or was merged.
        """
        changes: dict[str, Any] = {}
        if not isinstance(name, msgspec.UnsetType):
            changes["name"] = person_name(name)
        if not isinstance(claims, msgspec.UnsetType):
            check_claims(claims)
            changes["claims"] = dict(claims)
        if not isinstance(roles, msgspec.UnsetType):
            check_roles(roles)
            changes["roles"] = roles
        if not isinstance(disabled, msgspec.UnsetType):
            changes["status"] = "disabled" if disabled else "active"

        async def work(tx: Tx) -> User:
            await self._sessions.check(tx, by)
            user = await self._users.get(tx, id)
            if user.status in ("deleting", "merged"):
                raise Conflict(f"This user is {user.status}.")
            before = {what: getattr(user, what) for what in changes}
            user = await self._users.save(tx, msgspec.structs.replace(user, **changes))
            if user.status == "disabled":
                await self._sessions.revoke_all(tx, id, "operator")
            else:
                await self._sessions.change(tx, id)
            await self._write(tx, "user.change", by, id, request, before=before, after=changes)
            return user

        user = await self._database.write(work)
        await self._accounts.revocations.committed()
        return user

    async def end_sessions(self, by: Principal, id: str, *, wipe: bool = False, request: str = "") -> int:
        """Sign a user out everywhere; from how many devices. ``NotFound``."""

        async def work(tx: Tx) -> int:
            await self._sessions.check(tx, by)
            await self._users.get(tx, id)
            ended = await self._sessions.revoke_all(tx, id, "operator", wipe=wipe)
            await self._write(tx, "session.end_all", by, id, request, after={"sessions": ended, "wipe": wipe})
            return len(ended)

        count = await self._database.write(work)
        await self._accounts.revocations.committed()
        return count

    async def set_member(
        self, by: Principal, id: str, space: str, roles: tuple[str, ...], request: str = ""
    ) -> None:
        """Let a user into a space, or give them other roles there. Raises ``NotFound``, ``Malformed``."""
        check_space(space)
        check_roles(roles, member=True)

        async def work(tx: Tx) -> None:
            await self._sessions.check(tx, by)
            await self._users.get(tx, id)
            before = (await self._users.memberships(tx, id)).get(space)
            await self._users.set_member(tx, space, id, roles)
            await self._sessions.change(tx, id)
            await self._write(
                tx, "member.set", by, id, request, space=space, before=before, after={"roles": roles}
            )

        await self._database.write(work)
        await self._accounts.revocations.committed()

    async def remove_member(self, by: Principal, id: str, space: str, request: str = "") -> None:
        """Take a user out of a space; their tokens for it are refused at once. A repeat does nothing."""

        async def work(tx: Tx) -> None:
            await self._sessions.check(tx, by)
            await self._users.get(tx, id)
            before = (await self._users.memberships(tx, id)).get(space)
            if before is None:
                return
            await self._users.remove_member(tx, space, id)
            await self._sessions.change(tx, id)
            await self._write(tx, "member.remove", by, id, request, space=space, before={"roles": before})

        await self._database.write(work)
        await self._accounts.revocations.committed()

    async def make_admin(self, email: str, actor: str) -> User:
        """Give the role ``admin`` to whoever proves ``email``; the user is made if there is none yet.

        For the command line: ``actor`` is who runs it, as the audit log names them.
        ``Conflict`` for an address that its user has not verified: somebody else may have written it there.
        """
        address = checked_email(email)

        async def work(tx: Tx) -> User:
            user = await self._users.by_email(tx, address)
            if user is not None and not user.email_verified:
                raise Conflict(
                    f"The user with the address {address} has not verified it.",
                    hint="Let them sign in with a mailed code first.",
                )
            if user is None:
                user = await self._users.create(tx, User(id="", email=address, email_verified=True))
                made = Entry(action="user.create", actor=actor, via="cli", target=f"user:{user.id}")
                await self._accounts.audit.write(tx, made)
            user = await self._users.get(tx, user.id)
            if "admin" not in user.roles:
                roles = (*user.roles, "admin")
                user = await self._users.save(tx, msgspec.structs.replace(user, roles=roles))
                await self._sessions.change(tx, user.id)
                given = Entry(
                    action="user.change",
                    actor=actor,
                    via="cli",
                    target=f"user:{user.id}",
                    before={"roles": roles[:-1]},
                    after={"roles": roles},
                )
                await self._accounts.audit.write(tx, given)
            return user

        return await self._database.write(work)

    async def _write(
        self,
        tx: Tx,
        action: str,
        by: Principal,
        user: str,
        request: str,
        *,
        space: str = "",
        before: Any = None,
        after: Any = None,
    ) -> None:
        await self._accounts.audit.write(
            tx, entry_by(by, action, user, request, space=space, before=before, after=after)
        )


def entry_by(
    by: Principal,
    action: str,
    user: str,
    request: str,
    *,
    space: str = "",
    before: Any = None,
    after: Any = None,
    personal: Mapping[str, str] | None = None,
) -> Entry:
    """What the audit log says of what an admin or a server does to ``user``."""
    return Entry(
        action=action,
        actor=actor_of(by),
        via=via_of(by),
        target=f"user:{user}",
        space=space or by.space,
        before=before,
        after=after,
        request=request,
        personal=dict(personal or {}),
    )


def checked_email(email: str) -> str:
    """``email`` as it is kept. ``Malformed`` for what no mail can be sent to."""
    address = normal_email(email)
    local, at, domain = address.rpartition("@")
    if not (at and local and domain) or len(address) > 254 or not address.isprintable() or " " in address:
        raise Malformed("This is no e-mail address.")
    return address
