"""What the server holds, for the page to show beside the phones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from lowtide.kernel.http import Outlet
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Tx, load_queries
from lowtide.sync import store
from lowtide.sync.journal import Lost
from lowtide.sync.service import Sync
from lowtide.sync.system import REJECTIONS

MAX_SHOWN = 50
"""Records of each model, and entries of the journal, that the page is sent."""
LOOK_EVERY = 0.2
"""Seconds between two looks at the head: one row of one table."""
QUIET = 15.0
"""Seconds after which an empty line says that the connection is there."""
SPACE = "main"
TEAM = "playground"
"""Whose records the page plays with: it neither shows nor touches any others."""
MINE = "playground-"
"""How the ids of records begin that the page made and that are one user's alone."""
MAX_DEVICES = 200
"""Devices whose users the page is told, and users whose addresses."""

QUERIES = load_queries("lowtide.playground")
_encode = msgspec.json.Encoder().encode


class Shown(msgspec.Struct, frozen=True):
    """A record as the server has it."""

    id: str
    data: dict[str, Any]
    updated: int


class ServerView(msgspec.Struct, frozen=True):
    """The server at one head."""

    head: int
    epoch: str
    records: dict[str, list[Shown]]
    rejections: list[Shown]
    conflicts: Sequence[Lost]
    devices: dict[str, str]
    """Whose each device is, by its client_id: those seen last."""
    people: dict[str, str]
    """The address of each account, empty for a guest: those changed last."""


async def show(sync: Sync, outlet: Outlet) -> None:
    """Write a ``ServerView`` a line: now, and whenever the head has moved. Returns when the server stops."""
    seen, quiet = -1, 0.0
    while not outlet.draining:
        head = await sync.head()
        if head != seen:
            view = await look(sync)
            seen, quiet = view.head, 0.0
            await outlet.write(_encode(view) + b"\n")
        elif quiet >= QUIET:
            quiet = 0.0
            await outlet.write(b"\n")
        await asyncio.sleep(LOOK_EVERY)
        quiet += LOOK_EVERY


async def look(sync: Sync) -> ServerView:
    """The team's records, what the page's users wrote for themselves, lost values, and what was refused.

    Some of each. Reads all records of the models that it shows, so it is for a developer's data.
    """
    models = [model for model in sync.schema.models.values() if not model.removed]

    async def read(tx: Tx) -> tuple[store.Head, dict[str, list[Shown]], dict[str, str], dict[str, str]]:
        head = await store.read_head(tx)
        found = {}
        for model in models:
            kind, mark = ("records", TEAM) if "team_id" in model.fields else ("own", MINE)
            if "team_id" in model.fields or "user_id" in model.fields:
                rows = await tx.fetch(QUERIES[kind], SPACE, model.name, mark, MAX_SHOWN)
                found[model.name] = [Shown(id, store.restore(model, data), at) for id, data, at in rows]
        refused = sync.schema.models[REJECTIONS]
        rows = await tx.fetch(store.QUERIES["records_of"], SPACE, REJECTIONS, "", MAX_SHOWN)
        found[REJECTIONS] = [Shown(id, store.restore(refused, data), at) for id, data, _, _, at in rows]
        devices = await tx.fetch(QUERIES["devices"], SPACE, MAX_DEVICES)
        people = await tx.fetch(QUERIES["people"], MAX_DEVICES)
        owners = {str(client_id): str(user) for client_id, user in devices}
        return head, found, owners, {str(id): str(email or "") for id, email in people}

    head, records, devices, people = await sync.database.read(read)
    rejections = records.pop(REJECTIONS)
    standing = {(model, one.id) for model, shown in records.items() for one in shown}
    server = Principal(user=TEAM, space=SPACE, server=True)
    lost = await sync.journal.entries(server, limit=MAX_SHOWN)
    conflicts = [one for one in lost if (one.model, one.record) in standing]
    return ServerView(head.group, head.epoch, records, rejections, conflicts, devices, people)
