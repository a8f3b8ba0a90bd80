"""Looking through the log: by whom, what and when, within one's space, and never unseen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from lowtide.audit import Audit, Chain, Entry
from lowtide.audit.checkpoints import Checkpoints
from lowtide.audit.keys import AuditKeys
from lowtide.audit.routes import audit_routes
from lowtide.audit.store import EntryPage, Search, search
from lowtide.audit.trail import Trail
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import Malformed
from lowtide.kernel.http import Request
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database
from lowtide.storage.vault import Vault

pytestmark = pytest.mark.anyio

ADMIN = Principal(user="root", roles=("admin",), session="s1")
SERVER = Principal(user="app", server=True)
Ask = Callable[..., Awaitable[EntryPage]]


@pytest.fixture
def ask(audit: Audit, chain: Chain, database: Database, clock: ManualClock, ids: SeededIds) -> Ask:
    """What ``who`` is answered."""
    keys = AuditKeys(database, Vault(database, clock, ids, bytes(32)), clock, ids, "lowtide/x")
    [find, _] = audit_routes(Trail(audit, database), Checkpoints(chain, keys, clock, None), database)

    async def run(who: Principal, **wanted: object) -> EntryPage:
        query = Search(**wanted)  # type: ignore[arg-type]
        found: EntryPage = await find.handler(
            Request(body=None, query=query, who=who, id="r9", client="192.0.2.1")
        )
        return found

    return run


@pytest.fixture
async def written(audit: Audit, database: Database, clock: ManualClock) -> list[str]:
    """Six entries a second apart: two actors, two spaces."""
    made = []
    for number in range(6):
        entry = Entry(
            action=f"thing.{'make' if number < 3 else 'drop'}",
            actor=f"user:{'ann' if number % 2 else 'bob'}",
            target=f"thing:{number}",
            space="main" if number < 5 else "elsewhere",
            request=f"r{number}",
            personal={"n": number},
        )
        made.append(await database.write(lambda tx, entry=entry: audit.write(tx, entry)))  # type: ignore[misc]
        clock.advance(1)
    return made


class TestSearch:
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({}, [5, 4, 3, 2, 1, 0]),
            ({"actor": "user:ann"}, [5, 3, 1]),
            ({"actor": "user:an"}, []),
            ({"action": "thing.m"}, [2, 1, 0]),
            ({"action": "thing_"}, []),
            ({"action": "%"}, []),
            ({"target": "thing:4"}, [4]),
            ({"target": "thing:4", "actor": "user:ann"}, []),
            ({"request": "r2"}, [2]),
            ({"space": "elsewhere"}, [5]),
            ({"since": 1_790_000_004_000}, [5, 4]),
            ({"until": 1_790_000_002_000}, [1, 0]),
            ({"actor": "user:bob", "since": 1_790_000_001_000, "until": 1_790_000_004_000}, [2]),
        ],
    )
    async def test_each_filter_finds_its_entries(
        self, written: list[str], database: Database, wanted: dict[str, object], found: list[int]
    ) -> None:
        """What is asked for comes, the newest first, and nothing else."""
        page = await database.read(lambda tx: search(tx, Search(**wanted)))  # type: ignore[arg-type]
        assert [entry.id for entry in page.entries] == [written[number] for number in found]
        assert page.next == ""

    async def test_pages_meet_without_a_gap(self, written: list[str], database: Database) -> None:
        """Every entry comes once, whatever the page's size, and the last page says that it is."""
        got, cursor = [], ""
        for _ in range(3):
            page = await database.read(lambda tx: search(tx, Search(limit=2, cursor=cursor)))  # noqa: B023
            got += [entry.id for entry in page.entries]
            cursor = page.next
        assert got == written[::-1]
        assert cursor == ""

    async def test_a_cursor_that_is_none_is_refused(self, audit: Audit, database: Database) -> None:
        """A text that no page gave, and that no database keeps, is the caller's mistake."""
        with pytest.raises(Malformed):
            await database.read(lambda tx: search(tx, Search(cursor="\0")))


class TestRoute:
    async def test_an_admin_sees_the_own_space_only(self, ask: Ask, written: list[str]) -> None:
        """What was done in another space is not shown to an admin, however it is asked for."""
        assert [entry.id for entry in (await ask(ADMIN, action="thing.")).entries] == written[4::-1]
        assert (await ask(ADMIN, space="elsewhere")).entries == []
        # What is found is the look itself.
        assert [entry.action for entry in (await ask(ADMIN, target="thing:5")).entries] == ["audit.read"]
        assert [entry.id for entry in (await ask(SERVER, space="elsewhere")).entries] == [written[5]]

    async def test_a_look_is_an_entry(self, ask: Ask, written: list[str]) -> None:
        """Whoever reads the log stands in it, with what was asked for, also when nothing was found."""
        await ask(ADMIN, target="user:nobody")
        [look] = (await ask(SERVER, action="audit.read", actor="user:root")).entries
        assert (look.actor, look.via, look.target) == ("user:root", "session:s1", "user:nobody")
        assert (look.request, look.personal) == ("r9", {"ip": "192.0.2.1"})
