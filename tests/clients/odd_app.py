"""odd: an app whose names and values are as awkward for generated code as a declaration allows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from lowtide import (
    App,
    Boolean,
    Counter,
    Integer,
    Json,
    List,
    Model,
    Number,
    Reference,
    Set,
    Text,
    Timestamp,
    anyone,
    everyone,
    me,
    owner,
)

app = App("odd")


class Place(msgspec.Struct):
    latitude: float
    longitude: float


@app.model(unique=[("owner_id", "class_")], indexes=["when"])
class Record(Model):
    """Its name, and its fields', mean something in every language."""

    owner_id = Text()
    class_ = Text(default="a \"quote\", a $dollar, a \\ and a 'tick'")
    default_ = Integer(optional=True)
    when = Timestamp(optional=True)
    since = Timestamp(default=datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC))
    is_ = Boolean(default=True)
    maybe = Boolean(optional=True)
    weight = Number(default=1.5)
    very_long_name = Text(optional=True)
    extras = Json(default={"a": [1, None, "ü $x"]})
    notes = Json(optional=True)
    tags = Set()
    steps = List(default=["one", 2])
    votes = Counter()
    price = Integer(server_only=True, default=3)
    # What generated code calls its own things.
    writer = Text(optional=True)
    row = Text(optional=True)
    uuid = Text(optional=True)
    init = Text(optional=True)
    arguments = Json(optional=True)
    write = owner("owner_id")


@app.model
class City(Model):
    """Read only."""

    name = Text(max_length=80)
    twin = Reference("City", optional=True)


@app.model
class Package(Model):
    """Nothing of it is a device's to give; its name is a keyword."""

    total = Integer(server_only=True, default=0)
    write = anyone


@app.model
class Date(Model):
    """A type of every language."""

    day = Text(default="")
    write = anyone


app.stream("mine", carries={Record: "owner_id"}, keys=me)
app.stream("cities", carries=[City, Package, Date], keys=everyone)


@app.function
async def import_(
    ctx: Any,
    amount: int,
    where: Place,
    at: datetime,
    names: list[str],
    is_it: bool = False,
    note: str | None = None,
    options: dict[str, Any] | None = None,
    writer: str = "",
    arguments: int | str = 5,
) -> None:
    """Every kind of argument."""


@app.function
async def nothing(ctx: Any) -> None:
    """None at all."""
