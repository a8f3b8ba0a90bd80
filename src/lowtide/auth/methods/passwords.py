"""Passwords: what may be one, what is kept of it, and who knows it.

NIST SP 800-63B-4: 15 characters, or 8 beside a second factor; any character, no rules of composition, no
expiry; compared with what others would try first. Nothing tells a known address from an unknown one: the
answers are the same, and so is the work.
"""

from __future__ import annotations

import asyncio
import unicodedata
from functools import partial

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.auth.methods.blocklist import Blocklist
from lowtide.auth.methods.email import email_proof
from lowtide.auth.methods.hashing import Hasher
from lowtide.auth.methods.known import KnownDevices
from lowtide.auth.methods.letters import notice
from lowtide.auth.methods.messages import Messages
from lowtide.auth.methods.tries import Tries
from lowtide.auth.model import Evidence, User
from lowtide.auth.sessions import Sessions
from lowtide.auth.users import Users
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import InvalidGrant, Malformed, PasswordRefused
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx, load_queries

QUERIES = load_queries("lowtide.auth.methods")

MIN_ALONE = 15
"""Characters of a password that is the only factor."""
MIN_BESIDE = 8
"""Characters of one beside a second factor."""
MAX_PASSWORD = 256
"""Characters, after normalisation; 1 KiB as UTF-8."""
MAX_PASSWORD_BYTES = 1024
NOTICE = 24 * 3600
"""Seconds for which it is worth telling that a password was changed."""


class NewPassword(msgspec.Struct, frozen=True):
    """A password that a user shall have."""

    hash: str
    user: str
    session: str
    """Goes on; every other one of the user ends."""
    ip: str
    request: str
    short: bool = False
    """It may not stand alone."""


class Passwords:
    """Keeps passwords."""

    def __init__(
        self,
        database: Database,
        users: Users,
        sessions: Sessions,
        tries: Tries,
        messages: Messages,
        audit: Audit,
        clock: Clock,
        hasher: Hasher,
        blocklist: Blocklist,
        *,
        app: str,
    ):
        self._database = database
        self._users = users
        self._sessions = sessions
        self._tries = tries
        self._messages = messages
        self._audit = audit
        self._clock = clock
        self._hasher = hasher
        self._blocklist = blocklist
        self._app = app
        self._known = KnownDevices()

    async def prove(
        self, email: str, password: str, *, ip: str, request: str = "", installation: str = ""
    ) -> Evidence:
        """Whose address, verified, and password this is. One hash, whoever is asked for.

        It signs nobody in but its user, and nobody once it is another or gone: ``spend`` raises
        ``InvalidGrant``. ``installation``: of a device that may be known, and then is not slowed down by
        strangers. Raises ``InvalidGrant``, the same for each thing that is wrong, ``TooManyRequests``,
        ``Busy``.
        """
        self._hasher.check()
        given = normalised(password)

        async def known(tx: Tx) -> str:
            user = await self._users.by_email(tx, email) if installation else None
            if user is None or not user.email_verified:
                return ""
            return await self._known.place(tx, user.id, installation=installation)

        await self._tries.take("password", email, ip, known=known)

        async def work(tx: Tx) -> tuple[User | None, str | None, int]:
            user = await self._owner(tx, email)
            rows = await tx.fetch(QUERIES["password"], "" if user is None else user.id)
            return user, *((str(rows[0][0]), rows[0][2]) if rows else (None, 0))

        user, kept, set_at = await self._database.read(work)
        if await self._hasher.verify(kept, given) and user is not None and kept is not None:
            if self._hasher.stale(kept):
                await self._renew(user.id, kept, given)
            spend = partial(self._still, email=email, user=user.id, set_at=set_at)
            return Evidence(email_proof(email, "pwd"), spend)
        # For an address that nobody has, too: the same work.
        await self._failed(user.id if user is not None else "", request, ip, email)
        raise _wrong()

    async def check_own(self, who: Principal, password: str, *, ip: str, request: str = "") -> None:
        """The same for the user who is signed in already, who is not slowed down by strangers."""
        self._hasher.check()
        given = normalised(password)
        await self._tries.take("password", who.user, ip, session=who.session)
        rows = await self._database.read(lambda tx: tx.fetch(QUERIES["password"], who.user))
        if not await self._hasher.verify(str(rows[0][0]) if rows else None, given):
            await self._failed(who.user, request, ip, "")
            raise InvalidGrant("The present password is wrong.")

    async def screened(self, password: str, *, email: str, beside: bool) -> str:
        """``password`` as it is hashed, if it may be one. Raises ``PasswordRefused`` with a ``reason``.

        ``beside``: a second factor stands beside it, and has to.
        """
        given = normalised(password)
        least = MIN_BESIDE if beside else MIN_ALONE
        if len(given) < least:
            raise PasswordRefused(
                f"A password has at least {least} characters.",
                hint="Four or five words that do not belong together are easy to remember.",
                reason="too_short",
                least=least,
            )
        context = (self._app, email)
        if weakness := await asyncio.to_thread(self._blocklist.weakness, given, context):
            raise PasswordRefused(
                "Others would try this password first.",
                hint="Four or five words that do not belong together are easy to remember.",
                reason=weakness,
            )
        return given

    async def hash(self, given: str) -> str:
        """What is kept of a ``screened`` password. Raises ``Busy``."""
        return await self._hasher.hash(given)

    async def change(self, who: Principal, new: NewPassword) -> None:
        """Give the signed-in user another password. Raises as ``Sessions.check``."""

        async def work(tx: Tx) -> None:
            await self._users.get(tx, who.user)
            await self._sessions.check(tx, who)
            await self.keep(tx, new)

        await self._database.write(work)
        await self.kept()

    async def keep(self, tx: Tx, new: NewPassword) -> None:
        """Give a user a password. Every session but one ends, and every sign-in that waits for a second
        factor; the user is told by mail.

        Call ``kept`` after the commit.
        """
        now, user, session = self._clock.now(), new.user, new.session
        found = await self._users.get(tx, user)
        await tx.execute(QUERIES["set_password"], user, new.hash, int(new.short), now)
        await self._users.forget_tickets(tx, user)
        ended = await self._sessions.revoke_all(tx, user, "user", but=session)
        await self._audit.write(
            tx,
            Entry(
                action="password.set",
                actor=f"user:{user}",
                via=f"session:{session}",
                target=f"user:{user}",
                after={"sessions_ended": len(ended)},
                request=new.request,
                personal={"ip": new.ip} if new.ip else {},
            ),
        )
        if found.email is not None and self._messages.able("mail"):
            what = "Your password was changed."
            await self._messages.send(tx, notice(self._app, found.email, what, now + NOTICE * 1000))

    async def kept(self) -> None:
        """A password was changed, and that is durable: sessions end, and the mail goes out."""
        self._messages.wake()
        await self._sessions.revocations.committed()

    async def has(self, tx: Tx, user: str) -> bool:
        """Has ``user`` a password?"""
        return bool(await tx.fetch(QUERIES["password"], user))

    async def has_short(self, tx: Tx, user: str) -> bool:
        """Has ``user`` a password that may not stand alone?"""
        rows = await tx.fetch(QUERIES["password"], user)
        return bool(rows and rows[0][1])

    async def factors(self, tx: Tx, user: str) -> tuple[str, ...]:
        """None: a password is a first factor."""
        return ()

    async def forget(self, tx: Tx, user: str) -> None:
        """Delete the password of ``user``."""
        await tx.execute(QUERIES["delete_password"], user)

    async def _owner(self, tx: Tx, email: str) -> User | None:
        """Whose password counts with that address: who has verified it, and is whom its mailbox lets in."""
        user = await self._users.by_email(tx, email)
        way = await self._users.by_identity(tx, "email", email)
        if user is None or not user.email_verified:
            return None
        return user if way is None or way.id == user.id else None

    async def _still(self, tx: Tx, *, email: str, user: str, set_at: int) -> None:
        """Raise ``InvalidGrant`` unless the password that was right is the user's still."""
        owner, rows = await self._owner(tx, email), await tx.fetch(QUERIES["password"], user)
        if owner is None or owner.id != user or not rows or rows[0][2] != set_at:
            raise _wrong()

    async def _renew(self, user: str, kept: str, given: str) -> None:
        again = await self._hasher.hash(given)
        await self._database.write(lambda tx: tx.execute(QUERIES["rehash_password"], user, kept, again))

    async def _failed(self, user: str, request: str, ip: str, email: str) -> None:
        # An address that is nobody's here may be a stranger's, or a password in the wrong field.
        whose = {"email": email} if user else {"email_hash": self._audit.pseudonym(email)}
        entry = Entry(
            action="password.wrong",
            actor="system",
            target=f"user:{user}" if user else "",
            request=request,
            personal={"ip": ip, **whose},
        )

        async def work(tx: Tx) -> None:
            await self._audit.write(tx, entry)

        await self._database.write(work)


def _wrong() -> InvalidGrant:
    return InvalidGrant("The address or the password is wrong.", hint="Try again, or ask for a code by mail.")


def normalised(password: str) -> str:
    """``password`` as every device and keyboard writes it: NFKC, every space the same. Raises ``Malformed``.

    RFC 8265 (OpaqueString) with the normalisation that NIST SP 800-63B-4 names.
    """
    if len(password) > MAX_PASSWORD_BYTES:
        raise _too_long()
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in password)
    text = unicodedata.normalize("NFKC", spaced)
    if not text or any(unicodedata.category(c) in ("Cc", "Cs", "Cn") for c in text):
        raise Malformed("A password holds characters that can be typed, and at least one.")
    if len(text) > MAX_PASSWORD or len(text.encode()) > MAX_PASSWORD_BYTES:
        raise _too_long()
    return text


def _too_long() -> Malformed:
    return Malformed(f"A password is at most {MAX_PASSWORD} characters, and {MAX_PASSWORD_BYTES} bytes.")
