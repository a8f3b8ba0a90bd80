"""Whatever is done to the log, verification names the first place where it was done, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lowtide.audit import Audit, Chain, Entry
from lowtide.audit.chain import BATCH, ChainHead
from lowtide.audit.model import ChainedEntry, link
from lowtide.audit.notes import LogCheckpoint
from lowtide.audit.verify import Verdict, verify
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import StorageLost
from lowtide.kernel.ids import SeededIds
from lowtide.storage.db import Database
from tests.audit.conftest import Sql

pytestmark = pytest.mark.anyio

Fill = Callable[[int], Awaitable[None]]
Disarm = Callable[[], Awaitable[list[str]]]


def seen(head: ChainHead) -> LogCheckpoint:
    """A checkpoint that somebody remembered."""
    return LogCheckpoint("here", head.seq, head.hash, 0, f"checkpoint {head.seq}")


def told(verdict: Verdict) -> list[tuple[int, str]]:
    return [(fault.seq, fault.kind) for fault in verdict.faults]


@pytest.fixture
def tamper(disarm: Disarm, sql: Sql) -> Callable[..., Awaitable[None]]:
    """Run statements with the tripwires away, and put those back, as a careful thief would."""

    async def run(*statements: str) -> None:
        made = await disarm()
        for text in statements:
            await sql(text)
        for text in made:
            await sql(text)

    return run


Tamper = Callable[..., Awaitable[None]]


async def rewrite(sql: Sql, database: Database, first: int) -> list[str]:
    """Compute every link from ``first`` anew: statements that make the chain whole again."""
    columns = (
        "seq, id, at, space, action, actor, via, target, request, before_hash, after_hash, personal_hash"
    )
    rows = await sql(f"SELECT {columns}, hash FROM audit_entry ORDER BY seq")
    hash = bytes(32) if first == 1 else bytes(rows[first - 2][12])
    made = []
    for row in rows[first - 1 :]:
        hash = link(hash, ChainedEntry(*row[:12]))
        text = f"x'{hash.hex()}'" if database.dialect == "sqlite" else f"'\\x{hash.hex()}'::bytea"
        made.append(f"UPDATE audit_entry SET hash = {text} WHERE seq = {row[0]}")
    return [*made, *rewrite_head(rows[-1][0])]


class TestChaining:
    async def test_every_entry_gets_one_place(self, chain: Chain, filled: Fill, database: Database) -> None:
        """What is committed is chained, in order, once; a whole chain verifies."""
        await filled(25)
        assert await chain.sequence() == 0
        verdict = await verify(database)
        assert (verdict.entries, verdict.waiting, told(verdict)) == (25, 0, [])
        assert verdict.head.seq == 25

    async def test_more_than_a_batch_is_chained_at_once(
        self, audit: Audit, chain: Chain, database: Database
    ) -> None:
        """A backlog is worked off, batch by batch."""

        async def many(tx: Any) -> None:
            for _ in range(BATCH + 1):
                await audit.write(tx, Entry(action="a", actor="system"))

        await database.write(many)
        assert (await verify(database)).waiting == BATCH + 1
        assert await chain.sequence() == BATCH + 1
        assert told(await verify(database)) == []

    async def test_nodes_that_chain_at_once_do_not_fork(
        self, audit: Audit, chain: Chain, database: Database
    ) -> None:
        """However many sequencers run beside writers, there is one chain without gaps."""

        async def write(number: int) -> None:
            entry = Entry(action="a", actor=f"user:{number}", personal={"n": number})
            await database.write(lambda tx: audit.write(tx, entry))
            await chain.sequence()

        counts = await asyncio.gather(*(write(number) for number in range(60)))
        assert len(counts) == 60
        await chain.sequence()
        verdict = await verify(database)
        assert (verdict.entries, told(verdict)) == (60, [])

    async def test_a_database_that_is_away_is_waited_for(
        self, audit: Audit, database: Database, ids: SeededIds
    ) -> None:
        """The sequencer outlives a lost database, and chains what waits once it is back."""
        await database.write(lambda tx: audit.write(tx, Entry(action="a", actor="system")))
        failures, done = [StorageLost(), StorageLost()], asyncio.Event()

        class Away(Chain):
            async def sequence(self) -> int:
                if failures:
                    raise failures.pop()
                chained = await super().sequence()
                done.set()
                return chained

        class Quick(SeededIds):
            def jitter(self, low: float, high: float) -> float:
                return 0.0

        keeping = asyncio.create_task(Away(audit, database, Quick(ManualClock())).keep())
        await asyncio.wait_for(done.wait(), 10)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        assert (await verify(database)).entries == 1


class TestTampering:
    @pytest.mark.parametrize(
        "change",
        [
            "actor = 'user:innocent'",
            "at = at + 1",
            "action = 'thing.read'",
            "target = ''",
            "after_hash = NULL",
            "personal_hash = NULL",
            "id = 'another'",
            "hash = after_hash",
        ],
    )
    async def test_an_edited_entry_is_named(
        self, filled: Fill, tamper: Tamper, database: Database, change: str
    ) -> None:
        """Whatever column of an entry is edited, that entry is named, and no other."""
        await filled(20)
        await tamper(f"UPDATE audit_entry SET {change} WHERE seq = 7")
        assert told(await verify(database))[0] == (7, "changed")
        assert {fault.seq for fault in (await verify(database)).faults} == {7}

    async def test_a_deleted_entry_is_named(self, filled: Fill, tamper: Tamper, database: Database) -> None:
        """A hole says where it is."""
        await filled(20)
        await tamper("DELETE FROM audit_entry WHERE seq IN (7, 8)")
        verdict = await verify(database)
        assert told(verdict) == [(7, "missing")]
        assert "7 to 8" in verdict.faults[0].message

    async def test_an_entry_that_lost_its_place_is_named(
        self, filled: Fill, tamper: Tamper, chain: Chain, database: Database
    ) -> None:
        """An entry whose place was taken away is missing there, also when it is chained again."""
        await filled(20)
        await tamper("UPDATE audit_entry SET seq = NULL, hash = NULL WHERE seq = 7")
        await chain.sequence()
        assert told(await verify(database)) == [(7, "missing")]

    @pytest.mark.parametrize("hashes_too", [True, False])
    async def test_swapped_entries_are_named(
        self, filled: Fill, tamper: Tamper, database: Database, hashes_too: bool
    ) -> None:
        """Two entries that changed places are told apart from edited ones, with or without their hashes."""
        await filled(20)
        swap = [
            "UPDATE audit_entry SET seq = 1000 WHERE seq = 7",
            "UPDATE audit_entry SET seq = 7 WHERE seq = 12",
            "UPDATE audit_entry SET seq = 12 WHERE seq = 1000",
        ]
        if not hashes_too:
            swap += [
                "UPDATE audit_entry SET request = 'keep' WHERE 1 = 0",
                "CREATE TABLE swapped AS SELECT seq, hash FROM audit_entry WHERE seq IN (7, 12)",
                "UPDATE audit_entry SET hash = (SELECT hash FROM swapped WHERE seq = 19 - audit_entry.seq)"
                " WHERE seq IN (7, 12)",
            ]
        await tamper(*swap)
        assert told(await verify(database)) == [(7, "reordered"), (12, "reordered")]

    async def test_a_dropped_tripwire_is_named(
        self, filled: Fill, disarm: Disarm, database: Database
    ) -> None:
        """A trigger that is gone is a fault, even if nothing was done with that."""
        await filled(3)
        dropped = await disarm()
        verdict = await verify(database)
        assert len(verdict.faults) == len(dropped)
        assert {kind for _, kind in told(verdict)} == {"tripwire"}

    async def test_a_blunted_tripwire_is_named(self, filled: Fill, sql: Sql, database: Database) -> None:
        """A trigger that is there and does nothing is a fault, too."""
        await filled(3)
        if database.dialect == "sqlite":
            await sql("DROP TRIGGER audit_entry_stays")
            await sql("CREATE TRIGGER audit_entry_stays BEFORE DELETE ON audit_entry BEGIN SELECT 1; END")
        else:
            await sql("ALTER TABLE audit_entry DISABLE TRIGGER audit_entry_stays")
        assert told(await verify(database)) == [(0, "tripwire")]

    async def test_a_cut_end_is_named(self, filled: Fill, tamper: Tamper, database: Database) -> None:
        """Entries that are missing at the end are noticed by the head that was kept."""
        await filled(20)
        await tamper("DELETE FROM audit_entry WHERE seq > 15")
        assert told(await verify(database)) == [(16, "truncated")]

    async def test_an_end_cut_with_its_head_is_found_by_a_checkpoint(
        self, filled: Fill, tamper: Tamper, chain: Chain, sql: Sql, database: Database
    ) -> None:
        """Who also turns the head back is betrayed by a checkpoint, and by nothing else."""
        await filled(20)
        checkpoint = seen(await chain.head())
        await tamper("DELETE FROM audit_entry WHERE seq > 15", *rewrite_head(15))
        assert told(await verify(database)) == []
        assert told(await verify(database, [checkpoint])) == [(16, "truncated")]

    async def test_a_chain_written_anew_is_found_by_a_checkpoint(
        self, filled: Fill, tamper: Tamper, chain: Chain, sql: Sql, database: Database
    ) -> None:
        """Who computes every later link again is betrayed by a checkpoint; one from before still agrees."""
        await filled(10)
        early = seen(await chain.head())
        await filled(10)
        late = seen(await chain.head())
        await tamper("UPDATE audit_entry SET actor = 'user:innocent' WHERE seq = 12")
        await tamper(*await rewrite(sql, database, 12))
        assert told(await verify(database)) == []
        verdict = await verify(database, [late, early])
        assert told(verdict) == [(20, "forked")]
        assert verdict.checkpoints == 1

    async def test_entries_behind_the_head_are_named(
        self, filled: Fill, tamper: Tamper, sql: Sql, database: Database
    ) -> None:
        """A head that was turned back alone leaves entries that it does not know."""
        await filled(20)
        await tamper(*rewrite_head(15))
        assert told(await verify(database)) == [(16, "forked")]

    async def test_a_foreign_head_is_named(self, filled: Fill, sql: Sql, database: Database) -> None:
        """A head whose hash is not the last entry's is a fault."""
        await filled(5)
        zeros = "zeroblob(32)" if database.dialect == "sqlite" else "decode(repeat('00', 32), 'hex')"
        await sql(f"UPDATE audit_head SET hash = {zeros}")
        assert told(await verify(database)) == [(5, "forked")]


def rewrite_head(seq: int) -> list[str]:
    """Turn the head back to ``seq``."""
    return [f"UPDATE audit_head SET seq = {seq}, hash = (SELECT hash FROM audit_entry WHERE seq = {seq})"]


class TestDetails:
    @pytest.mark.parametrize(
        "statement",
        [
            """UPDATE audit_detail SET personal = '{"ip":"203.0.113.9"}'""",
            "UPDATE audit_detail SET personal = NULL",
            "UPDATE audit_detail SET salt = '00'",
            "UPDATE audit_detail SET salt = NULL",
            "UPDATE audit_detail SET salt = NULL, personal = NULL, erased_by = 'nobody'",
            "UPDATE audit_detail SET salt = NULL, personal = NULL, erased_by = entry",
            "DELETE FROM audit_detail",
        ],
    )
    async def test_edited_personal_data_is_noticed(
        self, filled: Fill, tamper: Tamper, database: Database, statement: str
    ) -> None:
        """Personal data that was changed, or went without an erasure, is a fault of its entry."""
        await filled(6)
        entry = "(SELECT id FROM audit_entry WHERE seq = 4)"
        await tamper(f"{statement} WHERE entry = {entry}")
        assert told(await verify(database)) == [(4, "detail")]

    async def test_erased_personal_data_stays_valid(
        self, audit: Audit, chain: Chain, filled: Fill, database: Database
    ) -> None:
        """An erasure through the front door leaves a chain that verifies, before and after it is chained."""
        await filled(6)
        await database.write(lambda tx: audit.erase(tx, "user:4"))
        assert told(await verify(database)) == []
        await chain.sequence()
        verdict = await verify(database)
        assert (verdict.erased, told(verdict)) == (1, [])

    async def test_an_erasure_speaks_for_its_subject_only(
        self, audit: Audit, chain: Chain, filled: Fill, tamper: Tamper, database: Database
    ) -> None:
        """Somebody else's erasure does not excuse personal data that is gone."""
        await filled(6)
        by = await database.write(lambda tx: audit.erase(tx, "user:4"))
        await chain.sequence()
        await tamper(
            f"UPDATE audit_detail SET salt = NULL, personal = NULL, erased_by = '{by}'"
            " WHERE entry = (SELECT id FROM audit_entry WHERE seq = 2)"
        )
        assert told(await verify(database)) == [(2, "detail")]
