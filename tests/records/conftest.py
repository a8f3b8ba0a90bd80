"""The REST API behind the real edge, over both databases; tokens are names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lowtide.api.edge import Edge
from lowtide.api.logs import AccessLog
from lowtide.api.origins import Hosts
from lowtide.audit import Audit
from lowtide.audit.trail import Trail
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import Unauthorized
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal
from lowtide.records import Records, records_routes
from tests.api.client import Answer, Client
from tests.records.app import SCHEMA
from tests.sync.conftest import Engine, Open
from tests.sync.conftest import open_engine as open_engine

PEOPLE = ("ann", "bob", "eve", "server")


def principal(token: str) -> Principal:
    """``ann``, ``ann@acme`` in another space, ``dev:ann`` a developer, ``server`` the app's own code."""
    role, _, rest = token.rpartition(":")
    user, _, space = rest.partition("@")
    if user not in PEOPLE or role not in ("", "dev"):
        raise Unauthorized("The token is not valid.")
    roles = ("developer",) if role else ()
    return Principal(user=user, space=space or "main", roles=roles, server=user == "server")


class Rest:
    """Calls the REST API as somebody."""

    def __init__(self, edge: Edge, engine: Engine, records: Records):
        self.edge = edge
        self.engine = engine
        self.records = records
        self.client = Client(edge)

    async def get(self, who: str | None, path: str, **headers: str) -> Answer:
        return await self._send("GET", who, path, None, headers)

    async def post(self, who: str | None, path: str, json: Any, **headers: str) -> Answer:
        return await self._send("POST", who, path, json, headers)

    async def patch(self, who: str | None, path: str, json: Any, **headers: str) -> Answer:
        return await self._send("PATCH", who, path, json, headers)

    async def delete(self, who: str | None, path: str, **headers: str) -> Answer:
        return await self._send("DELETE", who, path, None, headers)

    async def made(self, who: str, model: str, id: str | None = None, **data: Any) -> dict[str, Any]:
        """Create a record and return it."""
        sent = {"data": data} if id is None else {"id": id, "data": data}
        answer = await self.post(who, f"/v1/records/{model}", sent)
        assert answer.status == 201, answer.body
        made: dict[str, Any] = answer.json()
        return made

    async def join(self, user: str, team: str, space: str = "main") -> None:
        """Let ``user`` into ``team``."""
        await self.made(f"server@{space}", "membership", f"{user}-{team}", user_id=user, team_id=team)

    async def _send(
        self, method: str, who: str | None, path: str, json: Any, headers: Mapping[str, str]
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, path, json=json, token=who, headers=named)


@pytest.fixture
async def rest(open_engine: Open, clock: ManualClock, ids: SeededIds) -> Rest:
    """The desk app, with ann and bob in team red, eve in team blue."""
    engine = await open_engine(SCHEMA)
    records = Records(engine.sync, clock, ids)
    edge = Edge(
        records_routes(records, clock, Trail(Audit(clock, ids), engine.sync.database)),
        authenticate=principal,
        clock=clock,
        ids=ids,
        hosts=Hosts(("localhost",)),
        access=AccessLog(clock, ids),
    )
    rest = Rest(edge, engine, records)
    await rest.join("ann", "red")
    await rest.join("bob", "red")
    await rest.join("eve", "blue")
    return rest
