"""How often a secret may be tried: slower and slower, never locked.

A try is counted for the account in the network that it comes from, for the account, and for the network.
An attacker in one network slows down that network; attackers in many slow down the account for *new*
devices only: a device that is signed in has a count of its own.
"""

from __future__ import annotations

import ipaddress

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
"""Tries of one session."""


class Tries:
    """Counts tries, on all nodes together. One durable write a try."""

    def __init__(self, database: Database, rates: SharedRates):
        self._database = database
        self._rates = rates

    async def take(self, what: str, account: str, ip: str, *, session: str = "") -> None:
        """Count a try to prove ``what`` for ``account``. Raises ``TooManyRequests`` instead of the try.

        ``account``: whatever names it, known or not. ``session``: of a device that is signed in as it.
        """
        place = network(ip)
        # The network first: one that is refused leaves no row, and takes nothing of an account.
        limits = [
            (f"{what}.network", place, NETWORK),
            (f"{what}.here", f"{account} {place}", HERE),
            (f"{what}.account", account, ACCOUNT),
        ]
        if session:
            limits = [(f"{what}.session", session, SIGNED_IN)]

        async def work(tx: Tx) -> float:
            for name, key, limit in limits:
                decision = await self._rates.in_tx(tx, name, key, limit)
                if not decision.allowed:
                    return decision.retry_after
            return 0.0

        if wait := await self._database.write(work):
            raise TooManyRequests(
                "This was tried too often.",
                hint="Wait for the seconds in Retry-After, or sign in another way, such as a code by mail.",
                retry_after=wait,
            )


def network(ip: str) -> str:
    """Whose limits count for ``ip``: an IPv4 address, or the /64 that an IPv6 one is of."""
    try:
        found = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
