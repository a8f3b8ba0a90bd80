"""Deleting an account: out at once, gone soon. And handing out what is kept of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from lowtide.audit import Entry
from lowtide.audit.model import actor_of, via_of
from lowtide.auth.accounts import Accounts
from lowtide.auth.answers import account, device, own_session, way_in
from lowtide.auth.merging import Belongings
from lowtide.auth.sessions import ACCESS
from lowtide.auth.users import MAIN
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, NotFound, StepUpRequired
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx
from lowtide.storage.jobs import Job, Jobs

STEP_UP = 900
"""Seconds for which a sign-in is recent enough to delete an account."""
PURGE = "auth.purge"
PURGE_AFTER = ACCESS + 300
"""Seconds after a deletion, when no token of the user is good any more."""

_encode = msgspec.json.Encoder().encode


class _Leaving(msgspec.Struct, frozen=True):
    user: str
    spaces: tuple[str, ...]


class Deletion:
    """Deletes accounts, and exports them."""

    def __init__(
        self, database: Database, accounts: Accounts, belongings: Belongings, jobs: Jobs, clock: Clock
    ):
        self._database = database
        self._accounts = accounts
        self._belongings = belongings
        self._jobs = jobs
        self._clock = clock
        self.more: dict[str, Callable[[str], Awaitable[Sequence[object]]]] = {}
        """What else an export holds, by the type of its lines: asked with the user's id."""
        jobs.register(PURGE, _Leaving, self._purge, deadline=3600)

    async def delete_own(self, who: Principal, request: str) -> None:
        """Delete the account of ``who``. Raises ``StepUpRequired`` if their last sign-in is too long ago."""
        own_session(who)
        if self._clock.now() - who.auth_time > STEP_UP * 1000 and not await self._guest(who):
            raise StepUpRequired(max_age=STEP_UP)
        await self.delete(who, who.user, request)

    async def delete(self, by: Principal, id: str, request: str) -> None:
        """Sign ``id`` out everywhere, forget who they are, and delete their records soon. A repeat does
        nothing.

        At once and in one transaction: every session ends with a wipe, ways in, credentials, name and
        addresses are gone, and so is nothing else; whoever proves the same address again is a new user.
        The records go with a job. Raises ``NotFound``, ``Conflict`` for a merged user.
        """

        async def work(tx: Tx) -> None:
            users = self._accounts.users
            user = await users.get(tx, id)
            if user.status == "deleting":
                return
            await self._accounts.sessions.check(tx, by)
            if user.status == "merged":
                raise Conflict("This user lives on as another one.")
            spaces = tuple(dict.fromkeys((MAIN, *await users.memberships(tx, id))))
            for kind in self._accounts.sign_in.credentials:
                await kind.forget(tx, id)
            await users.unlink_all(tx, id)
            await users.forget_tickets(tx, id)
            await users.save(
                tx,
                msgspec.structs.replace(
                    user,
                    status="deleting",
                    name=None,
                    email=None,
                    email_verified=False,
                    phone=None,
                    phone_verified=False,
                    claims={},
                    roles=(),
                ),
            )
            await self._accounts.sessions.revoke_all(tx, id, "deleted", wipe=True)
            entry = Entry(
                action="user.delete",
                actor=actor_of(by),
                via=via_of(by),
                target=f"user:{id}",
                space=by.space,
                request=request,
            )
            await self._accounts.audit.write(tx, entry)
            due = self._clock.now() + PURGE_AFTER * 1000
            await self._jobs.enqueue(tx, PURGE, _Leaving(id, spaces), run_at=due, key=id)

        await self._database.write(work)
        await self._accounts.revocations.committed()
        self._jobs.wake()

    async def export(self, who: Principal) -> AsyncIterator[bytes]:
        """What is kept of ``who``, as lines of JSON: account, ways in, sessions, ``more``, records."""
        own_session(who)
        users = self._accounts.users

        async def read(tx: Tx) -> tuple[list[bytes], tuple[str, ...], tuple[str, ...]]:
            user = await users.find(tx, who.user)
            if user is None:
                raise NotFound("This token's user has no account.")
            spaces = await users.memberships(tx, who.user)
            lines = [_line("account", account(user)), _line("spaces", spaces)]
            lines += [_line("identity", way_in(one)) for one in await users.identities(tx, who.user)]
            sessions = await self._accounts.sessions.of_user(tx, who.user)
            lines += [_line("session", device(one, who.session)) for one in sessions]
            return lines, tuple(dict.fromkeys((MAIN, *spaces))), await self._ids(tx, who.user)

        lines, spaces, ids = await self._database.read(read)

        for kind, listed in self.more.items():
            lines += [_line(kind, one) for one in await listed(who.user)]

        async def written() -> AsyncIterator[bytes]:
            for line in lines:
                yield line
            for owner in ids:
                async for (space, model, id), data in self._belongings.records(owner, spaces):
                    yield _line("record", {"space": space, "model": model, "id": id, "data": data})

        return written()

    async def _guest(self, who: Principal) -> bool:
        """An anonymous user cannot sign in once more: there is nothing to prove."""
        user = await self._database.read(lambda tx: self._accounts.users.find(tx, who.user))
        return user is not None and user.anonymous

    async def _purge(self, _: Job, leaving: _Leaving) -> None:
        """Delete the records, then the user. May run again from its beginning."""
        for id in await self._database.read(lambda tx: self._ids(tx, leaving.user)):
            await self._belongings.delete(id, leaving.spaces)

        async def work(tx: Tx) -> None:
            for id in await self._ids(tx, leaving.user):
                await self._belongings.forget_devices(tx, id)
                await self._accounts.sessions.scrub(tx, id)
                await self._accounts.users.delete(tx, id)
                await self._accounts.audit.erase(tx, f"user:{id}")

        await self._database.write(work)

    async def _ids(self, tx: Tx, user: str) -> tuple[str, ...]:
        """The user's id, and those of the accounts that were merged into it."""
        return user, *await self._accounts.users.formers(tx, user)


def _line(kind: str, value: object) -> bytes:
    return _encode({"type": kind, "value": value}) + b"\n"
