"""Live changes over REST: told in order, from any place, and only what the user receives."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from lowtide.kernel.http import Outlet
from lowtide.kernel.schema import Principal
from lowtide.records import changes as module
from lowtide.sync.retention import Retention
from tests.api.client import Call
from tests.records.conftest import Rest

pytestmark = pytest.mark.anyio

TASK = {"team_id": "red", "title": "t"}


class Events:
    """Reads a stream of server-sent events, as the standard says."""

    def __init__(self, call: Call):
        self._call = call
        self._text = ""
        self.last_id = ""

    async def next(self) -> tuple[str, Any]:
        """(event, data); comments are skipped."""
        while True:
            while "\n\n" not in self._text:
                self._text += (await self._call.line()).decode()
            block, self._text = self._text.split("\n\n", 1)
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                self.last_id = fields.get("id", self.last_id)
                return fields.get("event", ""), msgspec.json.decode(fields.get("data", "null"))

    async def ready(self) -> list[tuple[str, Any]]:
        """Everything up to the next ``ready``, shortened: (event, id)."""
        found = []
        while (event := await self.next())[0] != "ready":
            name, data = event
            found.append((name, data["record"]["id"] if name == "put" else data.get("id")))
        return found


@contextlib.asynccontextmanager
async def follow(rest: Rest, who: str, query: str = "models=task", **headers: str) -> AsyncIterator[Events]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with rest.client.open("GET", f"/v1/changes?{query}", token=who, headers=named) as call:
        start = await call.next()
        assert start["status"] == 200
        sent = {name.decode(): value.decode() for name, value in start["headers"]}
        assert sent["content-type"] == "text/event-stream"
        assert sent["cache-control"] == "no-store"
        yield Events(call)


async def test_a_change_is_told_as_it_happens(rest: Rest) -> None:
    """First what is there, then puts and removes in order; another team hears of none of it."""
    made = await rest.made("ann", "task", "a", **TASK)
    async with follow(rest, "bob") as bob, follow(rest, "eve") as eve:
        assert await bob.next() == ("put", {"model": "task", "record": made})
        assert await bob.ready() == []
        assert await eve.ready() == []
        await rest.made("ann", "task", "b", **TASK)
        assert await bob.ready() == [("put", "b")]
        await rest.delete("ann", "/v1/records/task/a")
        assert await bob.ready() == [("remove", "a")]
        changed = (await rest.patch("ann", "/v1/records/task/b", {"data": {"title": "new"}})).json()
        assert await bob.next() == ("put", {"model": "task", "record": changed})
        await rest.made("server", "task", "mine", team_id="blue", title="x")
        assert await eve.ready() == [("put", "mine")]


async def test_a_feed_goes_on_from_its_cursor(rest: Rest) -> None:
    """By Last-Event-ID or by query: only what changed since, and nothing twice."""
    await rest.made("ann", "task", "a", **TASK)
    await rest.made("ann", "task", "b", **TASK)
    async with follow(rest, "bob") as feed:
        assert await feed.ready() == [("put", "a"), ("put", "b")]
        cursor = feed.last_id
    await rest.patch("ann", "/v1/records/task/b", {"data": {"title": "new"}})
    await rest.made("ann", "task", "c", **TASK)
    await rest.delete("ann", "/v1/records/task/a")
    expected = [("put", "b"), ("put", "c"), ("remove", "a")]
    async with follow(rest, "bob", last_event_id=cursor) as feed:
        assert await feed.ready() == expected
        last = feed.last_id
    async with follow(rest, "bob", f"models=task&cursor={cursor}") as feed:
        assert await feed.ready() == expected
    async with follow(rest, "bob", last_event_id=last) as feed:
        assert await feed.ready() == []


async def test_what_is_revoked_leaves_and_what_is_granted_comes(rest: Rest) -> None:
    """A membership's end takes its rows away, but for those that come another way; its return brings them."""
    await rest.made("server", "task", "gone", **TASK)
    await rest.made("server", "task", "lent", **TASK, parent_id="bob")
    async with follow(rest, "bob") as feed:
        assert await feed.ready() == [("put", "gone"), ("put", "lent")]
        rest.engine.clock.advance(1)
        await rest.delete("server", "/v1/records/membership/bob-red")
        assert dict(await feed.ready()) in ({"remove": "gone"}, {"put": "lent", "remove": "gone"})
        await rest.made("server", "task", "secret", **TASK)
        await rest.join("bob", "blue")
        await rest.made("server", "task", "blue", team_id="blue", title="x")
        seen = []
        while ("put", "blue") not in seen:
            seen += await feed.ready()
        assert not any(id == "secret" for _, id in seen)
        await rest.join("bob", "red")
        assert ("put", "secret") in await feed.ready()


async def test_a_moved_record_is_one_change(rest: Rest) -> None:
    """From one bucket of the user's to another it is put; to a stranger's it is removed."""
    await rest.join("bob", "green")
    await rest.made("server", "task", "a", **TASK)
    async with follow(rest, "bob") as feed:
        await feed.ready()
        await rest.patch("server", "/v1/records/task/a", {"data": {"team_id": "green"}})
        assert await feed.ready() == [("put", "a")]
        await rest.patch("server", "/v1/records/task/a", {"data": {"team_id": "blue"}})
        assert await feed.ready() == [("remove", "a")]


async def test_a_feed_that_cannot_go_on_begins_anew(rest: Rest) -> None:
    """After another membership, a put-back backup, or for other models: ``reset``, then everything."""
    await rest.made("ann", "task", "a", **TASK)
    async with follow(rest, "bob") as feed:
        await feed.ready()
        cursor = feed.last_id
    async with follow(rest, "bob", "models=task,team", last_event_id=cursor) as feed:
        assert await feed.ready() == [("reset", None), ("put", "a")]
    async with follow(rest, "ann", last_event_id=cursor) as feed:
        assert ("put", "a") in await feed.ready(), "a cursor grants nothing, and takes nothing away"
    async with follow(rest, "eve", last_event_id=cursor) as feed:
        assert await feed.ready() == [("reset", None)]
    await rest.delete("server", "/v1/records/membership/bob-red")
    async with follow(rest, "bob", last_event_id=cursor) as feed:
        assert await feed.ready() == [("reset", None)]


async def test_much_is_told_in_pieces(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record arrives once, and ``ready`` only after the last; so do removals."""
    monkeypatch.setattr(module, "MAX_EVENTS", 3)
    expected = [("put", f"t{i:02}") for i in range(10)]
    for _, id in expected:
        await rest.made("ann", "task", id, **TASK)
    async with follow(rest, "bob") as feed:
        assert await feed.ready() == expected
        rest.engine.clock.advance(1)
        await rest.delete("server", "/v1/records/membership/bob-red")
        assert await feed.ready() == [("remove", id) for _, id in expected]


async def test_a_first_look_in_pieces_goes_on_where_removals_were_forgotten(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removals from before it began mean nothing to it: it does not begin anew with each piece."""
    monkeypatch.setattr(module, "MAX_EVENTS", 3)
    ids = [f"t{i:02}" for i in range(10)]
    for id in [*ids, "gone"]:
        await rest.made("ann", "task", id, **TASK)
    await rest.delete("ann", "/v1/records/task/gone")
    rest.engine.clock.advance(40 * 86_400)
    await rest.made("ann", "task", "new", **TASK)
    sync = rest.engine.sync
    assert await Retention(sync.database, rest.engine.clock, removals_days=30, journal_days=30).trim() > 0
    async with follow(rest, "bob") as feed:
        seen = [await feed.next() for _ in range(12)]
    assert [data["record"]["id"] for _, data in seen[:11]] == [*ids, "new"]
    assert seen[11][0] == "ready"


async def test_what_was_told_leaves_when_it_is_revoked_before_ready(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A membership that ends between two pieces of a first look takes the first piece away again."""
    monkeypatch.setattr(module, "MAX_EVENTS", 3)
    for n in range(10):
        await rest.made("ann", "task", f"t{n}", **TASK)
    written = await _followed_until_ready(
        rest, lambda: rest.delete("server", "/v1/records/membership/bob-red")
    )
    put = {event["record"]["id"] for name, event in written if name == "put"}
    removed = {event["id"] for name, event in written if name == "remove"}
    assert put
    assert put <= removed


async def test_what_a_node_with_a_fast_clock_made_leaves_too(rest: Rest) -> None:
    """The times of two nodes differ: what was told is taken away, whenever it says it was made."""
    rest.engine.clock.advance(1)
    await rest.made("ann", "task", "fast", **TASK)
    rest.engine.clock.advance(-1)
    written = await _followed_until_ready(
        rest, lambda: rest.delete("server", "/v1/records/membership/bob-red")
    )
    assert ("remove", {"model": "task", "id": "fast"}) in written


async def _followed_until_ready(rest: Rest, meanwhile: Callable[[], Awaitable[Any]]) -> list[tuple[str, Any]]:
    """What bob hears up to the last ``ready``, if ``meanwhile`` happens after the first piece."""
    who = Principal(user="bob", expires_at=rest.engine.clock.now() + 1_000_000)
    feed = module.Feed(rest.records, rest.engine.clock, who, ["task"], None)
    await feed.open()
    await meanwhile()
    heard = b""
    pieces = 0

    async def send(message: Any) -> None:
        nonlocal heard, pieces
        heard += message["body"]
        pieces += 1
        if pieces > 1 and b"event: ready" in message["body"]:
            rest.engine.clock.advance(1_001)

    await feed.run(Outlet(send))
    found = []
    for block in heard.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            found.append((fields["event"], msgspec.json.decode(fields["data"])))
    return found


@pytest.mark.parametrize(
    ("who", "query", "status"),
    [
        (None, "models=task", 401),
        ("server", "models=task", 403),
        ("ann", "", 400),
        ("ann", "models=", 404),
        ("ann", "models=task,nope", 404),
        ("ann", "models=lowtide_commands", 404),
        ("ann", "models=relic", 404),
        ("ann", "models=task&cursor=%21", 400),
        ("ann", "models=task&cursor=AAAA", 400),
        ("ann", "models=task&cursor=" + "A" * 201, 400),
        ("ann", "models=task&cursor=WyJlIiwtMSwibSJd", 400),
    ],
)
async def test_a_feed_that_cannot_be_is_refused(rest: Rest, who: str | None, query: str, status: int) -> None:
    """Before the stream begins, and without a listener left behind."""
    answer = await rest.get(who, f"/v1/changes?{query}")
    assert answer.status == status
    assert len(rest.engine.sync.hub) == 0


async def test_a_feed_ends_with_its_token_and_is_forgotten(rest: Rest) -> None:
    """In order, when the token expires; a client that leaves costs nothing any more."""
    who = Principal(user="ann", expires_at=rest.engine.clock.now() + 1000)
    feed = module.Feed(rest.records, rest.engine.clock, who, ["task"], None)
    await feed.open()
    written: list[bytes] = []

    async def send(message: Any) -> None:
        written.append(message["body"])
        rest.engine.clock.advance(2)

    await feed.run(Outlet(send))
    assert b"event: ready" in written[0]
    assert len(rest.engine.sync.hub) == 0
    async with follow(rest, "ann") as events:
        await events.ready()
        assert len(rest.engine.sync.hub) == 1
    assert len(rest.engine.sync.hub) == 0


async def test_a_feed_keeps_nothing_of_what_it_has_sent(rest: Rest) -> None:
    """However much the first look told, a feed that waits holds places and no records."""
    for n in range(3):
        await rest.made("ann", "task", f"t{n}", **TASK, notes="x" * 1000)
    who = Principal(user="ann", expires_at=rest.engine.clock.now() + 1000)
    feed = module.Feed(rest.records, rest.engine.clock, who, ["task"], None)
    await feed.open()
    held: list[int] = []

    async def send(message: Any) -> None:
        held.append(sum(len(value) for value in vars(feed).values() if isinstance(value, bytes)))
        rest.engine.clock.advance(2)

    await feed.run(Outlet(send))
    assert held == [0]


async def test_a_quiet_feed_says_that_it_lives(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment, which clients skip; a server that stops says when to come back."""
    monkeypatch.setattr("lowtide.sync.events.HEARTBEAT", 0.0)
    async with rest.client.open("GET", "/v1/changes?models=task", token="ann") as call:
        await call.next()
        assert b"event: ready" in await call.line()
        assert await call.line() == b":\n\n"
        rest.edge.drain(1)
        rest_of = b""
        while (message := await call.next())["type"] != "end":
            rest_of += message.get("body", b"")
        assert b"retry: " in rest_of


async def test_what_others_commit_while_a_feed_looks_makes_it_look_once_more_at_most(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy server something is always committed meanwhile: only what may concern it is looked at."""
    sync = rest.engine.sync
    feed = module.Feed(rest.records, rest.engine.clock, rest.engine.who("bob"), ["task"], None)
    read, looks = sync.database.read, 0

    async def busy(work: Any) -> Any:
        nonlocal looks
        found, looks = await read(work), looks + 1
        if looks < 20:
            other = {"user_id": "zoe", "team_id": "blue"}
            made = {"op": "put", "model": "membership", "id": f"zoe-{looks}", "data": other}
            await rest.engine.upload("server", made, client="server")
        return found

    monkeypatch.setattr(sync.database, "read", busy)
    await feed.open()
    while feed._listener.waiting:
        await feed._look()
    assert looks == 2
    feed.forget()
