"""The digest audit with the real client core: a device whose content rotted heals by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from lowtide.declare.clientschema import client_schema
from lowtide.kernel.http import Outlet
from lowtide.sync.devices import AuditRequest
from lowtide.sync.view import StreamRequest
from tests.phones.audit import audit_request
from tests.phones.phone import Phone
from tests.sync.conftest import Engine, Open
from tests.sync.test_engine import SCHEMA, crew, task

pytestmark = pytest.mark.anyio

TABLES = {
    table["name"]: {column["name"]: column["type"] for column in table["columns"]}
    for table in client_schema(SCHEMA)["tables"]
}


async def connect(engine: Engine, phone: Phone) -> asyncio.Task[None]:
    """Open the phone's stream and wait for its first whole checkpoint."""
    request = msgspec.convert(phone.start(), StreamRequest)
    download = await engine.sync.download(engine.who("bob"), request, "json", "identity")
    phone.established()
    complete = asyncio.Event()

    async def send(message: Any) -> None:
        for line in message["body"].decode().splitlines():
            phone.receive(line)
            if "checkpoint_complete" in line:
                complete.set()

    task = asyncio.create_task(download.run(Outlet(send)))
    async with asyncio.timeout(10):
        await complete.wait()
    return task


async def leave(phone: Phone, stream: asyncio.Task[None]) -> None:
    """Close the stream."""
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
    phone.stop()


async def audit(engine: Engine, phone: Phone) -> list[str]:
    """The buckets that differ, by their streams' names."""
    request = msgspec.convert(audit_request(phone.database, phone.client_id), AuditRequest)
    answer = await engine.sync.devices.audit(engine.who("bob"), request)
    assert answer.checked == 2
    return sorted(name.partition("[")[0] for name in answer.diverged)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ps_oplog SET data = replace(data, 'milk', 'm') WHERE data LIKE '%milk%'",
        "DELETE FROM ps_oplog WHERE data LIKE '%milk%'",
        "UPDATE ps_oplog SET op_id = op_id + 1 WHERE data LIKE '%milk%'",
    ],
)
async def test_a_device_whose_rows_rotted_is_found_and_downloads_anew(
    open_engine: Open, ids: Any, damage: str
) -> None:
    """A sound device is left alone; a damaged one has the right rows after its next checkpoint."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1", "milk"), task("2", "Blåbær 🍇"), task("3", "tea"))
    await engine.upload("ann", {"op": "delete", "model": "task", "id": "3"})
    phone = Phone("bob", TABLES, now=engine.clock.now, token=ids.token)
    stream = await connect(engine, phone)
    sound = phone.rows("task")
    names = phone.buckets()
    assert await audit(engine, phone) == []
    await leave(phone, stream)
    stream = await connect(engine, phone)
    assert phone.buckets() == names
    await leave(phone, stream)

    with phone.transaction() as database:
        database.execute(damage)
    assert await audit(engine, phone) == ["team"]
    stream = await connect(engine, phone)
    assert not set(phone.buckets()) & set(names)
    assert phone.rows("task") == sound
    assert await audit(engine, phone) == []
    await leave(phone, stream)
