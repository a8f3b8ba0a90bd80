"""A real phone and REST, on one server process: each sees what the other writes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.phones.app import SCHEMA
from tests.phones.phone import Phone
from tests.phones.session import PhoneSession
from tests.phones.users import tables_of
from tests.server_process import ServerProcess

APP = Path(__file__).parent.parent / "phones" / "app.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of the phones' app, its keys read: a loop may not do that."""
    with ServerProcess(tmp_path, APP, "crew") as process:
        process.token("anybody")
        yield process
        assert process.stop() == 0, process.log()[-2000:]
        assert process.faults() == []


@pytest.mark.anyio
async def test_a_phone_and_rest_see_each_others_writes(server: ServerProcess) -> None:
    """A draft made over REST appears on the phone; the phone's change is read over REST, and a deletion of
    REST's takes the row away. A change with the etag of before the phone's is refused."""
    numbers = itertools.count()
    phone = Phone(
        "phone", tables_of(SCHEMA), now=lambda: 1_790_000_000_000, token=lambda: f"name-{next(numbers)}"
    )
    token = server.token("ann")
    headers = {"authorization": f"Bearer {token}"}

    async def fetch() -> str:
        return token

    async with (
        httpx2.AsyncClient(timeout=10) as client,
        PhoneSession(phone, server.url, fetch, client) as session,
    ):
        sent = {"id": "d", "data": {"owner_id": "ann", "body": "from the desk"}}
        made = await client.post(f"{server.url}/v1/records/draft", json=sent, headers=headers)
        assert made.status_code == 201
        await session.until(lambda: "d" in phone.rows("draft"))
        assert phone.rows("draft")["d"]["body"] == "from the desk"

        await session.write(phone.update("draft", "d", body="from the phone"))
        await session.in_step()
        url = f"{server.url}/v1/records/draft/d"
        read = await client.get(url, headers=headers)
        assert read.json()["data"]["body"] == "from the phone"
        stale = headers | {"if-match": made.headers["etag"]}
        assert (await client.delete(url, headers=stale)).status_code == 412
        assert "d" in phone.rows("draft")
        present = headers | {"if-match": read.headers["etag"]}
        assert (await client.delete(url, headers=present)).status_code == 204
        await session.until(lambda: "d" not in phone.rows("draft"))
        assert session.mismatches == []
        assert session.refusals == []
