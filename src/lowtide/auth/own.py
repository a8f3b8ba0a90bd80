"""What users do with their own account: look, rename, sign devices out."""

from __future__ import annotations

import msgspec

from lowtide.audit import Entry
from lowtide.auth.accounts import Accounts
from lowtide.auth.answers import own_session
from lowtide.auth.model import Identity, Session, User
from lowtide.auth.users import person_name
from lowtide.kernel.errors import NotFound
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx


class Own:
    """Everything that a user's own token may do to their account. Only the app's: see ``own_session``."""

    def __init__(self, database: Database, accounts: Accounts):
        self._database = database
        self._accounts = accounts

    async def user(self, who: Principal) -> User:
        """Whom the token stands for. ``NotFound`` for a token of nobody with an account."""
        user = await self._database.read(lambda tx: self._accounts.users.find(tx, who.user))
        if user is None:
            raise NotFound("This token's user has no account.", hint="Sign in to get one.")
        return user

    async def rename(self, who: Principal, name: str | None, request: str) -> User:
        """Give the user another name. Raises ``Malformed``."""
        own_session(who)
        name = person_name(name)

        async def work(tx: Tx) -> User:
            user = await self._accounts.users.get(tx, who.user)
            await self._accounts.sessions.check(tx, who)
            if user.name == name:
                return user
            entry = Entry(
                action="user.rename",
                actor=f"user:{who.user}",
                via=f"session:{who.session}",
                target=f"user:{who.user}",
                space=who.space,
                before={"name": user.name},
                after={"name": name},
                request=request,
            )
            await self._accounts.audit.write(tx, entry)
            return await self._accounts.users.save(tx, msgspec.structs.replace(user, name=name))

        return await self._database.write(work)

    async def sessions(self, who: Principal) -> list[Session]:
        """The user's sessions that go on, the newest first."""
        own_session(who)
        return await self._database.read(lambda tx: self._accounts.sessions.of_user(tx, who.user))

    async def identities(self, who: Principal) -> list[Identity]:
        """The user's ways in, the oldest first."""
        own_session(who)
        return await self._database.read(lambda tx: self._accounts.users.identities(tx, who.user))

    async def end(
        self, who: Principal, id: str, *, by: str = "user", wipe: bool = False, request: str = ""
    ) -> None:
        """End one of the user's sessions. ``NotFound`` for one that is not theirs, or over."""
        own_session(who)

        async def work(tx: Tx) -> None:
            if id != who.session:
                await self._accounts.sessions.check(tx, who)
            session = await self._accounts.sessions.find(tx, id)
            if session is None or session.user != who.user or session.ended_at is not None:
                raise NotFound("There is no such session.")
            await self._accounts.sessions.revoke(
                tx,
                session,
                by,
                actor=f"user:{who.user}",
                via=f"session:{who.session}",
                wipe=wipe,
                request=request,
            )

        await self._database.write(work)
        await self._accounts.revocations.committed()

    async def end_others(self, who: Principal, *, wipe: bool = False, request: str = "") -> int:
        """End every other session of the user; how many."""
        own_session(who)

        async def work(tx: Tx) -> int:
            await self._accounts.sessions.check(tx, who)
            ended = await self._accounts.sessions.revoke_all(tx, who.user, "user", but=who.session, wipe=wipe)
            if ended:
                entry = Entry(
                    action="session.end_others",
                    actor=f"user:{who.user}",
                    via=f"session:{who.session}",
                    target=f"user:{who.user}",
                    space=who.space,
                    after={"sessions": ended, "wipe": wipe},
                    request=request,
                )
                await self._accounts.audit.write(tx, entry)
            return len(ended)

        count = await self._database.write(work)
        await self._accounts.revocations.committed()
        return count
