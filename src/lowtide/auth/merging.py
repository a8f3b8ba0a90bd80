"""Merging an anonymous account into an existing one, with everything that was written under it.

Both proofs are asked for: the token of the account that stays, and one of the account that goes. Users,
sessions and synced records change in one transaction. What was written under the old id and has not
arrived yet is not lost: tokens of the merged user carry their former ids, and the engine reads these as
the present one; tokens of the old id are refused as expired, and the old refresh token brings the new user's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

import msgspec

from lowtide.audit import Entry
from lowtide.auth.accounts import Accounts
from lowtide.auth.answers import own_session
from lowtide.auth.model import Opened, Signed, User
from lowtide.auth.sessions import ACCESS
from lowtide.auth.tokens import Tokens
from lowtide.auth.users import MAIN
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, InvalidGrant, ProofMismatch, Unauthorized
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx
from lowtide.storage.jobs import Job, Jobs

SWEEP = "auth.merge_sweep"
SWEEP_AFTER = ACCESS + 300
"""Seconds after a merge, when no token of the old id is good any more."""


class NotMoved(Protocol):
    """A record that stays as it was."""

    @property
    def space(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def code(self) -> str: ...


class Moved(Protocol):
    """What became of a user's records."""

    @property
    def records(self) -> int: ...
    @property
    def left(self) -> Sequence[NotMoved]: ...


class Belongings(Protocol):
    """What users own besides their account: ``lowtide.sync.ownership.Ownership``."""

    async def move(
        self, old: str, new: str, spaces: Collection[str], also: Callable[[Tx], Awaitable[None]]
    ) -> Moved: ...

    async def delete(self, user: str, spaces: Collection[str]) -> int: ...

    async def forget_devices(self, tx: Tx, user: str) -> None: ...

    def records(
        self, user: str, spaces: Collection[str]
    ) -> AsyncIterator[tuple[tuple[str, str, str], dict[str, Any]]]: ...


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """Two accounts that are one."""

    signed: Signed
    """New tokens of the session that asked; they carry the former id."""
    records: int
    left: Sequence[NotMoved]


class _Pair(msgspec.Struct, frozen=True):
    old: str
    new: str
    spaces: tuple[str, ...]


class Merging:
    """Merges accounts."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        belongings: Belongings,
        jobs: Jobs,
        tokens: Callable[[], Tokens],
        clock: Clock,
    ):
        self._database = database
        self._accounts = accounts
        self._belongings = belongings
        self._jobs = jobs
        self._tokens = tokens
        self._clock = clock
        jobs.register(SWEEP, _Pair, self._sweep, deadline=600)

    async def merge(self, who: Principal, token: str, jkt: str | None, request: str) -> Merged:
        """Make the anonymous user whose ``token`` (access or refresh) this is one with ``who``.

        A repeat after a lost answer is answered like the first time. Raises ``InvalidGrant`` for a
        token that proves nobody, ``ProofMismatch`` where its session is bound to another key than
        ``jkt``, ``Conflict`` for an account that is not anonymous, ``TooLarge`` for one with too many
        records; then nothing has happened.
        """
        own_session(who)
        old = await self._database.read(lambda tx: self._owner(tx, token, jkt))
        records: int = 0
        left: tuple[NotMoved, ...] = ()
        if old != who.user:
            spaces = await self._database.read(lambda tx: self._spaces(tx, old))
            moved = await self._belongings.move(
                old, who.user, spaces, lambda tx: self._join(tx, old, who, spaces, request)
            )
            records, left = moved.records, tuple(moved.left)
            await self._accounts.revocations.committed()
            self._jobs.wake()
        opened = await self._database.read(lambda tx: self._again(tx, who))
        return Merged(signed=self._accounts.sessions.signed(opened), records=records, left=left)

    async def _owner(self, tx: Tx, token: str, jkt: str | None) -> str:
        session = await self._accounts.sessions.of_token(tx, token)
        if session is None:
            try:
                claimed = self._tokens().verify(token)
            except Unauthorized as error:
                raise InvalidGrant("The other account's token is not valid.") from error
            session = await self._accounts.sessions.find(tx, claimed.session)
        if session is None or session.ended_at is not None or session.client:
            raise InvalidGrant("The other account's session is over.")
        if session.jkt is not None and session.jkt != jkt:
            raise ProofMismatch("The other account's token is bound to another key.")
        return session.user

    async def _spaces(self, tx: Tx, user: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((MAIN, *await self._accounts.users.memberships(tx, user))))

    async def _join(self, tx: Tx, old: str, who: Principal, spaces: tuple[str, ...], request: str) -> None:
        await self._accounts.sessions.check(tx, who)
        users, new = self._accounts.users, who.user
        # In one order, so that two merges never wait for each other.
        locked = {id: await users.get(tx, id) for id in sorted((old, new))}
        _check(locked[old], locked[new])
        memberships = await users.memberships(tx, new)
        for space, roles in (await users.memberships(tx, old)).items():
            if space not in memberships:
                await users.set_member(tx, space, new, roles)
            await users.remove_member(tx, space, old)
        for kind in self._accounts.sign_in.credentials:
            await kind.forget(tx, old)
        await users.save(tx, msgspec.structs.replace(locked[old], status="merged", name=None, claims={}))
        await users.add_alias(tx, old, new)
        await self._accounts.sessions.move(tx, old, new)
        entry = Entry(
            action="user.merge",
            actor=f"user:{new}",
            via=f"session:{who.session}",
            target=f"user:{old}",
            space=who.space,
            after={"into": new},
            request=request,
        )
        await self._accounts.audit.write(tx, entry)
        due = self._clock.now() + SWEEP_AFTER * 1000
        await self._jobs.enqueue(tx, SWEEP, _Pair(old, new, spaces), run_at=due, key=old)

    async def _again(self, tx: Tx, who: Principal) -> Opened:
        user = await self._accounts.users.find(tx, who.user)
        if user is None:
            raise Conflict("The account that stays is gone.")
        return await self._accounts.sessions.again(tx, who.session, user)

    async def _sweep(self, _: Job, pair: _Pair) -> None:
        """Move what was written under the old id while its last tokens were good, on any node."""

        async def nothing(tx: Tx) -> None:
            pass

        await self._belongings.move(pair.old, pair.new, pair.spaces, nothing)


def _check(old: User, new: User) -> None:
    if new.status != "active" or new.anonymous:
        raise Conflict("The account that stays must be one that somebody can sign in to.")
    if old.status != "active" or not old.anonymous:
        raise Conflict(
            "Only an anonymous account is merged into another.",
            hint="Link the other way of signing in instead, or let an admin help.",
        )
