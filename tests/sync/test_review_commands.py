"""A command comes to an end, whatever its device, its function and the merge make of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from lowtide import App, Text, anyone, everyone
from lowtide.kernel.errors import Busy, Conflict, FunctionFailed
from lowtide.storage.jobs import Job
from lowtide.sync import functions
from lowtide.sync.writer import CommandCall
from tests.sync.conftest import Engine, Open

pytestmark = pytest.mark.anyio

app = App("commands")


@app.model
class Note:
    """Everyone's."""

    title = Text()
    chosen = Text(optional=True, merge="first")
    write = anyone


app.stream("notes", carries=[Note], keys=everyone)


@app.function
async def echo(ctx: Any, text: str = "") -> Any:
    """Give back something that may not be JSON."""
    return {"nan": float("nan"), "half": "\ud800", "fine": "fine"}[text]


@app.function
async def many(ctx: Any, count: int) -> int:
    """Write many records."""
    for i in range(count):
        ctx.create(Note, f"many-{i}", title="t")
    return count


@app.function
async def unavailable(ctx: Any) -> None:
    """Never works."""
    raise Busy("too much to do")


SCHEMA = app.compile()


def command(id: str, name: str, args: str | None = None) -> dict[str, Any]:
    """A command as a device writes it."""
    return {"op": "put", "model": "lowtide_commands", "id": id, "data": {"name": name, "args": args}}


async def row(engine: Engine, id: str) -> dict[str, Any] | None:
    """The command as its device sees it."""
    for line in await engine.lines("ann"):
        for entry in line.get("data", {}).get("data", []):
            if entry.get("object_id") == id and entry["op"] == "PUT":
                return dict(msgspec.json.decode(entry["data"]))
    return None


async def ended(engine: Engine, id: str) -> dict[str, Any]:
    """The command once it is no longer pending."""
    for _ in range(300):
        found = await row(engine, id)
        if found is not None and found["status"] != "pending":
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("the command is still pending")


@pytest.mark.parametrize(
    ("name", "args", "code"),
    [
        ("echo", "[" * 20_000, "malformed"),
        ("echo", '{"text":' + "[" * 100 + "]" * 100 + "}", "malformed"),
        ("echo", '{"text":1e999}', "malformed"),
        ("echo", '{"text":"\\ud800"}', "malformed"),
        ("echo", "[]", "malformed"),
        ("echo", '{"text":"nan"}', "function_failed"),
        ("echo", '{"text":"half"}', "function_failed"),
        ("many", '{"count":60000}', "function_failed"),
        ("many", '{"count":99999999999999999999}', "malformed"),
        ("no" * 50, "{}", "not_found"),
    ],
)
async def test_a_command_that_cannot_work_has_failed(
    open_engine: Open, name: str, args: str, code: str
) -> None:
    """Its device hears of it: nothing is pending for ever."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", command("c", name, args))
    found = await ended(engine, "c")
    assert found["status"] == "failed"
    assert msgspec.json.decode(found["error"])["code"] == code
    assert [key for key in await engine.rows("ann") if key[0] == "note"] == []


async def test_arguments_leave_room_for_the_outcome(open_engine: Open) -> None:
    """What could never be answered is refused when it is sent."""
    engine = await open_engine(SCHEMA)
    answer = await engine.upload("ann", command("c", "echo", '{"text":"' + "x" * 260_000 + '"}'))
    assert answer.results[0].status == "refused"
    await engine.upload("ann", command("d", "echo", '{"text":"' + "😀" * 50_000 + '"}'))
    assert (await ended(engine, "d"))["status"] == "failed"


@pytest.mark.parametrize("text", ["nan", "half"])
async def test_a_function_that_returns_what_is_not_json_has_failed(open_engine: Open, text: str) -> None:
    """Online, too: it is the app's mistake, and says so."""
    engine = await open_engine(SCHEMA)
    with pytest.raises(FunctionFailed):
        await engine.sync.functions.call(engine.who("ann"), "echo", {"text": text})


async def test_a_function_writes_a_bounded_number_of_records(open_engine: Open) -> None:
    """As many as fit one group; beyond it nothing is written."""
    engine = await open_engine(SCHEMA)
    assert await engine.sync.functions.call(engine.who("ann"), "many", {"count": functions.MAX_WRITES})
    with pytest.raises(FunctionFailed):
        await engine.sync.functions.call(engine.who("ann"), "many", {"count": functions.MAX_WRITES + 1})


async def test_a_command_whose_job_is_given_up_has_failed(open_engine: Open) -> None:
    """After the last attempt nobody tries again; before it, it stays pending."""
    engine = await open_engine(SCHEMA)
    await engine.worker.stop(1)
    await engine.upload("ann", command("c", "unavailable"))
    call = CommandCall("main", "c", "ann", {})

    def attempt(number: int) -> Job:
        return Job(
            id="j",
            queue="default",
            kind="sync.command",
            key=None,
            payload="",
            status="running",
            due_at=0,
            attempt=number,
            max_attempts=3,
            fence=number,
            worker=None,
            error=None,
            created_at=0,
            finished_at=None,
        )

    for number in (1, 2):
        with pytest.raises(Busy):
            await engine.sync.functions._run_command(attempt(number), call)
        found = await row(engine, "c")
        assert found is not None
        assert found["status"] == "pending"
    with pytest.raises(Busy):
        await engine.sync.functions._run_command(attempt(3), call)
    found = await row(engine, "c")
    assert found is not None
    assert found["status"] == "failed"
    assert msgspec.json.decode(found["error"])["code"] == "busy"


async def test_a_command_that_is_deleted_and_given_again_at_once_runs_again(open_engine: Open) -> None:
    """The same id in one transaction: what counts is that it is pending now."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", command("c", "nothing"))
    assert (await ended(engine, "c"))["status"] == "failed"
    delete = {"op": "delete", "model": "lowtide_commands", "id": "c"}
    await engine.upload("ann", delete, command("c", "many", '{"count":1}'))
    assert (await ended(engine, "c"))["status"] == "done"


async def test_commands_are_not_counted_as_rejections(open_engine: Open) -> None:
    """They are in the same bucket."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", command("c", "many", '{"count":1}'))
    await engine.upload("ann", {"op": "put", "model": "nothing", "id": "1", "data": {}})
    state = await engine.sync.devices.state(engine.who("ann"), "ann-phone")
    assert state.rejections == 1


async def test_a_lost_value_is_restored_whatever_the_clocks_say(open_engine: Open) -> None:
    """The value that it replaces was seen, even if another node with a fast clock wrote it."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", {"op": "put", "model": "note", "id": "1", "data": {"title": "first"}})
    change = {"op": "patch", "model": "note", "id": "1", "base": {"title": "first"}}
    await engine.upload("ann", {**change, "data": {"title": "anns"}})
    engine.clock.advance(60)
    await engine.upload("bob", {**change, "data": {"title": "bobs"}})
    engine.clock.advance(-30)
    (entry,) = await engine.sync.journal.entries(engine.who("ann"), "note", "1")
    assert entry.lost == "anns"
    await engine.sync.journal.restore(engine.who("ann"), entry.id)
    assert (await engine.rows("bob"))[("note", "1")]["title"] == "anns"


async def test_what_cannot_be_restored_says_so(open_engine: Open) -> None:
    """A field that keeps its first value: it stays, and the entry is not marked as restored."""
    engine = await open_engine(SCHEMA)
    await engine.upload("ann", {"op": "put", "model": "note", "id": "1", "data": {"title": "t"}})
    for user in ("ann", "bob"):
        change = {"op": "patch", "model": "note", "id": "1", "data": {"chosen": user}}
        await engine.upload(user, {**change, "base": {"chosen": None}})
    (entry,) = await engine.sync.journal.entries(engine.who("ann"), "note", "1")
    with pytest.raises(Conflict):
        await engine.sync.journal.restore(engine.who("ann"), entry.id)
    (entry,) = await engine.sync.journal.entries(engine.who("ann"), "note", "1")
    assert entry.restored_at is None
