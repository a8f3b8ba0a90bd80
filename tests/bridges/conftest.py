"""The bridges behind the real edge, over both databases; tokens are names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from lowtide.api.edge import Edge
from lowtide.api.logs import AccessLog
from lowtide.api.origins import Hosts
from lowtide.bridges import COMPONENT, Bridges, bridge_routes
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import Unauthorized
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal
from lowtide.storage.db.migrate import migrate
from tests.acceptance.crew import app as crew
from tests.api.client import Answer, Client
from tests.sync.conftest import Engine, Open
from tests.sync.conftest import open_engine as open_engine

SCHEMA = crew.compile()
PEOPLE = ("anna", "ben", "zoe", "server")
KEPT_DAYS = 30


def principal(token: str) -> Principal:
    """``anna``, ``anna@acme`` in another space, ``server`` the app's own code."""
    user, _, space = token.partition("@")
    if user not in PEOPLE:
        raise Unauthorized("The token is not valid.")
    return Principal(user=user, space=space or "main", server=user == "server", session=f"{user}-session")


class Doors:
    """Calls the bridges as somebody, and the engine beside them."""

    def __init__(self, edge: Edge, engine: Engine, bridges: Bridges):
        self.edge = edge
        self.engine = engine
        self.bridges = bridges
        self.client = Client(edge)

    async def post(self, who: str, path: str, json: Any) -> Answer:
        self.engine.clock.advance(1)
        return await self.client.request("POST", f"/v1/bridges/{path}", json=json, token=who)

    async def get(self, who: str, path: str) -> Answer:
        return await self.client.request("GET", f"/v1/bridges/{path}", token=who)

    async def put(self, model: str, id: str, **data: Any) -> None:
        """The app's server writes a record, whether it is there or not."""
        await self._write({"op": "put", "model": model, "id": id, "data": data})

    async def delete(self, model: str, id: str) -> None:
        """The app's server deletes a record."""
        await self._write({"op": "delete", "model": model, "id": id})

    async def join(self, user: str, team: str) -> None:
        await self.put("membership", f"{team}-{user}", user_id=user, team_id=team)

    async def leave(self, user: str, team: str) -> None:
        await self.delete("membership", f"{team}-{user}")

    async def task(self, id: str) -> dict[str, Any] | None:
        """The record as the server has it."""
        found = (await self.engine.rows("anna")).get(("task", id))
        return found

    async def lost(self, id: str) -> list[tuple[str, Any, Any]]:
        """(field, lost, won) of the journal's entries for a task."""
        entries = await self.engine.sync.journal.entries(self.engine.who("server"), "task", id, None, 50)
        return [(one.field, one.lost, one.won) for one in entries]

    async def _write(self, mutation: Mapping[str, Any]) -> None:
        self.engine.clock.advance(1)
        answer = await self.engine.upload("server", dict(mutation))
        assert [result.status for result in answer.results if result.status == "refused"] == []


@pytest.fixture
async def doors(open_engine: Open, clock: ManualClock, ids: SeededIds) -> Doors:
    """The crew app, with anna and ben in team red."""
    engine = await open_engine(SCHEMA)
    await migrate(engine.sync.database, [COMPONENT], clock)
    bridges = Bridges(engine.sync, clock)
    edge = Edge(
        bridge_routes(bridges, clock),
        authenticate=principal,
        clock=clock,
        ids=ids,
        hosts=Hosts(("localhost",)),
        access=AccessLog(clock, ids),
    )
    doors = Doors(edge, engine, bridges)
    await doors.join("anna", "red")
    await doors.join("ben", "red")
    return doors


def decoded(value: Any) -> Any:
    """JSON inside of JSON, made readable."""
    return msgspec.json.decode(value) if isinstance(value, str) else value
