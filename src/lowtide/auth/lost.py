"""Ways in that their user has lost, taken away by an admin or the app's own servers.

Whoever lost the phone with the second factor, and every recovery code, cannot take it away themselves. Who
does it for them has made sure who asks: nothing here can.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from lowtide.auth.accounts import Accounts
from lowtide.auth.admin import entry_by
from lowtide.auth.methods.letters import notice
from lowtide.auth.methods.messages import Messages
from lowtide.auth.methods.passwords import NOTICE, Passwords
from lowtide.auth.methods.secondfactor import SecondFactorKept, SecondFactors
from lowtide.auth.model import Identity, User
from lowtide.auth.passkeys.service import Passkey, Passkeys
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, NotFound
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx

Before = Mapping[str, Any]
"""What was taken away, as the audit log says it."""


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that lets a user in, without a secret."""

    user: User
    password: bool
    second_factor: SecondFactorKept
    passkeys: Sequence[Passkey]
    identities: Sequence[Identity]


class LostWays:
    """Shows what lets a user in, and takes away what they have lost.

    What is taken away opens nothing from the commit on: every session of the user ends, with the browsers
    that are signed in, and so does every sign-in that waits for a second factor. The entry in the audit log
    is in the same transaction, and a verified address is told by mail.
    """

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        passwords: Passwords,
        seconds: SecondFactors,
        passkeys: Passkeys,
        messages: Messages,
        clock: Clock,
        *,
        app: str,
    ):
        """``app``: what messages call it."""
        self._database = database
        self._accounts = accounts
        self._passwords = passwords
        self._seconds = seconds
        self._passkeys = passkeys
        self._messages = messages
        self._clock = clock
        self._app = app

    async def read(self, by: Principal, id: str, request: str) -> Ways:
        """What lets ``id`` in. ``NotFound``. A privileged look: audited."""

        async def work(tx: Tx) -> Ways:
            await self._accounts.sessions.check(tx, by)
            user = await self._accounts.users.find(tx, id)
            if user is None:
                raise NotFound("There is no such user.")
            await self._accounts.audit.write(tx, entry_by(by, "user.read_ways_in", id, request))
            return await self._ways(tx, user)

        return await self._database.write(work)

    async def remove_second_factor(self, by: Principal, id: str, request: str) -> Ways:
        """Take the authenticator and the recovery codes of ``id`` away; what is left.

        A password that is too short to stand alone goes with them: the user sets another with a mailed code.
        Raises ``NotFound``, for a user without a second factor too, and ``Conflict`` for an admin's own, and
        for a user who is being deleted or was merged.
        """

        async def take(tx: Tx) -> Before:
            kept = await self._seconds.kept(tx, id)
            if not kept.totp:
                raise NotFound("The user has no second factor.")
            short = await self._passwords.has_short(tx, id)
            await self._seconds.forget(tx, id)
            if short:
                await self._passwords.forget(tx, id)
            return {"totp": True, "recovery_codes": kept.recovery_codes, "short_password": short}

        return await self._take(by, id, "second_factor.remove", take, "Your second factor", request)

    async def remove_passkey(self, by: Principal, id: str, passkey: str, request: str) -> Ways:
        """Take one passkey of ``id`` away, even the last way in; what is left.

        Raises ``NotFound``, for a passkey of somebody else too, and ``Conflict`` as above.
        """

        async def take(tx: Tx) -> Before:
            await self._passkeys.take_away(tx, id, passkey)
            return {"passkey": passkey}

        named = {"passkey": passkey}
        return await self._take(by, id, "user.remove_passkey", take, "A passkey", request, named)

    async def _take(
        self,
        by: Principal,
        id: str,
        action: str,
        take: Callable[[Tx], Awaitable[Before]],
        what: str,
        request: str,
        personal: Mapping[str, str] | None = None,
    ) -> Ways:
        if by.user == id and not by.server:
            # It would go round the recent sign-in that everybody needs for this.
            raise Conflict(
                "An admin's own ways in are not taken away here.",
                hint="Take them away as every user does, or let another admin do it.",
            )

        async def work(tx: Tx) -> Ways:
            sessions = self._accounts.sessions
            await sessions.check(tx, by)
            user = await self._accounts.users.get(tx, id)
            if user.status in ("deleting", "merged"):
                raise Conflict(f"This user is {user.status}.")
            before = await take(tx)
            await self._accounts.users.forget_tickets(tx, id)
            ended = await sessions.revoke_all(tx, id, "operator")
            left = await self._ways(tx, user)
            after = {
                "sessions_ended": len(ended),
                "password": left.password,
                **msgspec.structs.asdict(left.second_factor),
                "passkeys": len(left.passkeys),
                "identities": len(left.identities),
            }
            entry = entry_by(by, action, id, request, before=before, after=after, personal=personal)
            await self._accounts.audit.write(tx, entry)
            await self._tell(tx, user, f"{what} was taken away by those who run {self._app}.")
            return left

        left = await self._database.write(work)
        self._messages.wake()
        await self._accounts.revocations.committed()
        return left

    async def _tell(self, tx: Tx, user: User, what: str) -> None:
        if user.email is None or not user.email_verified or not self._messages.able("mail"):
            return
        until = self._clock.now() + NOTICE * 1000
        letter = notice(
            self._app, user.email, what, until, unless="If you did not ask for that", then="tell them"
        )
        await self._messages.send(tx, letter)

    async def _ways(self, tx: Tx, user: User) -> Ways:
        return Ways(
            user=user,
            password=await self._passwords.has(tx, user.id),
            second_factor=await self._seconds.kept(tx, user.id),
            passkeys=await self._passkeys.kept(tx, user.id),
            identities=await self._accounts.users.identities(tx, user.id),
        )
