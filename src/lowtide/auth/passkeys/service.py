"""Passkeys: made by a user who is signed in, used by whoever holds the device, deleted by their owner.

A passkey is an identity like any other (provider ``passkey``), so that it goes with its user when accounts
are merged. Here lies what WebAuthn needs besides: its public key, its counter, whether it is backed up.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.auth.challenges import LIFE, Challenge, Challenges
from lowtide.auth.hooks import Hooks, event
from lowtide.auth.model import Also, Ask, Evidence, Proof, nothing
from lowtide.auth.passkeys.ceremony import (
    AssertionCredential,
    NewCredential,
    RegistrationCredential,
    challenge_in,
    check_assertion,
    check_registration,
    creation_options,
    request_options,
    user_handle,
)
from lowtide.auth.sessions import Sessions
from lowtide.auth.users import Users
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, InvalidGrant, NotFound, SetupError, StepUpRequired
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx, load_queries

QUERIES = load_queries("lowtide.auth.passkeys")

MAX_PASSKEYS = 32
"""Passkeys of one user."""
RECENT = 900
"""Seconds after a sign-in in which passkeys may be made and deleted."""
MAX_LABEL = 100
"""Characters of a passkey's name."""
_WORD = re.compile(r"[a-z-]{1,32}")
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")
_ORIGIN = re.compile(
    r"https://[a-z0-9.-]+(:\d{1,5})?|http://localhost(:\d{1,5})?|android:apk-key-hash:[A-Za-z0-9_-]{43}"
)
REGISTER, SIGN_IN = "passkey/register", "passkey/sign-in"


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """For whom passkeys are made, and from where they may be used."""

    rp_id: str
    """A host name: passkeys work there, and on what lies under it."""
    name: str
    """What authenticators show."""
    origins: tuple[str, ...]
    """``https://app.example.com``, ``android:apk-key-hash:...``; matched as a whole."""


def passkey_site(rp_id: str, name: str, origins: Iterable[str]) -> Site:
    """The site ``rp_id`` with ``origins``, and its own https page, which is also what iOS says.

    Raises ``SetupError`` for what no browser would send.
    """
    if _HOST.fullmatch(rp_id) is None:
        raise SetupError(
            f"Setting 'passkey_rp_id' is {rp_id!r}.",
            hint="It is a host name alone: example.com, without https.",
        )
    found = (f"https://{rp_id}", *origins)
    for origin in found:
        if _ORIGIN.fullmatch(origin) is None:
            raise SetupError(
                f"Setting 'passkey_origins' holds {origin!r}.",
                hint="An origin is a scheme and a host, as in https://app.example.com: no path, no slash.",
            )
    return Site(rp_id=rp_id, name=name, origins=tuple(dict.fromkeys(found)))


def lies_on(address: str, rp_id: str) -> bool:
    """May a page at ``address`` use the passkeys of the site ``rp_id``? (WebAuthn Level 3, section 5.1.4.)"""
    host = (urlsplit(address).hostname or "").lower()
    return (host == rp_id or host.endswith(f".{rp_id}")) and _ORIGIN.fullmatch(address) is not None


class Passkey(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey as its owner sees it. Times are milliseconds since 1970."""

    id: str
    name: str
    created_at: int
    used_at: int
    """The last sign-in with it."""
    backed_up: bool
    """Does the maker's account hold a copy? Without one it is lost with the device."""
    aaguid: str
    """The kind of authenticator, as it says itself."""
    transports: tuple[str, ...] = ()


class StoredPasskey(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey as stored."""

    shown: Passkey
    credential_id: str
    handle: str
    public_key: str
    counter: int
    backup_eligible: bool
    user: str


class Passkeys:
    """Makes, checks and keeps passkeys. Safe to share."""

    def __init__(
        self,
        database: Database,
        challenges: Challenges,
        users: Users,
        sessions: Sessions,
        hooks: Hooks,
        audit: Audit,
        clock: Clock,
        ids: Ids,
        site: Site,
    ):
        self._database = database
        self._challenges = challenges
        self._users = users
        self._sessions = sessions
        self._hooks = hooks
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._site = site

    async def begin_registration(self, who: Principal) -> dict[str, Any]:
        """What to ask of the device: PublicKeyCredentialCreationOptionsJSON.

        A device that holds one of the user's already says so by itself. Raises ``StepUpRequired`` for who
        signed in more than ``RECENT`` seconds ago, ``Conflict`` beyond ``MAX_PASSKEYS``. Two reads.
        """
        self._check_recent(who)
        name = await self._database.read(lambda tx: self._name(tx, who.user))
        kept = await self._of(who.user)
        if len(kept) >= MAX_PASSKEYS:
            raise Conflict(
                f"A user has at most {MAX_PASSKEYS} passkeys.", hint="Delete one that is not used."
            )
        return creation_options(
            rp_id=self._site.rp_id,
            rp_name=self._site.name,
            challenge=self._challenges.issue(REGISTER, user=who.user),
            handle=user_handle(who.user),
            name=name,
            known=[(one.credential_id, one.shown.transports) for one in kept],
        )

    async def register(
        self,
        who: Principal,
        credential: RegistrationCredential,
        name: str,
        request: str,
        ip: str = "",
        *,
        also: Also = nothing,
    ) -> Passkey:
        """Keep the passkey that the device made. Raises ``InvalidGrant`` for an answer that is not right,
        ``Conflict`` for a passkey that is kept already, and as ``begin_registration`` does. One write.

        ``also`` is called with the passkey in that transaction.

        An anonymous user signs up with it: the hooks of a sign-up run, and may refuse (``SignInRefused``).
        """
        self._check_recent(who)
        sealed = challenge_in(credential.response.client_data_json)
        challenge = self._challenges.open(REGISTER, sealed, user=who.user)
        made = await asyncio.to_thread(
            check_registration,
            credential,
            challenge=sealed,
            rp_id=self._site.rp_id,
            origins=self._site.origins,
        )
        now, id = self._clock.now(), self._ids.uuid()
        transports = tuple(sorted({one for one in credential.response.transports if _WORD.fullmatch(one)}))
        passkey = Passkey(
            id=id,
            name=name,
            created_at=now,
            used_at=now,
            backed_up=made.backed_up,
            aaguid=made.aaguid,
            transports=transports,
        )

        proof = Proof(provider="passkey", subject=id, amr=("hwk", "user"), strong=True)
        ask = Ask(space=who.space, upgrade=who, ip=ip, request_id=request)
        claims: dict[str, Any] = {}
        guest = await self._database.read(lambda tx: self._users.find(tx, who.user))
        if guest is not None and guest.anonymous:
            draft = msgspec.structs.replace(guest, anonymous=False)
            claims = await self._hooks.before("before_sign_up", draft, proof, ask)

        async def work(tx: Tx) -> None:
            user = await self._users.get(tx, who.user)
            await self._sessions.check(tx, who)
            await self._challenges.use(tx, challenge)
            if len(await tx.fetch(QUERIES["passkeys_of"], who.user)) >= MAX_PASSKEYS:
                raise Conflict(f"A user has at most {MAX_PASSKEYS} passkeys.")
            if not await tx.fetch(QUERIES["add_passkey"], *_row(passkey, made, user_handle(who.user))):
                raise Conflict("This passkey is kept already.", hint="Sign in with it, or make another.")
            await self._users.link(tx, user.id, proof)
            if user.anonymous:
                whole = {**user.claims, **claims}
                user = await self._users.save(
                    tx, msgspec.structs.replace(user, anonymous=False, claims=whole)
                )
                await self._hooks.after(tx, "after_sign_up", event(user, proof, ask))
                # Its tokens still say that it is anonymous.
                await self._sessions.change(tx, user.id)
            await self._audit.write(
                tx, _entry("passkey.add", who, id, request, after={"name": name, "aaguid": made.aaguid})
            )
            await also(tx, passkey)

        await self._database.write(work)
        self._hooks.wake()
        await self._sessions.revocations.committed()
        return passkey

    async def begin_sign_in(self, user: str | None = None, *, life: int = LIFE) -> dict[str, Any]:
        """What to ask of the device: PublicKeyCredentialRequestOptionsJSON.

        Without ``user`` any passkey of this site will do, and nothing is read; with one, theirs only.
        ``life``: seconds for which the challenge is good.
        """
        allowed = await self._of(user) if user else []
        return request_options(
            rp_id=self._site.rp_id,
            challenge=self._challenges.issue(SIGN_IN, user=user or "", life=life),
            allowed=[(one.credential_id, one.shown.transports) for one in allowed],
        )

    async def prove(self, credential: AssertionCredential, *, user: str = "", request: str = "") -> Evidence:
        """Who holds the passkey that signed. ``user``: for whom the challenge was made, "" for anyone.

        With it the challenge is used up, and the passkey's counter goes on. Raises ``InvalidGrant`` for
        everything that is wrong. A counter that did not grow is refused and written into the audit log: there
        may be a copy. One read, 0.3 ms of a thread.
        """
        sealed = challenge_in(credential.response.client_data_json)
        challenge = self._challenges.open(SIGN_IN, sealed, user=user)
        kept = await self._find(credential.id)
        if kept is None or (user and kept.user != user):
            raise InvalidGrant(
                "This server does not know the passkey.", hint="It was deleted here: delete it on the device."
            )
        handle = credential.response.user_handle
        if (handle is None and not user) or (handle is not None and handle.rstrip("=") != kept.handle):
            raise InvalidGrant("The passkey's answer names another user than its owner.")
        found = await asyncio.to_thread(
            check_assertion,
            credential,
            challenge=sealed,
            rp_id=self._site.rp_id,
            origins=self._site.origins,
            public_key=kept.public_key,
            counter=kept.counter,
            backup_eligible=kept.backup_eligible,
        )
        if found.counter_went_back:
            await self._report_copy(kept, challenge, found.counter, request)
            raise _backwards()

        async def spend(tx: Tx) -> None:
            await self._challenges.use(tx, challenge)
            row = (kept.shown.id, found.counter, int(found.backed_up), self._clock.now())
            if not await tx.fetch(QUERIES["use_passkey"], *row):
                raise _backwards()

        proof = Proof(provider="passkey", subject=kept.shown.id, amr=("hwk", "user"), strong=True)
        return Evidence(proof, spend)

    async def list(self, user: str) -> list[Passkey]:
        """The user's passkeys, the oldest first."""
        return [one.shown for one in await self._of(user)]

    async def rename(self, who: Principal, id: str, name: str, request: str) -> None:
        """Call the passkey ``name``. Raises ``NotFound`` for one that is not the user's."""

        async def work(tx: Tx) -> None:
            if not await tx.fetch(QUERIES["rename_passkey"], id, who.user, name):
                raise NotFound("The user has no such passkey.")
            await self._audit.write(tx, _entry("passkey.rename", who, id, request, after={"name": name}))

        await self._database.write(work)

    async def delete(self, who: Principal, id: str, request: str) -> None:
        """Forget the passkey: it signs nobody in from now on. Sessions that it opened go on.

        Raises ``NotFound`` for one that is not the user's, ``Conflict`` for their only way in, and
        ``StepUpRequired`` as for making one.
        """
        self._check_recent(who)

        async def work(tx: Tx) -> None:
            await self._users.get(tx, who.user)
            await self._sessions.check(tx, who)
            ways = await self._users.identities(tx, who.user)
            if len(ways) == 1 and (ways[0].provider, ways[0].subject) == ("passkey", id):
                raise Conflict("This is the only way in.", hint="Link another one first.")
            await self.take_away(tx, who.user, id)
            await self._audit.write(tx, _entry("passkey.delete", who, id, request))

        await self._database.write(work)

    async def take_away(self, tx: Tx, user: str, id: str) -> None:
        """Forget the passkey and its identity, be it the last way in or not: who may is the caller's to say.

        Raises ``NotFound`` for one that is not ``user``'s.
        """
        ways = await self._users.identities(tx, user)
        if not any((way.provider, way.subject) == ("passkey", id) for way in ways):
            raise NotFound("The user has no such passkey.")
        await self._users.unlink(tx, user, "passkey", id)
        await tx.execute(QUERIES["forget_passkey"], id)

    async def kept(self, tx: Tx, user: str) -> Sequence[Passkey]:
        """The user's passkeys, the oldest first, as the transaction sees them."""
        return [_kept(row).shown for row in await tx.fetch(QUERIES["passkeys_of"], user)]

    # -- what accounts ask of every method ---------------------------------------------------------

    async def factors(self, tx: Tx, user: str) -> tuple[str, ...]:
        """``("passkey",)`` for a user who has one."""
        return ("passkey",) if await tx.fetch(QUERIES["has_passkey"], user) else ()

    async def forget(self, tx: Tx, user: str) -> None:
        """Delete the user's passkeys; their identities are the caller's to delete."""
        await tx.execute(QUERIES["forget_passkeys"], user)

    def _check_recent(self, who: Principal) -> None:
        # Whoever copied a token must not turn it into a way in that lasts.
        if self._clock.now() - who.auth_time > RECENT * 1000:
            raise StepUpRequired

    # -- the table ---------------------------------------------------------------------------------

    async def _name(self, tx: Tx, user: str) -> str:
        """What the device's list of passkeys shows."""
        found = await self._users.find(tx, user)
        if found is None:
            raise NotFound("There is no such user.")
        return found.email or found.phone or found.name or self._site.name

    async def _of(self, user: str) -> Sequence[StoredPasskey]:
        async def work(tx: Tx) -> Sequence[Any]:
            return await tx.fetch(QUERIES["passkeys_of"], user)

        return [_kept(row) for row in await self._database.read(work)]

    async def _find(self, credential_id: str) -> StoredPasskey | None:
        async def work(tx: Tx) -> Sequence[Any]:
            return await tx.fetch(QUERIES["find_passkey"], credential_id)

        rows = await self._database.read(work)
        return _kept(rows[0]) if rows else None

    async def _report_copy(
        self, kept: StoredPasskey, challenge: Challenge, counter: int, request: str
    ) -> None:
        entry = Entry(
            action="passkey.counter_back",
            actor=f"user:{kept.user}",
            via=f"passkey:{kept.shown.id}",
            target=f"user:{kept.user}",
            before={"counter": kept.counter},
            after={"counter": counter},
            request=request,
        )

        async def work(tx: Tx) -> None:
            # A phone that heard no answer repeats itself: that is no copy.
            await self._challenges.use(tx, challenge)
            await self._audit.write(tx, entry)

        await self._database.write(work)


def _backwards() -> InvalidGrant:
    return InvalidGrant(
        "The passkey counts backwards: there may be a copy of it.",
        hint="Sign in another way, delete the passkey and make a new one.",
    )


def _row(passkey: Passkey, made: NewCredential, handle: str) -> tuple[Any, ...]:
    return (
        passkey.id,
        made.credential_id,
        handle,
        made.public_key,
        made.counter,
        made.aaguid,
        " ".join(passkey.transports),
        int(made.backup_eligible),
        int(made.backed_up),
        passkey.name,
        passkey.created_at,
    )


def _kept(row: Sequence[Any]) -> StoredPasskey:
    id, credential_id, handle, public_key, counter, aaguid, transports, eligible, backed_up, *rest = row
    name, created_at, used_at, user = rest
    shown = Passkey(
        id=id,
        name=name,
        created_at=created_at,
        used_at=used_at,
        backed_up=bool(backed_up),
        aaguid=aaguid,
        transports=tuple(transports.split()),
    )
    return StoredPasskey(
        shown=shown,
        credential_id=credential_id,
        handle=handle,
        public_key=public_key,
        counter=counter,
        backup_eligible=bool(eligible),
        user=user,
    )


def _entry(action: str, who: Principal, id: str, request: str, after: Any = None) -> Entry:
    return Entry(
        action=action,
        actor=f"user:{who.user}",
        via=f"session:{who.session}",
        target=f"passkey:{id}",
        space=who.space,
        after=after,
        request=request,
    )
