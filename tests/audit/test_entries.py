"""Entries: written with the change, without what must be forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide.audit import Audit, Entry
from lowtide.audit.model import MAX_NAME, MAX_PERSONAL
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import StatementFailed
from lowtide.kernel.ids import SeededIds
from lowtide.storage.db import Database, Query, Tx

pytestmark = pytest.mark.anyio

ENTRIES = Query("entries", *2 * ("SELECT * FROM audit_entry ORDER BY id",))
DETAILS = Query("details", *2 * ("SELECT entry, salt, personal, erased_by FROM audit_detail",))

DONE = Entry(
    action="user.update",
    actor="user:ann",
    via="session:s1",
    target="user:bob",
    before={"role": "member"},
    after={"role": "admin"},
    request="r1",
    personal={"ip": "192.0.2.7", "email": "ann@example.com"},
)


async def rows(database: Database, query: Query) -> list[Any]:
    async def read(tx: Tx) -> list[Any]:
        return [tuple(row) for row in await tx.fetch(query)]

    return await database.read(read)


class TestWriting:
    async def test_an_entry_is_kept_with_its_change(self, audit: Audit, database: Database) -> None:
        """What is written in a transaction that commits is there, whole, and has no place yet."""
        id = await database.write(lambda tx: audit.write(tx, DONE))
        [row] = await rows(database, ENTRIES)
        assert row[:2] == (id, None)
        assert row[3:9] == ("main", "user.update", "user:ann", "session:s1", "user:bob", "r1")

    async def test_many_entries_cost_no_more_statements_than_one(
        self, audit: Audit, database: Database
    ) -> None:
        """A thousand grants of one group do not hold every writer up with a round trip each."""
        plain = Entry(action="a", actor="b", target="c")
        said: list[str] = []

        class Counting:
            def __init__(self, tx: Tx):
                self._tx = tx

            def __getattr__(self, name: str) -> Any:
                said.append(name)
                return getattr(self._tx, name)

        async def write(tx: Tx) -> list[str]:
            counting: Any = Counting(tx)
            return await audit.write_all(counting, [DONE, plain, DONE])

        ids = await database.write(write)
        assert said == ["execute_many", "execute_many"]
        found = {row[0]: row[4] for row in await rows(database, ENTRIES)}
        assert [found[id] for id in ids] == ["user.update", "a", "user.update"]
        assert {row[0] for row in await rows(database, DETAILS)} == {ids[0], ids[2]}

    async def test_no_entry_without_its_change(self, audit: Audit, database: Database) -> None:
        """A transaction that fails leaves no entry and no personal data."""

        async def fail(tx: Tx) -> None:
            await audit.write(tx, DONE)
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            await database.write(fail)
        assert await rows(database, ENTRIES) == []
        assert await rows(database, DETAILS) == []

    async def test_the_chain_holds_no_personal_data(self, audit: Audit, database: Database) -> None:
        """Neither personal data nor a value stands in the entry itself."""
        await database.write(lambda tx: audit.write(tx, DONE))
        text = repr(await rows(database, ENTRIES))
        assert not [word for word in ("192.0.2.7", "example.com", "member", "admin") if word in text]

    async def test_a_value_cannot_be_tried_out(self, audit: Audit, database: Database) -> None:
        """Equal values have other hashes in each entry, and under each server's key."""
        for _ in range(2):
            await database.write(lambda tx: audit.write(tx, DONE))
        other = Audit(ManualClock(), SeededIds(ManualClock(), 1), pepper=b"another")
        await database.write(lambda tx: other.write(tx, DONE))
        hashes = [bytes(row[9]) for row in await rows(database, ENTRIES)]
        assert len({*hashes}) == 3
        assert {len(hash) for hash in hashes} == {32}

    async def test_no_text_stops_the_caller(self, audit: Audit, database: Database) -> None:
        """Texts that are too long, or hold what no database keeps, are shortened and escaped."""
        hostile = Entry(
            action="a\0b",
            actor="\ud800",
            target="x" * 5000,
            personal={"agent": "\0" + "y" * (2 * MAX_PERSONAL)},
        )
        await database.write(lambda tx: audit.write(tx, hostile))
        [row] = await rows(database, ENTRIES)
        assert row[4:6] == ("a\\0b", "\\ud800")
        assert len(row[7]) == MAX_NAME
        assert row[7].endswith("…")
        [detail] = await rows(database, DETAILS)
        assert detail[2] == '{"agent":"too large to keep"}'


class TestErasing:
    async def test_erasing_takes_what_could_be_guessed_and_leaves_the_entry(
        self, audit: Audit, database: Database, clock: ManualClock
    ) -> None:
        """Personal data and salts of the actor or target go, others' stay; the erasure is an entry itself."""
        theirs = Entry(action="x", actor="user:cid", personal={"ip": "198.51.100.1"})
        for entry in (DONE, theirs):
            await database.write(lambda tx, entry=entry: audit.write(tx, entry))  # type: ignore[misc]
            clock.advance(1)
        before = await rows(database, ENTRIES)
        assert await database.write(lambda tx: audit.erase(tx, "user:bob")) == 1
        after = await rows(database, ENTRIES)
        assert after[:2] == before
        assert after[2][4:8] == ("audit.erase", "system", "", "user:bob")
        details = {entry: rest for entry, *rest in await rows(database, DETAILS)}
        assert details[before[0][0]] == [None, None, after[2][0]]
        assert details[before[1][0]][1] == '{"ip":"198.51.100.1"}'
        assert await database.write(lambda tx: audit.erase(tx, "user:bob")) == 0


class TestTripwires:
    @pytest.mark.parametrize(
        "sql",
        [
            "UPDATE audit_entry SET actor = 'nobody'",
            "UPDATE audit_entry SET after_hash = NULL",
            "DELETE FROM audit_entry",
            "INSERT INTO audit_entry (id, seq, at, space, action, actor, via, target, request)"
            " VALUES ('x', 9, 1, '', '', '', '', '', '')",
            "UPDATE audit_detail SET personal = '{}'",
            "UPDATE audit_detail SET salt = NULL",
            "DELETE FROM audit_detail",
            # TRUNCATE, which only PostgreSQL has, fires no trigger of a row.
            "TRUNCATE audit_entry",
        ],
    )
    async def test_entries_are_append_only(self, audit: Audit, database: Database, sql: str) -> None:
        """A statement that changes or removes an entry, or puts one in with a place, is refused."""
        await database.write(lambda tx: audit.write(tx, DONE))
        kept = await rows(database, ENTRIES), await rows(database, DETAILS)
        with pytest.raises(StatementFailed):
            await database.write(lambda tx: tx.execute(Query("tamper", sql, sql)))
        assert (await rows(database, ENTRIES), await rows(database, DETAILS)) == kept
