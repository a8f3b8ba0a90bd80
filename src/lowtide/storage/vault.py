"""Secrets at rest: sealed by data keys, which the operator's secret key wraps.

Envelope encryption, AES-256-GCM (NIST SP 800-38D) at both levels, with random 96-bit nonces. A sealed text
names its data key, so that keys can change without a flag day; the *purpose* is authenticated with it, so
that a sealed text copied into another place does not open there.

A data key made by ``rotate`` is read by every node before it seals: it seals from ``PUBLISHED`` seconds
after it was made, and nodes read the keys every ``REFRESH`` seconds. Old data keys are kept: they still open
what they sealed, and cost 200 bytes each.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lowtide.kernel import base64url
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import SealBroken, SetupError, Unavailable
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Database, Query, Tx, load_queries
from lowtide.storage.db.migrate import Component

COMPONENT = Component("storage", "lowtide.storage")

REFRESH = 60.0
"""Seconds between two looks at the keys."""
PUBLISHED = 180
"""Seconds for which a data key must have been published before it seals."""
PAGE = 200
MARK = "sealed1"
NONCE = 12

QUERIES = load_queries("lowtide.storage")
_LOG = logging.getLogger("lowtide.storage")


Noted = Callable[[Tx], Awaitable[object]]
"""Called in a transaction, to write down that it is done; awaits nothing but the transaction."""


class SealedColumn(msgspec.Struct, frozen=True):
    """A column that holds sealed texts, so that ``Vault.reseal`` can find them.

    ``key`` is the table's primary key, one TEXT column; ``{key}`` in ``purpose`` stands for its value.
    """

    table: str
    key: str
    column: str
    purpose: str


class _DataKey(msgspec.Struct, frozen=True, eq=False):
    id: str
    cipher: AESGCM
    active_at: int


class Vault:
    """Seals and opens secrets. Call ``load`` before anything else, and let ``keep`` run.

    ``seal`` and ``open`` do no I/O, cost about 2 µs and 1 µs per KiB, and may be called from any thread.
    """

    def __init__(self, database: Database, clock: Clock, ids: Ids, master: bytes):
        """``master``: the operator's secret key, 32 bytes."""
        self._database = database
        self._clock = clock
        self._ids = ids
        self._master = AESGCM(master)
        self._keys: Mapping[str, _DataKey] = {}
        self._order: tuple[_DataKey, ...] = ()

    async def load(self) -> None:
        """Read the data keys; make the first at the very first start.

        Raises ``SetupError`` when the secret key is not the one that this database was written with.
        """
        await self.refresh()
        if not self._order:
            now = self._clock.now()
            made = self._made()

            async def work(tx: Tx) -> None:
                await tx.execute(QUERIES["lock_data_keys"])
                if not await tx.fetch(QUERIES["read_data_keys"]):
                    await tx.execute(QUERIES["add_data_key"], *made, now, 0)

            await self._database.write(work)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the data keys again. Raises as ``load`` does."""

        async def work(tx: Tx) -> list[tuple[str, str, int]]:
            return [(id, wrapped, at) for id, wrapped, at in await tx.fetch(QUERIES["read_data_keys"])]

        rows = await self._database.read(work)
        if [(id, at) for id, _, at in rows] == [(key.id, key.active_at) for key in self._order]:
            return
        known = self._keys
        order = tuple(
            known[id] if id in known else _DataKey(id, AESGCM(self._unwrap(id, wrapped)), at)
            for id, wrapped, at in rows
        )
        self._keys, self._order = {key.id: key for key in order}, order

    async def keep(self) -> None:
        """``refresh`` about once a minute, until cancelled. A database that is away is waited for."""
        while True:
            await asyncio.sleep(self._ids.jitter(0.8, 1.2) * REFRESH)
            try:
                await self.refresh()
            except (Unavailable, SetupError) as error:
                _LOG.warning("the data keys could not be refreshed: %s", error)

    def seal(self, purpose: str, plain: bytes) -> str:
        """``plain`` as a text that only ``open`` with the same ``purpose`` reads.

        Two seals of one value differ. A purpose says what the secret is, and where it matters whose:
        ``totp:<user>``. Raises ``Unavailable`` before ``load``.
        """
        key = self._sealing()
        nonce = bytes.fromhex(self._ids.token())[:NONCE]
        sealed = nonce + key.cipher.encrypt(nonce, plain, purpose.encode())
        return f"{MARK}.{key.id}.{base64url.encode(sealed)}"

    def open(self, purpose: str, sealed: str) -> bytes:
        """What ``seal`` was given. Raises ``SealBroken`` for a text that was not sealed here for ``purpose``.

        ``Unavailable`` before ``load``.
        """
        if not self._order:
            raise Unavailable("The data keys are not loaded yet.")
        mark, _, rest = sealed.partition(".")
        name, _, body = rest.partition(".")
        key = self._keys.get(name)
        if mark != MARK or key is None:
            raise SealBroken(f"This was not sealed by a key of this database, for {purpose!r}.")
        try:
            data = _bytes(body)
            return key.cipher.decrypt(data[:NONCE], data[NONCE:], purpose.encode())
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"A sealed text does not open, for {purpose!r}.") from error

    def stale(self, sealed: str) -> bool:
        """Should ``sealed`` be sealed again? It is plain, or its data key is not the one that seals now."""
        return not sealed.startswith(f"{MARK}.{self._sealing().id}.")

    def is_sealed(self, text: str) -> bool:
        """Does ``text`` look like what ``seal`` returns? For rows from before there was a vault."""
        return text.startswith(MARK + ".")

    async def rotate(self, told: Noted | None = None) -> str:
        """Make a new data key; returns its id. It seals from ``PUBLISHED`` seconds from now.

        ``told`` is called in the same transaction. Raises ``SetupError`` when the secret key was changed
        meanwhile.
        """
        now = self._clock.now()
        made = self._made()

        async def work(tx: Tx) -> None:
            await tx.execute(QUERIES["lock_data_keys"])
            for id, wrapped, _ in await tx.fetch(QUERIES["read_data_keys"]):
                self._unwrap(id, wrapped)
            await tx.execute(QUERIES["add_data_key"], *made, now, now + PUBLISHED * 1000)
            if told is not None:
                await told(tx)

        await self._database.write(work)
        await self.refresh()
        return made[0]

    async def rewrap(self, master: bytes, told: Noted | None = None) -> int:
        """Wrap every data key with another secret key, in one transaction; returns how many.

        ``told`` is called in that transaction.

        From then on the old secret key opens nothing. Nodes that run go on with the data keys in their
        memory, and need the new secret key at their next start.
        """
        fresh = AESGCM(master)

        async def work(tx: Tx) -> int:
            await tx.execute(QUERIES["lock_data_keys"])
            rows = await tx.fetch(QUERIES["read_data_keys"])
            for id, wrapped, _ in rows:
                again = self._wrap(fresh, id, self._unwrap(id, wrapped))
                await tx.execute(QUERIES["rewrap_data_key"], id, again)
            if told is not None:
                await told(tx)
            return len(rows)

        count = await self._database.write(work)
        self._master = fresh
        return count

    async def reseal(self, places: Iterable[SealedColumn]) -> int:
        """Seal with the present data key whatever an older one sealed in ``places``; returns how many texts.

        A text that another node changes meanwhile keeps the change. One that does not open raises
        ``SealBroken``. Short transactions; reads every row of each place.
        """
        await self.refresh()
        total = 0
        for place in places:
            select, update = _statements(place)
            after = ""
            while True:
                page = [(key, text) for key, text in await self._page(select, after)]
                if not page:
                    break
                after = page[-1][0]
                fresh = [
                    (key, self.seal(purpose, self.open(purpose, text)), text)
                    for key, text in page
                    if self.is_sealed(text) and self.stale(text)
                    for purpose in (place.purpose.replace("{key}", key),)
                ]
                if fresh:
                    await self._update(update, fresh)
                    total += len(fresh)
        return total

    async def _page(self, select: Query, after: str) -> list[tuple[str, str]]:
        async def work(tx: Tx) -> list[tuple[str, str]]:
            return [(key, text) for key, text in await tx.fetch(select, after, PAGE)]

        return await self._database.read(work)

    async def _update(self, update: Query, rows: list[tuple[str, str, str]]) -> None:
        await self._database.write(lambda tx: tx.execute_many(update, rows))

    def _sealing(self) -> _DataKey:
        now = self._clock.now()
        for key in reversed(self._order):
            if key.active_at <= now:
                return key
        raise Unavailable("The data keys are not loaded yet.")

    def _made(self) -> tuple[str, str]:
        id = self._ids.token()[:8]
        return id, self._wrap(self._master, id, bytes.fromhex(self._ids.token() + self._ids.token()))

    def _wrap(self, master: AESGCM, id: str, key: bytes) -> str:
        nonce = bytes.fromhex(self._ids.token())[:NONCE]
        return base64url.encode(nonce + master.encrypt(nonce, key, f"data key {id}".encode()))

    def _unwrap(self, id: str, wrapped: str) -> bytes:
        try:
            data = _bytes(wrapped)
            return self._master.decrypt(data[:NONCE], data[NONCE:], f"data key {id}".encode())
        except (InvalidTag, ValueError) as error:
            raise SetupError(
                "The secret key is not the one that this database's secrets were sealed with.",
                hint="Put the right file at 'secret_key_file', or the right key into LOWTIDE_SECRET_KEY; "
                "a backup of the database does not hold it.",
            ) from error


def _statements(place: SealedColumn) -> tuple[Query, Query]:
    table, key, column = place.table, place.key, place.column
    select = (
        f"SELECT {key}, {column} FROM {table} WHERE {key} > $1 AND {column} IS NOT NULL "
        f"ORDER BY {key} LIMIT $2"
    )
    update = f"UPDATE {table} SET {column} = $2 WHERE {key} = $1 AND {column} = $3"
    return _query(f"reseal_{table}", select), _query(f"resealed_{table}", update)


def _query(name: str, sql: str) -> Query:
    return Query(name, sql.replace("$", "?"), sql)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
