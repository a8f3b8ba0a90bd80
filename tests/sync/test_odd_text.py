"""Text and numbers that a database cannot hold, over HTTP, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lowtide import App, Integer, Json, Model, Number, Text, anyone, everyone
from lowtide.app import Lowtide, build
from lowtide.settings import Settings
from lowtide.storage.db import Dialect
from tests.api.client import Client
from tests.server_process import SECRET_KEY

app = App("odd")


@app.model
class Note(Model):
    title = Text(default="")
    extra = Json(optional=True)
    count = Integer(optional=True)
    weight = Number(optional=True)

    write = anyone


app.stream("notes", carries=[Note], keys=everyone)


@pytest.fixture
def built(dialect: Dialect, tmp_path: Path, request: pytest.FixtureRequest) -> Lowtide:
    """The whole server, not started."""
    place = request.getfixturevalue("postgres_dsn") if dialect == "postgres" else str(tmp_path / "data.db")
    return build(Settings(database=place, secret_key=SECRET_KEY), app)


@pytest.fixture
async def client(anyio_backend: object, built: Lowtide) -> AsyncIterator[Client]:
    """Somebody's device."""
    await built.start()
    try:
        yield Client(built.asgi, {"authorization": f"Bearer {built.tokens.sign('ann')}"})
    finally:
        await built.stop()


def put(n: int, id: str = "note", **data: Any) -> dict[str, Any]:
    return {"n": n, "op": "put", "model": "note", "id": id, "data": data}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "odd",
    [
        put(1, title="a\0b"),
        put(1, extra={"deep": ["\0"]}),
        put(1, extra={"na\0me": 1}),
        put(1, id="no\0te"),
        put(1, title="x") | {"model": "no\0te"},
        put(1, title="x") | {"op": "p\0ut"},
        put(1, count=2**63),
        put(1, count=-(10**400)),
        put(1, weight=10**400),
        put(1) | {"id": 10**30},
        put(1) | {"model": 10**4000},
    ],
    ids=[
        "text",
        "json value",
        "json name",
        "id",
        "model",
        "op",
        "integer",
        "long",
        "number",
        "number as id",
        "as model",
    ],
)
async def test_a_mutation_that_no_database_holds_is_refused_alone(
    client: Client, odd: dict[str, Any]
) -> None:
    """It comes back as a rejection; what stands behind it is applied, and a repeat is answered the same."""
    body = {
        "client_id": "phone",
        "transactions": [{"mutations": [odd]}, {"mutations": [put(2, "good", title=r"no \u0000 here")]}],
    }
    first = await client.post("/v1/sync/batches", json=body)
    assert first.status == 200, first.body
    refused, applied = first.json()["results"]
    assert refused["code"] in ("invalid", "unknown_model")
    assert applied["status"] == "applied"
    assert (await client.post("/v1/sync/batches", json=body)).body == first.body
    pulled = await client.post("/v1/sync/pull", json={})
    assert pulled.status == 200, pulled.body
    rows = {row["id"]: row["data"] for row in pulled.json()["rows"]}
    assert rows["good"]["title"] == r"no \u0000 here"
    assert set(rows) == {"good"}


@pytest.mark.anyio
async def test_a_large_number_arrives_however_it_is_written(client: Client) -> None:
    """JavaScript writes 1e19 and 1e20 with all their digits: numbers, though no 64 bits hold them."""
    body = {"client_id": "phone", "transactions": [{"mutations": [put(1, weight=10**19) | {"at": 10**19}]}]}
    answer = await client.post("/v1/sync/batches", json=body)
    assert answer.status == 200, answer.body
    assert [result["status"] for result in answer.json()["results"]] == ["applied"]
    rows = (await client.post("/v1/sync/pull", json={})).json()["rows"]
    assert rows[0]["data"]["weight"] == 1e19


@pytest.mark.anyio
async def test_what_a_device_held_before_may_hold_nul(client: Client) -> None:
    """A value that was refused stands on the device until it is mended: mending it is no reason to refuse."""
    made = {"client_id": "phone", "transactions": [{"mutations": [put(1, title="sound")]}]}
    assert (await client.post("/v1/sync/batches", json=made)).status == 200
    mended = {"n": 2, "op": "patch", "model": "note", "id": "note"}
    mended |= {"data": {"title": "mended"}, "base": {"title": "a\0b"}}
    body = {"client_id": "phone", "transactions": [{"mutations": [mended]}]}
    answer = await client.post("/v1/sync/batches", json=body)
    assert [result["status"] for result in answer.json()["results"]] == ["applied"]


@pytest.mark.anyio
async def test_a_device_with_nul_in_its_name_is_no_device(client: Client) -> None:
    """A request whose frame cannot be used is an error: there is nobody to tell of a rejection."""
    answer = await client.post(
        "/v1/sync/batches", json={"client_id": "pho\0ne", "transactions": [{"mutations": [put(1)]}]}
    )
    assert (answer.status, answer.json()["code"]) == (400, "malformed")
