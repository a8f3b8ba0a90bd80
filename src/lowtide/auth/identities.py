"""The ways in of somebody who is signed in: they add one, and take one away.

``SignIn`` finds the user of a proof; here the user is known, and says whose the proof is from now on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.auth.model import Also, Ask, Identity, Proof, Signed, Spend, User, nothing
from lowtide.auth.sessions import Sessions
from lowtide.auth.users import Users, check_proof, person_name
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, IdentityTaken, NotUnique, StepUpRequired
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx

RECENT = 900
"""Seconds after a sign-in in which ways in may be added and taken away."""


class Identities:
    """Adds ways in, and takes them away."""

    def __init__(self, database: Database, users: Users, sessions: Sessions, audit: Audit, clock: Clock):
        self._database = database
        self._users = users
        self._sessions = sessions
        self._audit = audit
        self._clock = clock

    async def link(
        self, who: Principal, proof: Proof, ask: Ask, *, spend: Spend = nothing, also: Also = nothing
    ) -> Signed:
        """Give the signed-in user another way in; new tokens of their session say what has changed.

        In its transaction ``spend`` uses up what has proved it, and ``also`` is called with the answer.
        Raises ``IdentityTaken``, ``NotFound`` for a session that is over, and ``StepUpRequired`` if the last
        sign-in is more than ``RECENT`` seconds ago.
        """
        # Whoever copied a token must not make themselves a way in that stays.
        self.recent(who)
        check_proof(proof)

        async def work(tx: Tx) -> Signed:
            user = await self._users.get(tx, who.user)
            await self._sessions.check(tx, who)
            await spend(tx)
            user = await add(tx, user)
            signed = self._sessions.signed(await self._sessions.again(tx, who.session, user))
            await also(tx, signed)
            return signed

        async def add(tx: Tx, user: User) -> User:
            owner = await self._users.by_identity(tx, proof.provider, proof.subject)
            if owner is not None and owner.id == user.id:
                await self._users.used(tx, proof)
                return user
            if owner is not None:
                raise IdentityTaken
            if proof.email is not None and proof.email_verified:
                holder = await self._users.by_email(tx, proof.email)
                if holder is not None and holder.id != user.id and holder.email_verified:
                    raise IdentityTaken
                if holder is not None and holder.id != user.id:
                    await self._take_address(tx, holder)
            user = await self._users.save(tx, enriched(user, proof))
            await self._users.link(tx, user.id, proof)
            await self._audit.write(
                tx, entry("identity.link", user, ask, via=who.session, after=named(proof))
            )
            await self._sessions.change(tx, user.id)
            return user

        try:
            signed = await self._database.write(work)
        except NotUnique:
            raise IdentityTaken from None
        await self._sessions.revocations.committed()
        return signed

    def recent(self, who: Principal) -> None:
        """Raise ``StepUpRequired`` if the last sign-in of ``who`` is more than ``RECENT`` seconds ago."""
        if self._clock.now() - who.auth_time > RECENT * 1000:
            raise StepUpRequired(max_age=RECENT)

    async def unlink(self, who: Principal, provider: str, subject: str, ask: Ask) -> None:
        """Take a way in away. Raises ``Conflict`` for the last one, ``NotFound`` is never told.

        An address that no other way in vouches for goes with it: whoever gets that mailbox or number later
        is somebody else. Another one that the user has verified takes its place.

        Raises ``StepUpRequired`` if the last sign-in is more than ``RECENT`` seconds ago.
        """
        # Whoever copied a token must not shut its owner out.
        self.recent(who)
        if provider == "passkey":
            # Its other half would still be believed as a second factor.
            raise Conflict(
                "A passkey is deleted where passkeys are.", hint="Send DELETE /v1/auth/passkeys/{id} instead."
            )

        async def work(tx: Tx) -> None:
            user = await self._users.get(tx, who.user)
            await self._sessions.check(tx, who)
            ways = await self._users.identities(tx, user.id)
            rest = [way for way in ways if (way.provider, way.subject) != (provider, subject)]
            if len(rest) == len(ways):
                return
            if not rest:
                raise Conflict(
                    "This is the only way in.", hint="Link another one first, or delete the account."
                )
            await self._users.unlink(tx, user.id, provider, subject)
            await self._users.note_unlinked(tx, user.id, provider, subject)
            (gone_way,) = [way for way in ways if way not in rest]
            bereft = await self._bereft(tx, user, gone_way, rest)
            if bereft != user:
                await self._users.save(tx, bereft)
            gone = {"provider": provider, "subject": subject}
            await self._audit.write(tx, entry("identity.unlink", user, ask, via=who.session, before=gone))

        await self._database.write(work)

    async def _bereft(self, tx: Tx, user: User, gone: Identity, rest: Sequence[Identity]) -> User:
        """``user`` without the addresses that only the way in which is gone has proved; with the next."""
        changes: dict[str, Any] = {}
        verified = [way.email for way in rest if way.email is not None and way.email_verified]
        if gone.email == user.email and user.email not in verified:
            free = [email for email in verified if await self._users.by_email(tx, email) is None]
            changes = {"email": free[0] if free else None, "email_verified": bool(free)}
        if gone.provider == "phone" and gone.subject == user.phone:
            numbers = [way.subject for way in rest if way.provider == "phone"]
            changes |= {"phone": numbers[0] if numbers else None, "phone_verified": bool(numbers)}
        return msgspec.structs.replace(user, **changes)

    async def _take_address(self, tx: Tx, holder: User) -> None:
        """Somebody else has proved the address that ``holder`` only claimed."""
        holder = await self._users.get(tx, holder.id)
        for way in await self._users.identities(tx, holder.id):
            if way.email == holder.email and not way.email_verified:
                await self._users.unlink(tx, holder.id, way.provider, way.subject)
        await self._users.save(tx, msgspec.structs.replace(holder, email=None))


def enriched(user: User, proof: Proof, *, free: bool = True) -> User:
    """``user`` with what a proof adds. ``free``: nobody else has its address."""
    changes: dict[str, Any] = {}
    if proof.email is not None and free and (user.email is None or user.email == proof.email):
        changes["email"] = proof.email
        changes["email_verified"] = user.email_verified or proof.email_verified
    if proof.phone is not None and (user.phone is None or user.phone == proof.phone):
        changes["phone"] = proof.phone
        changes["phone_verified"] = user.phone_verified or proof.phone_verified
    if user.name is None and proof.name:
        changes["name"] = person_name(proof.name[:200])
    return msgspec.structs.replace(user, **changes)


def named(proof: Proof) -> dict[str, str]:
    """``proof`` in the audit log."""
    return {"provider": proof.provider, "subject": proof.subject}


def entry(
    action: str, user: User, ask: Ask, *, via: str = "", before: Any = None, after: Any = None
) -> Entry:
    """What the audit log says of what ``user`` does to their own account. ``via``: a session's id."""
    personal = {"ip": ask.ip} if ask.ip else {}
    if user.email is not None:
        personal["email"] = user.email
    return Entry(
        action=action,
        actor=f"user:{user.id}",
        via=f"session:{via}" if via else "",
        target=f"user:{user.id}",
        space=ask.space,
        before=before,
        after=after,
        request=ask.request_id,
        personal=personal,
    )
