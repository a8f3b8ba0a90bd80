"""The second factor: one-time codes by time (TOTP, RFC 6238), and codes on paper for when the phone is gone.

A code counts once: the step of the last one is kept, and only a later one is right. A device's clock may be
a step, 30 seconds, away from the server's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from functools import partial
from urllib.parse import quote, urlencode

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.auth.methods.known import KnownDevices
from lowtide.auth.methods.letters import notice
from lowtide.auth.methods.messages import Messages
from lowtide.auth.methods.passwords import NOTICE, Passwords
from lowtide.auth.methods.tries import Tries
from lowtide.auth.model import Factor, User
from lowtide.auth.sessions import Sessions
from lowtide.auth.users import Users
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, InvalidGrant, NotFound
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx, load_queries
from lowtide.storage.vault import SealedColumn, Vault

QUERIES = load_queries("lowtide.auth.methods")

PURPOSE = "auth.totp:{}"
SEALED = (SealedColumn("totp", "user_id", "secret", PURPOSE.format("{key}")),)
"""What the vault seals here."""
DIGITS = 6
STEP = 30
"""Seconds for which a code is shown."""
DRIFT = 1
"""Steps by which clocks may differ."""
SECRET = 20
"""Bytes: what RFC 4226 recommends."""
RECOVERY_CODES = 10
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no letter that looks like a digit."""
RECOVERY = 16
"""Characters of a recovery code: 80 bits, so that a fast hash keeps it."""


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What an authenticator app needs; nothing is asked for before a code has confirmed it."""

    secret: str
    """Base 32, to type."""
    uri: str
    """``otpauth://...``, to show as a QR code."""


class RecoveryCodes(msgspec.Struct, frozen=True):
    """Codes that are good once each, shown this once."""

    recovery_codes: Sequence[str]


class SecondFactorKept(msgspec.Struct, frozen=True, kw_only=True):
    """What a user's second factor consists of."""

    totp: bool
    """Is an authenticator app set up and confirmed?"""
    recovery_codes: int
    """How many are left."""


class SecondFactors:
    """Keeps authenticators and recovery codes, and checks what is typed from them."""

    def __init__(
        self,
        database: Database,
        users: Users,
        sessions: Sessions,
        passwords: Passwords,
        vault: Vault,
        tries: Tries,
        messages: Messages,
        audit: Audit,
        clock: Clock,
        ids: Ids,
        *,
        app: str,
    ):
        """``app``: what authenticator apps call it."""
        self._database = database
        self._users = users
        self._sessions = sessions
        self._passwords = passwords
        self._vault = vault
        self._tries = tries
        self._messages = messages
        self._known = KnownDevices()
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._app = app

    async def of(self, tx: Tx, user: str) -> tuple[User, bool]:
        """The user, and whether they have a second factor. Raises ``NotFound``."""
        found = await self._users.find(tx, user)
        if found is None:
            raise NotFound("There is no such user.")
        return found, bool(await self.factors(tx, user))

    async def factors(self, tx: Tx, user: str) -> tuple[str, ...]:
        """``totp`` and ``recovery``, where there are some."""
        kept = await self.kept(tx, user)
        if not kept.totp:
            return ()
        return ("totp", "recovery") if kept.recovery_codes else ("totp",)

    async def kept(self, tx: Tx, user: str) -> SecondFactorKept:
        """What ``user`` has set up; an authenticator that is not confirmed is none."""
        rows = await tx.fetch(QUERIES["totp"], user)
        if not rows or rows[0][1] is None:
            return SecondFactorKept(totp=False, recovery_codes=0)
        left = await tx.fetch(QUERIES["count_recovery"], user)
        return SecondFactorKept(totp=True, recovery_codes=int(left[0][0]))

    async def forget(self, tx: Tx, user: str) -> None:
        """Delete everything that is kept for ``user``."""
        await tx.execute(QUERIES["delete_totp"], user)
        await tx.execute(QUERIES["delete_recovery"], user)

    async def enrol(self, who: Principal) -> Enrolment:
        """A new secret for an authenticator app; ``confirm`` puts it into force. Raises ``Conflict``."""
        secret = bytes.fromhex(self._ids.token() + self._ids.token())[:SECRET]
        sealed = self._vault.seal(PURPOSE.format(who.user), secret)
        now = self._clock.now()

        async def work(tx: Tx) -> User:
            user = await self._users.get(tx, who.user)
            await self._sessions.check(tx, who)
            if not await tx.fetch(QUERIES["start_totp"], who.user, sealed, now):
                raise Conflict("A second factor is set up already.", hint="Take it away first.")
            return user

        user = await self._database.write(work)
        text = base64.b32encode(secret).decode()
        label = quote(f"{self._app}:{user.email or user.phone or user.id}", safe="")
        query = urlencode({"secret": text, "issuer": self._app}, quote_via=quote)
        return Enrolment(secret=text, uri=f"otpauth://totp/{label}?{query}")

    async def confirm(self, who: Principal, code: str, *, ip: str, request: str) -> RecoveryCodes:
        """Put the secret of the last ``enrol`` into force, by a code from it; recovery codes come with it.

        Raises ``InvalidGrant`` for a wrong code, ``Conflict`` if there is nothing to confirm.
        """
        await self._tries.take("totp", who.user, ip, session=who.session)
        codes = self._made()
        now = self._clock.now()

        async def work(tx: Tx) -> bool:
            await self._sessions.check(tx, who)
            rows = await tx.fetch(QUERIES["totp"], who.user)
            if not rows or rows[0][1] is not None:
                raise Conflict("There is no second factor to confirm.", hint="Begin by setting one up.")
            step = self._step(who.user, rows[0][0], code)
            if step is None or not await tx.fetch(QUERIES["confirm_totp"], who.user, now, step, rows[0][0]):
                return False
            await self._replace(tx, who.user, codes)
            await self._write(tx, "second_factor.add", who, request)
            return True

        if not await self._database.write(work):
            raise InvalidGrant("The code is wrong.", hint="Compare the phone's clock with the time.")
        return RecoveryCodes([_spaced(text) for text in codes])

    async def renew(self, who: Principal, *, request: str) -> RecoveryCodes:
        """New recovery codes; the old ones are worth nothing. Raises ``Conflict`` without a second factor."""
        codes = self._made()

        async def work(tx: Tx) -> None:
            await self._sessions.check(tx, who)
            if not await self.factors(tx, who.user):
                raise Conflict("There is no second factor.", hint="Set one up first.")
            await self._replace(tx, who.user, codes)
            await self._write(tx, "second_factor.recovery_codes", who, request)

        await self._database.write(work)
        return RecoveryCodes([_spaced(text) for text in codes])

    async def remove(self, who: Principal, *, request: str) -> None:
        """Take the second factor away. Raises ``Conflict`` while a password needs it."""

        async def work(tx: Tx) -> None:
            await self._sessions.check(tx, who)
            if await self._passwords.has_short(tx, who.user):
                raise Conflict(
                    "The password is too short to stand alone.", hint="Set one of 15 characters first."
                )
            await self.forget(tx, who.user)
            await self._write(tx, "second_factor.remove", who, request)

        await self._database.write(work)

    async def check(
        self, user: str, code: str, *, ip: str, request: str = "", session: str = "", installation: str = ""
    ) -> Factor:
        """How ``code`` proves that it is ``user``. Raises ``InvalidGrant``.

        A wrong one counts at once, whatever becomes of the sign-in; the right one is used up with it.
        ``session``: of a device that is signed in as ``user``, which strangers do not slow down; nor do they
        one that ``user`` has signed in on before, by its ``installation`` or its network. Wrong ones are told
        to ``user``, once a day. Raises ``TooManyRequests``, for the day only where a code can be guessed: a
        recovery code always counts.
        """

        async def known(tx: Tx) -> str:
            return await self._known.place(tx, user, installation=installation, ip=ip)

        place = await self._tries.take("totp", user, ip, session=session, known=known)
        bare = "".join(code.replace("-", " ").split()).lower()
        guessed = len(bare) == DIGITS

        async def note(tx: Tx, what: str, whose: str) -> None:
            entry = Entry(
                action=f"second_factor.{what}",
                actor=whose,
                target=f"user:{user}",
                request=request,
                personal={"ip": ip} if ip else {},
            )
            await self._audit.write(tx, entry)

        async def recovered(tx: Tx) -> None:
            if not await tx.fetch(QUERIES["use_recovery"], user, _digest(user, bare)):
                raise _wrong()
            await note(tx, "used_recovery_code", f"user:{user}")

        async def work(tx: Tx) -> Factor | None:
            # Held, so that no guess is compared before the one before it was counted.
            rows = await tx.fetch(QUERIES["hold_totp"], user)
            if not rows or rows[0][1] is None:
                return None
            if guessed:
                await self._tries.check(tx, "totp", user, place)
            step = self._step(user, rows[0][0], bare)
            if step is not None and rows[0][2] < step:
                return Factor(("otp",), partial(self._use_step, user=user, step=step))
            if await tx.fetch(QUERIES["recovery"], user, _digest(user, bare)):
                return Factor(("otp", "recovery"), recovered)
            await note(tx, "wrong", "system")
            if await self._tries.wrong(tx, "totp", user, place, guessed=guessed):
                await self._tell(tx, user, ip, request)
            return None

        found = await self._database.write(work)
        if found is None:
            self._messages.wake()
            raise _wrong()
        return found

    async def _use_step(self, tx: Tx, *, user: str, step: int) -> None:
        if not await tx.fetch(QUERIES["use_totp"], user, step):
            raise _wrong()

    async def _tell(self, tx: Tx, user: str, ip: str, request: str) -> None:
        """Whoever typed these has the first factor: the user should know."""
        target = f"user:{user}"
        personal = {"ip": ip} if ip else {}
        entry = Entry(
            action="second_factor.guessed", actor="system", target=target, request=request, personal=personal
        )
        await self._audit.write(tx, entry)
        found = await self._users.find(tx, user)
        if found is None or found.email is None or not found.email_verified:
            return
        if not self._messages.able("mail"):
            return
        what = "Wrong codes were typed where your second factor is asked for."
        then = "set a new password: somebody may know it"
        until = self._clock.now() + NOTICE * 1000
        await self._messages.send(tx, notice(self._app, found.email, what, until, then=then))

    def _step(self, user: str, sealed: str, code: str) -> int | None:
        """The step of which ``code`` is, the latest if of several; None if of none near now."""
        import pyotp

        if len(code) != DIGITS or not (code.isascii() and code.isdigit()):
            return None
        secret = base64.b32encode(self._vault.open(PURPOSE.format(user), sealed)).decode()
        codes = pyotp.HOTP(secret)
        now = self._clock.now() // 1000 // STEP
        right = [step for step in range(now - DRIFT, now + DRIFT + 1) if _same(codes.at(step), code)]
        return max(right, default=None)

    def _made(self) -> list[str]:
        return [
            "".join(ALPHABET[byte % 32] for byte in bytes.fromhex(self._ids.token()))
            for _ in range(RECOVERY_CODES)
        ]

    async def _replace(self, tx: Tx, user: str, codes: Sequence[str]) -> None:
        await tx.execute(QUERIES["delete_recovery"], user)
        await tx.execute_many(QUERIES["add_recovery"], [(user, _digest(user, text)) for text in codes])

    async def _write(self, tx: Tx, action: str, who: Principal, request: str) -> None:
        actor = f"user:{who.user}"
        entry = Entry(action=action, actor=actor, via=f"session:{who.session}", target=actor, request=request)
        await self._audit.write(tx, entry)


def _wrong() -> InvalidGrant:
    return InvalidGrant("The code is wrong, or was used before.", hint="Wait for the next code.")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _digest(user: str, code: str) -> str:
    return hashlib.sha256(f"recovery {user} {code}".encode("utf-8", "surrogatepass")).hexdigest()


def _spaced(code: str) -> str:
    return "-".join(code[at : at + 4] for at in range(0, RECOVERY, 4))
