"""How often somebody may ask: limits per account, per sign-in and per network, by class of address.

They stop a client that runs wild, and a flood that costs its sender little. They are not what guards a
password: such limits are kept by the accounts, exactly and across nodes (``lowtide.storage.rates``).

Whoever is signed in is limited by account and by session, wherever they are: thousands of phones may share
one address behind a carrier's NAT, and none pays for the others. Only requests without a token are counted
by network: an IPv4 address, or an IPv6 /64, which is what one customer gets. The app's own servers are not
limited. Tokens that are refused are counted, too: forged ones by network, and one that was good once by
itself. Only who sends such a token is told to wait, so good ones from the same network pass. Costs 2 to 3 µs
a request, and 200 bytes a user, a session and a network in use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import TooManyRequests
from lowtide.kernel.http import Rate
from lowtide.kernel.rates import Decision, Gcra, Limit
from lowtide.kernel.schema import Principal

MINUTE = 60.0
POLICY, STATE = b"ratelimit-policy", b"ratelimit"


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """Requests a minute of one class of addresses; as many may come at once."""

    account: int
    """Of one user, over all devices."""
    session: int
    """Of one sign-in, which is one device."""
    network: int
    """Without a token."""


ALLOWANCES: Mapping[Rate, Allowance] = {
    "read": Allowance(account=1200, session=600, network=600),
    "write": Allowance(account=600, session=300, network=120),
    "auth": Allowance(account=120, session=60, network=300),
    "sync": Allowance(account=2400, session=1200, network=120),
}
"""``docs/hardening.md`` has them as a table; the setting ``rate_limits`` multiplies them all."""


FORGED, STALE = 300, 60
"""Requests a minute with tokens that never were good, from one network; with one that no longer is."""
SIGNATURE = 86
"""Characters of a token's signature, by which it is known again."""


class _Rule:
    """One limit, with what is said about it."""

    __slots__ = ("limit", "name", "policy", "state")

    def __init__(self, kind: str, whose: str, count: int):
        self.name = f"{kind}-{whose}"
        self.limit = Limit(count, MINUTE)
        # draft-ietf-httpapi-ratelimit-headers-11, section 3: a String, and q and w as Integers.
        self.policy = (POLICY, f'"{self.name}";q={count};w={MINUTE:.0f}'.encode())
        self.state = f'"{self.name}";r=%d;t=%d'.encode()


class Rates:
    """The limits of one process."""

    def __init__(self, clock: Clock, scale: float = 1.0):
        """``scale`` multiplies every allowance."""
        self._gcra = Gcra(clock)
        self._rules = {
            kind: tuple(
                _Rule(kind, whose, max(1, round(getattr(allowance, whose) * scale)))
                for whose in ("account", "session", "network")
            )
            for kind, allowance in ALLOWANCES.items()
        }
        self._forged = _Rule("forged", "network", max(1, round(FORGED * scale)))
        self._stale = _Rule("stale", "token", max(1, round(STALE * scale)))

    def take(self, kind: Rate, who: Principal | None, client: str, added: list[tuple[bytes, bytes]]) -> None:
        """Count a request of class ``kind``. What is left of the tightest limit goes to ``added``; of
        ``sync`` only once half of it is used up.

        Raises ``TooManyRequests`` with the seconds to wait.
        """
        rules = self._rules.get(kind)
        if rules is None:
            return
        account, session, rule = rules
        take = self._gcra.take
        if who is None:
            decision = take(rule.name, network(client), rule.limit)
        elif who.server:
            return
        else:
            rule = account
            if who.session:
                decision = take(session.name, who.session, session.limit)
                if not decision.allowed:
                    self._refuse(session, decision, added)
                total = take(account.name, f"{who.space}/{who.user}", account.limit)
                if total.allowed and total.remaining >= decision.remaining:
                    rule = session
                else:
                    decision = total
            else:
                decision = take(account.name, f"{who.space}/{who.user}", account.limit)
        if not decision.allowed:
            self._refuse(rule, decision, added)
        # A phone's SDK reads neither, and would pay for them with each edit.
        if kind != "sync" or 2 * decision.remaining < rule.limit.count:
            added.append(rule.policy)
            added.append((STATE, rule.state % (decision.remaining, decision.reset + 1)))

    def refused(self, token: str, genuine: bool, client: str, added: list[tuple[bytes, bytes]]) -> None:
        """Count a token that is not believed. ``genuine``: this server signed it.

        Raises ``TooManyRequests`` in place of the reason once there were too many; for one that has expired
        only when that very one comes again and again.
        """
        rule, key = (self._stale, token[-SIGNATURE:]) if genuine else (self._forged, network(client))
        decision = self._gcra.take(rule.name, key, rule.limit)
        if not decision.allowed:
            self._refuse(rule, decision, added)

    def _refuse(self, rule: _Rule, decision: Decision, added: list[tuple[bytes, bytes]]) -> None:
        added.append(rule.policy)
        added.append((STATE, rule.state % (decision.remaining, math.ceil(decision.retry_after))))
        raise TooManyRequests(retry_after=round(decision.retry_after, 3))


@lru_cache(4096)
def network(client: str) -> str:
    """What counts as one place: an IPv4 address, or the first 64 bits of an IPv6 one."""
    if ":" not in client:
        return client
    try:
        address = IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:8].hex()
