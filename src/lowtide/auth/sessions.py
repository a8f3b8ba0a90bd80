"""Sessions: one sign-in on one device, its tokens, and its end.

A refresh is one short transaction under the session's row lock. ``refresh.judge`` says what a token that
comes again means. A session that is killed is told so with ``SessionRevoked`` at every later use; whatever
else goes wrong is another error, and no reason to sign out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.auth import refresh as refreshing
from lowtide.auth.model import MAX_FACT, Ask, Opened, Session, Signed, User
from lowtide.auth.refresh import Presented, Rotation, Verdict, parse, rotation_digest, token_of
from lowtide.auth.revocations import Revocations
from lowtide.auth.session_store import FORGET_UNSEEN, SessionStore, Stored, cut, facts
from lowtide.auth.tokens import Tokens
from lowtide.auth.users import Users
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import AccountDisabled, InvalidGrant, NotFound, ProofMismatch, SessionRevoked
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx
from lowtide.storage.purge import purge
from lowtide.storage.vault import Vault

ACCESS = 600
"""Seconds for which an access token of a session is good."""
DAY = 24 * 3600 * 1000
IDLE = 90
"""Days without a refresh, after which a session is over."""
IDLE_ANONYMOUS = 400
"""The same for an anonymous user, who could never sign in again."""
MAX_SESSIONS = 100
"""Sessions of a user; one more ends the one that was seen least lately."""

Judge = Callable[[Rotation, int, str | None, int], Verdict]


class _Over(msgspec.Struct, frozen=True):
    by: str
    wipe: bool


class Sessions:
    """Opens, refreshes, lists and ends sessions."""

    def __init__(
        self,
        database: Database,
        users: Users,
        tokens: Callable[[], Tokens],
        revocations: Revocations,
        vault: Vault,
        audit: Audit,
        clock: Clock,
        ids: Ids,
        *,
        judge: Judge = refreshing.judge,
    ):
        """``tokens``: what signs; asked for at each use, since it needs keys that are loaded later."""
        self._database = database
        self._users = users
        self._tokens = tokens
        self.revocations = revocations
        self._store = SessionStore(vault)
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._judge = judge
        self.elsewhere: list[Callable[[Tx, str], Awaitable[None]]] = []
        """Told, in the transaction, of a user who is signed out everywhere: browsers that they used."""

    # -- begin ------------------------------------------------------------------------------------

    async def open(
        self,
        tx: Tx,
        user: User,
        ask: Ask,
        amr: tuple[str, ...],
        *,
        client: str = "",
        scope: str = "",
        auth_time: int | None = None,
    ) -> Opened:
        """Begin a session for ``user``, who has just proved who they are, or at ``auth_time``.

        ``signed`` makes its tokens.

        A session that the same installation had before ends (``replaced``): its answer was lost, or the app
        was installed anew. So does the one seen least lately beyond ``MAX_SESSIONS``. Raises ``Forbidden``
        for a space of which the user is no member, ``AccountDisabled``.
        """
        if user.status != "active":
            raise AccountDisabled(reason=user.status)
        roles = await self._users.roles(tx, user, ask.space)
        now = self._clock.now()
        client = client or ask.client_id
        device = facts(ask.device)
        await self._make_room(tx, user.id, device.installation, client, now)
        key = bytes.fromhex(self._ids.token() + self._ids.token())
        session = Session(
            id=self._ids.uuid(),
            user=user.id,
            space=ask.space,
            client=client,
            scope=scope,
            device=device,
            jkt=ask.jkt,
            amr=amr,
            auth_time=now if auth_time is None else auth_time,
            created_at=now,
            seen_at=now,
            ip=ask.ip[:64],
            user_agent=cut(ask.user_agent, 2 * MAX_FACT),
        )
        await self._store.add(tx, session, key)
        await self._write_entry(tx, "session.open", session, request=ask.request_id, ip=session.ip)
        return await self._opened(tx, session, user, roles, token_of(key, session.id, 0))

    async def prove(
        self, tx: Tx, session_id: str, user: User, amr: tuple[str, ...], *, auth_time: int | None = None
    ) -> Opened:
        """The user of a session has proved anew who they are, or at ``auth_time``: its tokens say so from now
        on. What was proved later than that stays proved.

        Raises ``NotFound`` for a session that is not ``user``'s, or over.
        """
        stored = _standing(await self._store.hold(tx, session_id), user)
        now = self._clock.now()
        old = stored.session
        proved = now if auth_time is None else max(auth_time, old.auth_time)
        await self._store.prove(tx, session_id, amr, proved, now)
        session = msgspec.structs.replace(old, amr=amr, auth_time=proved, epoch=old.epoch + 1)
        return await self._as_it_is(tx, stored, session, user)

    async def again(self, tx: Tx, session_id: str, user: User) -> Opened:
        """A session of ``user`` as it is, for new tokens that say what has changed. ``NotFound`` if it
        is over.
        """
        stored = _standing(await self._store.find(tx, session_id), user)
        return await self._as_it_is(tx, stored, stored.session, user)

    def signed(
        self, opened: Opened, outcome: Literal["signed_in", "created", "upgraded"] = "signed_in"
    ) -> Signed:
        """The tokens of a session, to be handed out once its transaction has committed. About 110 µs."""
        who = opened.who()
        return Signed(
            access_token=self._tokens().issue(who, ttl=ACCESS),
            refresh_token=opened.refresh_token,
            expires_in=ACCESS,
            user=opened.user,
            session_id=opened.session.id,
            outcome=outcome,
            token_type="DPoP" if who.jkt else "Bearer",
        )

    # -- go on ------------------------------------------------------------------------------------

    async def refresh(
        self,
        token: str,
        *,
        rotation_id: str | None = None,
        jkt: str | None = None,
        client: str = "",
        space: str | None = None,
        ip: str = "",
        request_id: str = "",
    ) -> Signed:
        """New tokens for a refresh token; for a repeat the same refresh token as the first time.

        ``jkt``: the thumbprint of the key that the request proved. ``space``: act in another space than that
        of the sign-in, with this access token. Raises ``InvalidGrant`` for what is no token of a session and
        client, ``SessionRevoked`` for one of a session that is over (or now is, because the token has two
        holders), ``ProofMismatch``, ``Forbidden`` for a space, and transient errors, after which the same
        request may be sent again at any time. One durable write; none for a repeat.
        """
        presented = parse(token)
        rotation = rotation_digest(rotation_id)

        async def work(tx: Tx) -> Opened | _Over:
            return await self._refresh(tx, presented, rotation, jkt, client, space, ip, request_id)

        outcome = await self._database.write(work)
        if isinstance(outcome, _Over):
            if outcome.by == "reuse":
                await self.revocations.committed()
            raise SessionRevoked(reason=outcome.by, wipe=outcome.wipe)
        return self.signed(outcome)

    async def _refresh(
        self,
        tx: Tx,
        presented: Presented,
        rotation: str | None,
        jkt: str | None,
        client: str,
        space: str | None,
        ip: str,
        request_id: str,
    ) -> Opened | _Over:
        stored = await self._store.hold(tx, presented.session)
        if stored is None or stored.session.client != client:
            raise InvalidGrant
        session, kept = stored.session, stored.rotation
        key = self._store.key(stored)
        if not presented.is_of(key):
            raise InvalidGrant
        if session.ended_at is not None:
            return _Over(session.ended_by or "", session.wipe)
        if session.jkt is not None and jkt != session.jkt:
            raise ProofMismatch
        user = await self._users.find(tx, session.user)
        if user is None or user.status != "active":
            return _Over("deleted" if user is None else user.status, False)
        now = self._clock.now()
        idle = IDLE_ANONYMOUS if user.anonymous else IDLE
        if session.seen_at < now - idle * DAY:
            await self._end(tx, session, "idle", now, request=request_id)
            return _Over("idle", False)
        roles = await self._users.roles(tx, user, space or session.space)
        verdict = self._judge(kept, presented.counter, rotation, now)
        if verdict == "reuse":
            await self._end(tx, session, "reuse", now, request=request_id, ip=ip)
            return _Over("reuse", False)
        counter = kept.counter
        if verdict == "rotate":
            counter = presented.counter + 1
            await self._store.rotate(tx, session.id, counter, rotation, ip[:64], now)
        return await self._opened(tx, session, user, roles, token_of(key, session.id, counter), space)

    # -- look -------------------------------------------------------------------------------------

    async def find(self, tx: Tx, id: str) -> Session | None:
        """The session with this id, over or not."""
        stored = await self._store.find(tx, id)
        return None if stored is None else stored.session

    async def check(self, tx: Tx, who: Principal) -> None:
        """Raise ``SessionRevoked`` or ``TokenExpired`` if the session of ``who`` has ended or changed since.

        For what changes an account: a thief who was just signed out does nothing more, on no node. Once the
        user is held: what was waited for may have ended the session.
        """
        (why,) = await self.revocations.bar(tx, [who])
        if why is not None:
            raise why

    async def of_token(self, tx: Tx, token: str) -> Session | None:
        """The session that a refresh token belongs to; None for one that no session gave out, or is behind.

        Nothing changes: for introspection and revocation (RFC 7662, 7009), and as a proof of who asks.
        """
        try:
            presented = parse(token)
        except InvalidGrant:
            return None
        stored = await self._store.find(tx, presented.session)
        if stored is None or not presented.is_of(self._store.key(stored)):
            return None
        return stored.session if presented.counter >= stored.rotation.counter - 1 else None

    async def of_user(self, tx: Tx, user: str) -> list[Session]:
        """The sessions of ``user`` that go on, the newest first."""
        since = self._clock.now() - IDLE_ANONYMOUS * DAY
        return await self._store.of_user(tx, user, since, MAX_SESSIONS)

    # -- end --------------------------------------------------------------------------------------

    async def revoke(
        self,
        tx: Tx,
        session: Session,
        by: str,
        *,
        actor: str = "",
        via: str = "",
        wipe: bool = False,
        request: str = "",
    ) -> None:
        """End ``session``; a repeat does nothing. Call ``revocations.committed`` after the commit.

        ``by``: ``sign_out``, ``user`` or ``operator``. ``wipe``: the device is asked to delete what it holds.
        """
        await self._end(tx, session, by, self._clock.now(), wipe=wipe, actor=actor, via=via, request=request)

    async def revoke_all(self, tx: Tx, user: str, by: str, *, but: str = "", wipe: bool = False) -> list[str]:
        """End every session of ``user`` except ``but``; their ids. Call ``revocations.committed`` after.

        Writes no audit entry: the caller says in its own why it was done.
        """
        now = self._clock.now()
        for sign_out in self.elsewhere:
            await sign_out(tx, user)
        return await self._store.end_all(tx, user, by, wipe, but, now)

    async def revoke_client(self, tx: Tx, client: str, by: str) -> list[str]:
        """End every session of an OAuth client; their ids. Call ``revocations.committed`` after.

        Writes no audit entry, as ``revoke_all``.
        """
        return await self._store.end_client(tx, client, by, self._clock.now())

    async def change(self, tx: Tx, user: str) -> None:
        """What tokens say of ``user`` has changed: those that are around are refused as expired, and clients
        fetch new ones. Call ``revocations.committed`` after the commit."""
        await self._store.change(tx, user, self._clock.now())

    async def move(self, tx: Tx, old: str, new: str) -> list[str]:
        """The sessions of ``old`` are ``new``'s from now on: the next refresh brings that user's token."""
        return await self._store.move(tx, old, new, self._clock.now())

    async def scrub(self, tx: Tx, user: str) -> None:
        """Forget the person behind ended sessions: what stays only tells a device that it was signed out."""
        await self._store.scrub(tx, user)

    async def trim(self) -> int:
        """Forget sessions that nobody can refresh any more; how many. Short transactions."""
        return await purge(self._database, FORGET_UNSEEN, self._clock.now() - (IDLE_ANONYMOUS + IDLE) * DAY)

    # -- inside -----------------------------------------------------------------------------------

    async def _as_it_is(self, tx: Tx, stored: Stored, session: Session, user: User) -> Opened:
        roles = await self._users.roles(tx, user, session.space)
        token = token_of(self._store.key(stored), session.id, stored.rotation.counter)
        return await self._opened(tx, session, user, roles, token)

    async def _opened(
        self,
        tx: Tx,
        session: Session,
        user: User,
        roles: tuple[str, ...],
        token: str,
        space: str | None = None,
    ) -> Opened:
        return Opened(
            session=session,
            user=user,
            space=space or session.space,
            roles=roles,
            aliases=await self._users.aliases(tx, user.id),
            refresh_token=token,
        )

    async def _make_room(self, tx: Tx, user: str, installation: str, client: str, now: int) -> None:
        live = await self.of_user(tx, user)
        replaced = [
            s for s in live if installation and s.device.installation == installation and s.client == client
        ]
        if len(live) - len(replaced) >= MAX_SESSIONS:
            replaced.append(min((s for s in live if s not in replaced), key=lambda s: s.seen_at))
        for session in replaced:
            await self._end(tx, session, "replaced", now)

    async def _end(
        self,
        tx: Tx,
        session: Session,
        by: str,
        now: int,
        *,
        wipe: bool = False,
        actor: str = "",
        via: str = "",
        request: str = "",
        ip: str = "",
    ) -> None:
        if session.ended_at is not None:
            return
        await self._store.end(tx, session.id, by, wipe, now)
        action = "session.reuse" if by == "reuse" else "session.end"
        await self._write_entry(
            tx, action, session, actor=actor, via=via, request=request, ip=ip, after={"by": by, "wipe": wipe}
        )

    async def _write_entry(
        self,
        tx: Tx,
        action: str,
        session: Session,
        *,
        actor: str = "",
        via: str = "",
        request: str = "",
        ip: str = "",
        after: Any = None,
    ) -> None:
        await self._audit.write(
            tx,
            Entry(
                action=action,
                actor=actor or f"user:{session.user}",
                via=via or f"session:{session.id}",
                target=f"session:{session.id}",
                space=session.space,
                after=after,
                request=request,
                personal={"ip": ip} if ip else {},
            ),
        )


def _standing(stored: Stored | None, user: User) -> Stored:
    if stored is None or stored.session.user != user.id or stored.session.ended_at is not None:
        raise NotFound("This session is over.")
    return stored
