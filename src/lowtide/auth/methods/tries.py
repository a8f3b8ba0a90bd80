"""How often a secret may be tried: slower and slower, never locked.

A try is counted for the account in the network that it comes from, for the account, and for the network.
An attacker in one network slows down that network; attackers in many slow down the account for *new*
devices only: a device that is signed in, or that its user has signed in on before, has a count of its own.

Six digits are few: of codes that can be guessed only so many may be wrong in a day. Who guesses them knows
the first factor, so they are counted by place like tries, and the user is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from lowtide.auth.methods.networks import network
from lowtide.kernel.errors import TooManyRequests
from lowtide.kernel.rates import Limit
from lowtide.storage.db import Database, Tx
from lowtide.storage.rates import SharedRates

HERE = Limit(20, 1_800, 5)
"""Tries for one account from one network: five, then one in a minute and a half."""
ACCOUNT = Limit(60, 3_600, 20)
"""Tries for one account from everywhere: twenty, then one a minute."""
NETWORK = Limit(300, 3_600, 60)
"""Tries of one network for whatever account."""
SIGNED_IN = Limit(20, 1_800, 5)
"""Tries of one session, or of one device that is known."""
WRONG = Limit(30, 86_400)
"""Codes of six digits that may be wrong in a day, at one place: one in 10,000 such days finds one."""
NOTICED = Limit(5, 86_400)
"""Wrong second factors in a day, wherever, of which the last one makes the user be told ..."""
TOLD = Limit(1, 86_400)
"""... once a day."""

Known = Callable[[Tx], Awaitable[str]]
"""What is counted by where the device is known, else ""; ``KnownDevices.place``."""


class Tries:
    """Counts tries, on all nodes together. One durable write a try."""

    def __init__(self, database: Database, rates: SharedRates):
        self._database = database
        self._rates = rates

    async def take(
        self, what: str, account: str, ip: str, *, session: str = "", known: Known | None = None
    ) -> str:
        """Count a try to prove ``what`` for ``account``. Raises ``TooManyRequests`` instead of the try.

        ``account``: whatever names it, known or not. ``session``: of a device that is signed in as it.
        Returns the place that it was counted for; "" for all strangers together.
        """

        async def work(tx: Tx) -> tuple[str, float]:
            place = f"session {session}" if session else "" if known is None else await known(tx)
            for name, key, limit in _limits(what, account, ip, session, place):
                decision = await self._rates.in_tx(tx, name, key, limit)
                if not decision.allowed:
                    return place, decision.retry_after
            return place, 0.0

        place, wait = await self._database.write(work)
        if wait:
            raise TooManyRequests(
                "This was tried too often.",
                hint="Wait for the seconds in Retry-After, or sign in another way, such as a code by mail.",
                retry_after=wait,
            )
        return place

    async def check(self, tx: Tx, what: str, account: str, place: str) -> None:
        """May one more code be guessed for ``account`` at ``place`` today? Raises ``TooManyRequests``."""
        decision = await self._rates.peek(tx, f"{what}.wrong", f"{account} {place}", WRONG)
        if not decision.allowed:
            raise TooManyRequests(
                "Too many codes were wrong today.",
                hint="Use a recovery code, a passkey, or a device on which you have signed in before.",
                retry_after=decision.retry_after,
            )

    async def wrong(self, tx: Tx, what: str, account: str, place: str, *, guessed: bool) -> bool:
        """Count one that was wrong; ``guessed``: it could have been right by chance. Is it time to tell?"""
        if guessed:
            await self._rates.in_tx(tx, f"{what}.wrong", f"{account} {place}", WRONG)
        noticed = await self._rates.in_tx(tx, f"{what}.noticed", account, NOTICED)
        if noticed.allowed and noticed.remaining:
            return False
        return (await self._rates.in_tx(tx, f"{what}.told", account, TOLD)).allowed


def _limits(what: str, account: str, ip: str, session: str, place: str) -> list[tuple[str, str, Limit]]:
    if session:
        return [(f"{what}.session", session, SIGNED_IN)]
    if place:
        return [(f"{what}.known", f"{account} {place}", SIGNED_IN)]
    where = network(ip)
    # The network first: one that is refused leaves no row, and takes nothing of an account.
    return [
        (f"{what}.network", where, NETWORK),
        (f"{what}.here", f"{account} {where}", HERE),
        (f"{what}.account", account, ACCOUNT),
    ]
