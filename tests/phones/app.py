"""The app that the simulated phones run: every merge kind, every kind of stream and key."""

from __future__ import annotations

from typing import Any

from lowtide import (
    App,
    Boolean,
    Counter,
    Integer,
    Json,
    List,
    Refused,
    Set,
    Text,
    anyone,
    everyone,
    me,
    member,
    owner,
    parameter,
)

app = App("crew")
STATES = ("todo", "doing", "done")
MAX_TITLE = 60


def furthest(base: Any, mine: Any, theirs: Any, context: Any) -> Any:
    """The further state wins."""
    return max(mine, theirs, key=lambda state: STATES.index(state.partition(" ")[0]))


@app.model
class Membership:
    """Who is in which team; the server grants and revokes."""

    user_id = Text()
    team_id = Text()


@app.model
class Task:
    """One field of each merge kind."""

    team_id = Text()
    title = Text(max_length=MAX_TITLE)
    place = Json(optional=True)
    remark = Text(merge="text", default="")
    minutes = Text(merge="collaborative", optional=True)
    votes = Counter()
    tags = Set()
    steps = List()
    best = Integer(merge="max", optional=True)
    least = Integer(merge="min", optional=True)
    opener = Text(merge="first", optional=True)
    state = Text(merge=furthest, default="todo")
    approved = Boolean(server_only=True)
    write = member("team", "team_id")


@app.model
class Note:
    """A deletion wins over an edit that it did not know of."""

    team_id = Text()
    body = Text(optional=True)
    colour = Text(optional=True)
    write = member("team", "team_id")


@app.model(on_delete="revive")
class Card:
    """An edit wins over a deletion that it did not know of."""

    team_id = Text()
    body = Text(optional=True)
    write = member("team", "team_id")


@app.model
class Half:
    """Two are written, and deleted, in one transaction; nobody may see one without the other."""

    team_id = Text()
    pair = Text()
    write = member("team", "team_id")


@app.model
class Twin:
    """Each device has two, and raises both versions in one transaction."""

    team_id = Text()
    device = Text()
    version = Integer()
    write = member("team", "team_id")


@app.model
class Echo:
    """What a device had seen of the others' twins when it wrote this."""

    team_id = Text()
    seen = Json()
    write = member("team", "team_id")


@app.model
class Draft:
    """Private."""

    owner_id = Text()
    body = Text()
    write = owner("owner_id")


@app.model
class City:
    """Public in every space; only the server writes, and only in one."""

    name = Text()


@app.model(unique=["name"])
class Handle:
    """Public; names are unique, and some words are refused."""

    name = Text()
    write = anyone

    @staticmethod
    def before_write(me: Any, before: Any, after: Any) -> None:
        if after is not None and after.name.startswith("rude"):
            raise Refused("mind your language")


@app.model
class Article:
    """Received by those who subscribe to the topic."""

    topic = Text()
    body = Text()
    write = anyone


@app.model
class Minute:
    """Received by members who subscribe to the team."""

    team_id = Text()
    body = Text()
    write = member("team", "team_id")


teams = Membership.where(user_id=me).team_id  # type: ignore[attr-defined]
app.stream("membership", carries={Membership: "user_id"}, keys=me, priority=0)
app.stream("pairs", carries={Half: "team_id", Twin: "team_id"}, keys=teams, priority=1)
app.stream("team", carries={Task: "team_id", Note: "team_id", Card: "team_id", Echo: "team_id"}, keys=teams)
app.stream("mine", carries={Draft: "owner_id"}, keys=me)
app.stream("public", carries=[Handle], keys=everyone, priority=2)
app.stream("atlas", carries=[City], keys=everyone, priority=2, space="main")
app.stream("articles", carries={Article: "topic"}, keys=parameter("topic"), default=False)
app.stream(
    "archive", carries={Minute: "team_id"}, keys=parameter("team_id", within=teams), default=False, priority=1
)


@app.function
async def found_city(ctx: Any, name: str) -> str:
    """Devices may not write cities; they may ask for one."""
    if name.startswith("rude"):
        raise Refused("mind your language")
    return str(ctx.create(City, name=name))


SCHEMA = app.compile()
