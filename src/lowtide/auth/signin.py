"""Signing in: whose proof this is, and what they get for it. Every method ends here.

Who is found: the user whose identity this is; else the user who has the same *verified* address, if this
proof vouches for it too; else a new one. An address that nobody verified links nothing. If its row was made
by somebody who never proved the address, its ways in and sessions are thrown away before the owner of the
address gets it (account pre-hijacking: Sudhodanan and Paverd, USENIX Security 2022). Nor does another
provider's word link again what the user has taken away: only the user does.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from lowtide.audit import Audit
from lowtide.auth.hooks import Hooks, event
from lowtide.auth.identities import enriched, entry, named
from lowtide.auth.model import (
    Also,
    Ask,
    Credentials,
    Opened,
    Proof,
    SecondFactorNeeded,
    Signed,
    Spend,
    User,
    nothing,
)
from lowtide.auth.sessions import Sessions
from lowtide.auth.users import QUERIES, Users, check_proof, check_space
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import (
    AccountDisabled,
    Conflict,
    IdentityTaken,
    IdentityUnlinked,
    InvalidGrant,
    NotFound,
    NotUnique,
)
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Database, Tx

TICKET = 600
"""Seconds in which a second factor may follow the first."""
ATTEMPTS = 4
"""How often a sign-in that meets another of the same person is begun anew."""
ANONYMOUS = Proof(provider="anonymous", subject="-")

Outcome = Literal["signed_in", "created", "upgraded"]


class _Found(msgspec.Struct, frozen=True):
    """Who a proof is of."""

    user: User
    """As it is, or as it will be: then its id is ""."""
    outcome: Outcome
    known: bool
    """The identity is linked already."""
    cleanse: bool = False
    """The row was made by somebody who never proved its address."""


class _Settling(msgspec.Struct, frozen=True):
    """One sign-in on its way into the database."""

    proof: Proof
    ask: Ask
    ticket: str | None
    opens: bool
    spend: Spend
    also: Also
    seen: _Found
    claims: dict[str, Any]


class _Done(msgspec.Struct, frozen=True):
    """What a sign-in came to."""

    user: User
    signed: Signed | None
    changed: bool
    """Tokens that are around say what is no longer true."""


class _Changed(Exception):
    """Between looking and writing, somebody else wrote."""


class SignIn:
    """Turns proofs into users and sessions."""

    def __init__(
        self,
        database: Database,
        users: Users,
        sessions: Sessions,
        hooks: Hooks,
        audit: Audit,
        clock: Clock,
        ids: Ids,
    ):
        self._database = database
        self._users = users
        self._sessions = sessions
        self._hooks = hooks
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self.credentials: list[Credentials] = []
        """What the methods keep, asked for second factors and told to forget."""

    # -- what methods call ------------------------------------------------------------------------

    async def complete(
        self, proof: Proof, ask: Ask, *, spend: Spend = nothing, also: Also = nothing
    ) -> Signed | SecondFactorNeeded:
        """Sign in whoever ``proof`` is of, and sign them up if they are new.

        With ``ask.upgrade``, an anonymous user keeps their id and gets this identity; if the identity is
        another user's already, that one is signed in (``outcome`` is ``signed_in``, the id is another), and
        the two may then be merged. With the user's own token in ``ask.upgrade`` it is a step-up: the same
        session goes on with a new ``auth_time``: that of the proof, where it tells one.

        In its transaction ``spend`` uses up what has proved it, and ``also`` is called with the answer.

        Raises ``SignInRefused`` and ``FunctionFailed`` for hooks, ``AccountDisabled``, ``Forbidden`` for a
        space, ``IdentityUnlinked``, ``IdentityTaken`` for ``ask.alone`` where the proof is of another user,
        ``InvalidGrant`` for a passkey that is nobody's any more, ``SessionRevoked`` or ``TokenExpired`` for a
        guest's session that is over or has changed, ``Malformed`` for a proof that cannot be kept, and what
        ``spend`` and ``also`` raise: then nothing has happened.
        """
        done = await self._settle(proof, ask, None, True, spend, also)
        return done if isinstance(done, SecondFactorNeeded) else _signed(done)

    async def identify(
        self, proof: Proof, ask: Ask, *, spend: Spend = nothing, also: Also = nothing
    ) -> User | SecondFactorNeeded:
        """The same without a session: for browser pages that keep their own. Raises as ``complete``."""
        done = await self._settle(proof, ask, None, False, spend, also)
        return done if isinstance(done, SecondFactorNeeded) else done.user

    async def anonymous(self, ask: Ask, *, also: Also = nothing) -> Signed:
        """A new user who has proved nothing: whoever holds the session is that user."""
        check_space(ask.space)
        draft = User(id="", anonymous=True)
        claims = await self._hooks.before("before_sign_up", draft, ANONYMOUS, ask)

        async def work(tx: Tx) -> Signed:
            made = msgspec.structs.replace(draft, claims=claims, signed_in_at=self._clock.now())
            user = await self._users.create(tx, made)
            opened = await self._sessions.open(tx, user, ask, ())
            await self._audit.write(
                tx, entry("user.create", user, ask, via=opened.session.id, after={"anonymous": True})
            )
            await self._hooks.after(tx, "after_sign_up", event(user, ANONYMOUS, ask))
            signed = self._sessions.signed(opened, "created")
            await also(tx, signed)
            return signed

        signed = await self._database.write(work)
        self._hooks.wake()
        return signed

    async def waiting(self, ticket: str) -> User:
        """Whose second factor ``ticket`` waits for. Raises ``InvalidGrant`` once it is used up or too old."""
        user, _ = await self._database.read(lambda tx: self._ticket(tx, ticket))
        return user

    async def finish(
        self, ticket: str, ask: Ask, amr: tuple[str, ...], *, spend: Spend = nothing, also: Also = nothing
    ) -> Signed:
        """The second factor was right, too: sign in. The ticket is used up, and so is what ``spend`` uses.

        The caller has verified a factor of the user that ``waiting`` names; ``amr`` is how. Raises as
        ``waiting`` and ``complete``.
        """
        return _signed(await self._finish(ticket, ask, amr, True, spend, also))

    async def finish_identify(
        self, ticket: str, ask: Ask, amr: tuple[str, ...], *, spend: Spend = nothing, also: Also = nothing
    ) -> User:
        """The same without a session."""
        return (await self._finish(ticket, ask, amr, False, spend, also)).user

    # -- inside -----------------------------------------------------------------------------------

    async def _finish(
        self, ticket: str, ask: Ask, amr: tuple[str, ...], opens: bool, spend: Spend, also: Also
    ) -> _Done:
        _, proof = await self._database.read(lambda tx: self._ticket(tx, ticket))
        done = await self._settle(_with(proof, amr), ask, ticket, opens, spend, also)
        assert isinstance(done, _Done)  # noqa: S101 - nothing is asked for after a ticket
        return done

    async def _settle(
        self, proof: Proof, ask: Ask, ticket: str | None, opens: bool, spend: Spend, also: Also
    ) -> _Done | SecondFactorNeeded:
        check_proof(proof)
        check_space(ask.space)
        for _ in range(ATTEMPTS):
            seen = await self._database.read(lambda tx: self._look(tx, proof, ask, ticket))
            # Outside the transaction: the app's code may take its time.
            moment: Literal["before_sign_in", "before_sign_up"] = (
                "before_sign_in" if seen.outcome == "signed_in" else "before_sign_up"
            )
            claims = await self._hooks.before(moment, seen.user, proof, ask)
            settling = _Settling(proof, ask, ticket, opens, spend, also, seen, claims)
            try:
                done = await self._database.write(lambda tx, it=settling: self._write_down(tx, it))  # type: ignore[misc]
            except (_Changed, NotUnique):
                # Somebody signs up with the same address, or in with the same identity, at this moment.
                continue
            self._hooks.wake()
            if isinstance(done, _Done) and done.changed:
                await self._sessions.revocations.committed()
            return done
        raise Conflict("Others sign in with the same address at this moment.")

    async def _write_down(self, tx: Tx, settling: _Settling) -> _Done | SecondFactorNeeded:
        """One sign-in inside one transaction."""
        proof, ask, seen = settling.proof, settling.ask, settling.seen
        if seen.user.id:
            # Held from here on: what is looked at now is what is written back.
            await self._hold(tx, seen.user.id)
        found = await self._look(tx, proof, ask, settling.ticket)
        if (found.user.id, found.outcome, found.known) != (seen.user.id, seen.outcome, seen.known):
            raise _Changed
        if found.outcome == "upgraded" and ask.upgrade is not None:
            # Whoever copied a guest's token must not get their account once it is signed out, on no node.
            await self._sessions.check(tx, ask.upgrade)
        await settling.spend(tx)
        if settling.ticket is not None:
            await tx.execute(QUERIES["delete_ticket"], _digest(settling.ticket))
        elif found.outcome == "signed_in" and not proof.strong and not found.cleanse:
            factors = await self._factors(tx, found.user)
            if factors:
                needed = await self._wait(tx, found.user, proof, factors)
                await settling.also(tx, needed)
                return needed
        user = await self._keep(tx, found, proof, ask, settling.claims)
        changed = found.cleanse or found.outcome == "upgraded"
        if not settling.opens:
            await settling.also(tx, user)
            return _Done(user, None, changed)
        # A second factor was proved just now, whenever the first one was.
        auth_time = proof.auth_time if settling.ticket is None else None
        opened = await self._open(tx, user, ask, proof.amr, auth_time)
        signed = self._sessions.signed(opened, found.outcome)
        await settling.also(tx, signed)
        return _Done(user, signed, changed or opened.session.epoch > 0)

    async def _hold(self, tx: Tx, user: str) -> None:
        try:
            await self._users.get(tx, user)
        except NotFound:
            raise _Changed from None

    async def _look(self, tx: Tx, proof: Proof, ask: Ask, ticket: str | None) -> _Found:
        """Who ``proof`` is of, for whom ``ticket`` must wait if there is one. Reads only."""
        found = await self._find(tx, proof, ask)
        if ticket is not None and (await self._ticket(tx, ticket))[0].id != found.user.id:
            raise InvalidGrant
        if ask.alone and ask.upgrade is not None and found.user.id != ask.upgrade.user:
            raise IdentityTaken
        return found

    async def _find(self, tx: Tx, proof: Proof, ask: Ask) -> _Found:
        user = await self._users.by_identity(tx, proof.provider, proof.subject)
        if user is not None:
            return _Found(_checked(user), "signed_in", known=True)
        if proof.provider == "passkey":
            # Who makes one is signed in: it was deleted, or its user, since it signed.
            raise InvalidGrant("This server does not know the passkey.")
        holder = None if proof.email is None else await self._users.by_email(tx, proof.email)
        if holder is not None and proof.email_verified:
            # Who proves the mailbox itself is its owner, whatever else was taken away.
            if proof.provider != "email" and await self._users.unlinked(
                tx, holder.id, proof.provider, proof.subject
            ):
                raise IdentityUnlinked
            _checked(holder)
            squatted = not holder.email_verified
            return _Found(_bare(holder) if squatted else holder, "signed_in", known=False, cleanse=squatted)
        guest = await self._guest(tx, ask)
        if guest is not None:
            upgraded = enriched(guest, proof, free=holder is None)
            return _Found(msgspec.structs.replace(upgraded, anonymous=False), "upgraded", known=False)
        return _Found(enriched(User(id=""), proof, free=holder is None), "created", known=False)

    async def _guest(self, tx: Tx, ask: Ask) -> User | None:
        if ask.upgrade is None:
            return None
        user = await self._users.find(tx, ask.upgrade.user)
        return user if user is not None and user.anonymous and user.status == "active" else None

    async def _keep(self, tx: Tx, found: _Found, proof: Proof, ask: Ask, claims: dict[str, Any]) -> User:
        """Write what a sign-in changes about its user."""
        user = found.user
        if claims:
            user = msgspec.structs.replace(user, claims={**user.claims, **claims})
        user = msgspec.structs.replace(user, signed_in_at=self._clock.now())
        if found.outcome == "created":
            user = await self._users.create(tx, user)
        else:
            if found.cleanse:
                await self._cleanse(tx, user, ask)
            if proof.email_verified and proof.email is not None:
                holder = await self._users.by_email(tx, proof.email)
                user = enriched(user, proof, free=holder is None or holder.id == user.id)
            user = await self._users.save(tx, user)
        if found.known:
            await self._users.used(tx, proof)
        else:
            await self._users.link(tx, user.id, proof)
        if found.outcome == "signed_in":
            if not found.known:
                await self._audit.write(tx, entry("identity.link", user, ask, after=named(proof)))
            await self._hooks.after(tx, "after_sign_in", event(user, proof, ask))
        else:
            action = "user.create" if found.outcome == "created" else "user.upgrade"
            await self._audit.write(tx, entry(action, user, ask, after=named(proof)))
            await self._hooks.after(tx, "after_sign_up", event(user, proof, ask))
            if found.outcome == "upgraded":
                # Its tokens still say that it is anonymous.
                await self._sessions.change(tx, user.id)
        return user

    async def _cleanse(self, tx: Tx, user: User, ask: Ask) -> None:
        """Whoever made this row never proved its address: nothing of theirs may open it."""
        # First what is kept for the ways in: it is found by them.
        for kind in self.credentials:
            await kind.forget(tx, user.id)
        await self._users.unlink_all(tx, user.id)
        await self._users.forget_tickets(tx, user.id)
        await self._sessions.revoke_all(tx, user.id, "operator")
        await self._audit.write(tx, entry("user.reclaim", user, ask))

    async def _factors(self, tx: Tx, user: User) -> tuple[str, ...]:
        found = tuple([name for kind in self.credentials for name in await kind.factors(tx, user.id)])
        # A passkey is a way in. It stands for another factor, and alone makes no second one necessary: else
        # whoever adds one for its ease is locked out with the phone that holds it.
        return () if set(found) == {"passkey"} else found

    async def _wait(self, tx: Tx, user: User, proof: Proof, factors: tuple[str, ...]) -> SecondFactorNeeded:
        ticket = self._ids.token() + self._ids.token()
        until = self._clock.now() + TICKET * 1000
        kept = msgspec.json.encode(msgspec.structs.replace(proof, claims={})).decode()
        await tx.execute(QUERIES["insert_ticket"], _digest(ticket), user.id, kept, until)
        return SecondFactorNeeded(ticket=ticket, factors=factors, expires_in=TICKET, user=user.id)

    async def _ticket(self, tx: Tx, ticket: str) -> tuple[User, Proof]:
        rows = await tx.fetch(QUERIES["ticket"], _digest(ticket))
        if not rows or rows[0][2] < self._clock.now():
            raise InvalidGrant("This sign-in has waited too long for its second factor, or is finished.")
        user = await self._users.find(tx, rows[0][0])
        if user is None:
            raise InvalidGrant
        return _checked(user), msgspec.json.decode(rows[0][1], type=Proof)

    async def _open(
        self, tx: Tx, user: User, ask: Ask, amr: tuple[str, ...], auth_time: int | None
    ) -> Opened:
        now = ask.upgrade
        if now is not None and now.session and now.user == user.id:
            session = await self._sessions.find(tx, now.session)
            if session is not None and session.user == user.id and session.ended_at is None:
                opened = await self._sessions.prove(tx, session.id, user, amr, auth_time=auth_time)
                await self._audit.write(tx, entry("session.prove", user, ask, via=session.id))
                return opened
        return await self._sessions.open(tx, user, ask, amr, auth_time=auth_time)


def _signed(done: _Done) -> Signed:
    assert done.signed is not None  # noqa: S101 - that is what ``opens`` says
    return done.signed


def _checked(user: User) -> User:
    if user.status != "active":
        raise AccountDisabled(reason=user.status)
    return user


def _bare(user: User) -> User:
    """``user`` without what whoever made the row says of themselves; what admins gave it stays: its roles."""
    return msgspec.structs.replace(user, name=None, phone=None, phone_verified=False, claims={})


def _with(proof: Proof, amr: tuple[str, ...]) -> Proof:
    return msgspec.structs.replace(proof, amr=tuple(dict.fromkeys((*proof.amr, *amr, "mfa"))))


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()
