"""Challenges: random values that a client signs or carries, good once, for a few minutes, for one purpose.

A challenge is sealed and not stored: what it says (its purpose, whom it is for, until when) lies encrypted
in the value itself, so that strangers who ask for a million of them cost no row. What *is* stored is that
one was used, from its first use to its end, and only by whoever proved something with it.
"""

from __future__ import annotations

import hashlib

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import InvalidGrant, SealBroken
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Tx, load_queries
from lowtide.storage.vault import Vault

QUERIES = load_queries("lowtide.auth", "challenges.sql")

LIFE = 300
"""Seconds for which a challenge is good."""
REMEMBERED = 600
"""Seconds after its end for which it is known that a challenge was used. Whoever proved something just before
may have waited for a hook or the database since, on a node whose clock is behind."""
MAX_CHALLENGE = 4096
"""Characters of a sealed challenge."""


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """What a challenge says. ``nonce`` has 128 random bits; ``expires_at`` is in milliseconds since 1970."""

    nonce: str
    expires_at: int
    user: str = ""
    """Whom it was made for; empty for whoever comes."""
    data: str = ""
    """What the maker wants back, unseen and unchanged by the client."""


class Challenges:
    """Makes challenges and takes them back. Safe to share; does no I/O but in ``use``."""

    def __init__(self, vault: Vault, clock: Clock, ids: Ids):
        self._vault = vault
        self._clock = clock
        self._ids = ids
        self._decode = msgspec.json.Decoder(Challenge).decode

    def issue(self, purpose: str, *, user: str = "", data: str = "", life: int = LIFE) -> str:
        """A new challenge, a text of printable ASCII: 200 characters and what ``data`` needs.

        It is good for ``life`` seconds, for ``purpose`` only. Costs about 10 us.
        """
        challenge = Challenge(
            nonce=self._ids.token(), expires_at=self._clock.now() + life * 1000, user=user, data=data
        )
        return self._vault.seal(f"challenge/{purpose}", msgspec.json.encode(challenge))

    def open(self, purpose: str, sealed: str, *, user: str | None = None) -> Challenge:
        """What ``sealed`` says, if this server made it for ``purpose`` and it is not over.

        ``user``: whom it must have been made for; None for anyone. It may have been used: see ``use``.
        Raises ``InvalidGrant``.
        """
        if len(sealed) > MAX_CHALLENGE:
            raise InvalidGrant("The challenge is not one of this server's.")
        try:
            challenge = self._decode(self._vault.open(f"challenge/{purpose}", sealed))
        except (SealBroken, msgspec.MsgspecError) as error:
            raise InvalidGrant("The challenge is not one of this server's.") from error
        if self._clock.now() >= challenge.expires_at:
            raise InvalidGrant("The challenge has expired.", hint="Ask for a new one and try again.")
        if user is not None and challenge.user != user:
            raise InvalidGrant("The challenge was made for another user.")
        return challenge

    async def use(self, tx: Tx, challenge: Challenge) -> None:
        """Use ``challenge`` up, in the caller's transaction. Raises ``InvalidGrant`` the second time."""
        if not await self.first(tx, challenge.nonce, challenge.expires_at):
            raise InvalidGrant("The challenge was used before.", hint="Ask for a new one and try again.")

    async def first(self, tx: Tx, name: str, expires_at: int) -> bool:
        """Is this the first time that ``name`` is seen? It is remembered until ``expires_at`` and longer: it
        was a moment ago that the caller saw that this has not come.

        What is over for ``REMEMBERED`` seconds is forgotten meanwhile. Two statements.
        """
        await tx.execute(QUERIES["forget_used"], self._clock.now() - REMEMBERED * 1000)
        digest = hashlib.sha256(name.encode()).hexdigest()
        return bool(await tx.fetch(QUERIES["use"], digest, expires_at))
