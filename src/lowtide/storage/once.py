"""Requests that may be sent twice and count once: draft-ietf-httpapi-idempotency-key-header-07.

A request with a key leaves a row before it is worked on, and its answer in that row afterwards. A repeat is
answered from there. Where the work is one transaction, that transaction keeps the answer, too
(``KeyedRequest.keep``): then there is no moment at which the work is done and its answer lost. Answers are
sealed: some hold tokens.
"""

from __future__ import annotations

import hashlib

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, KeyInFlight, KeyReused
from lowtide.storage.db import Database, Tx, load_queries
from lowtide.storage.purge import purge
from lowtide.storage.vault import Vault

QUERIES = load_queries("lowtide.storage")

KEPT = 24 * 3600
"""Seconds for which an answer is kept."""
SPARE = 10
"""Seconds beyond a request's deadline for which nobody else begins to work on it."""
MAX_ANSWER = 65_536
"""Bytes of an answer that is kept; that a larger one was given is kept alone."""
PURPOSE = "once"


class Stored(msgspec.Struct, frozen=True):
    """An answer as it was given."""

    status: int
    media_type: str
    headers: dict[str, str]
    body: bytes | None
    """None: it was too large to be kept."""


class KeyedRequest:
    """A request that is being worked on, and that has a key."""

    def __init__(self, once: Once, scope: str, fingerprint: str, until: int):
        self._once = once
        self._scope = scope
        self._fingerprint = fingerprint
        self._until = until
        self.kept = False
        """A transaction was told to keep the answer. If that failed, so has the request."""

    async def keep(self, tx: Tx, answer: Stored) -> None:
        """Keep ``answer`` in the transaction that does the work: both become durable, or neither.

        Raises ``KeyInFlight`` when another try of the same request has committed; that rolls this one back.
        """
        if not await self._once.store(tx, self._scope, self._fingerprint, answer):
            raise KeyInFlight
        self.kept = True

    async def finish(self, answer: Stored) -> None:
        """Keep ``answer``, after the work. A no-op when a transaction did."""
        if not self.kept:
            once = self._once
            await once.database.write(lambda tx: once.store(tx, self._scope, self._fingerprint, answer))

    async def release(self) -> None:
        """The request has failed: the next try works anew. What a transaction has kept stays."""
        await self._once.database.write(
            lambda tx: tx.execute(QUERIES["release_once"], self._scope, self._until)
        )


class Once:
    """Remembers the answers to requests that carry a key."""

    def __init__(self, database: Database, clock: Clock, vault: Vault):
        self.database = database
        self._clock = clock
        self._vault = vault

    async def begin(
        self, who: str, address: str, key: str, sent: bytes, seconds: float
    ) -> KeyedRequest | Stored:
        """The answer that was given to the same request before, or leave to work on it for ``seconds``.

        ``who`` and ``address`` keep the keys of users and of addresses apart; ``sent`` is what a repeat must
        equal. Raises ``KeyReused`` when it does not, ``KeyInFlight`` while another try is worked on, and
        ``Conflict`` when the answer was too large to be kept. Costs a transaction.
        """
        scope = hashlib.sha256(msgspec.json.encode([who, address, key])).hexdigest()
        # Some bodies hold passwords: without the key, which is not kept, nobody can try guesses against it.
        fingerprint = hashlib.sha256(msgspec.json.encode([key, hashlib.sha256(sent).hexdigest()])).hexdigest()
        now = self._clock.now()
        until = now + int((seconds + SPARE) * 1000)

        async def work(tx: Tx) -> tuple[str, str | None, int] | None:
            if await tx.fetch(QUERIES["begin_once"], scope, fingerprint, until, now):
                return None
            ((known, answer, end),) = await tx.fetch(QUERIES["read_once"], scope)
            return known, answer, end

        found = await self.database.write(work)
        if found is None:
            return KeyedRequest(self, scope, fingerprint, until)
        known, answer, end = found
        if known != fingerprint:
            raise KeyReused
        if answer is None:
            raise KeyInFlight(retry_after=max(1, (end - now) // 1000))
        stored = msgspec.msgpack.decode(self._vault.open(PURPOSE, answer), type=Stored)
        if stored.body is None:
            raise Conflict(
                "This request was answered before, and its answer was too large to be kept.",
                hint="It is done: read what it has changed.",
            )
        return stored

    async def store(self, tx: Tx, scope: str, fingerprint: str, answer: Stored) -> bool:
        """Keep ``answer`` unless there is one; whether it was kept."""
        if answer.body is not None and len(answer.body) > MAX_ANSWER:
            answer = msgspec.structs.replace(answer, body=None)
        sealed = self._vault.seal(PURPOSE, msgspec.msgpack.encode(answer))
        until = self._clock.now() + KEPT * 1000
        return bool(await tx.fetch(QUERIES["finish_once"], scope, fingerprint, sealed, until))

    async def purge(self) -> int:
        """Forget answers whose time is over; returns how many. Short transactions."""
        return await purge(self.database, QUERIES["purge_once"], self._clock.now())
