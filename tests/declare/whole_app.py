"""An app with every word of the declaration, as a developer who uses a type checker writes it.

``mypy --strict`` reads it with the rest of the tests: ``assert_type`` fails there, not when it runs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, assert_type

from lowtide import (
    App,
    Attachment,
    Boolean,
    Caller,
    Counter,
    Integer,
    Json,
    List,
    Model,
    Number,
    Reference,
    Refused,
    Resolving,
    Set,
    Text,
    Timestamp,
    anyone,
    both,
    claim,
    either,
    everyone,
    me,
    member,
    nobody,
    owner,
    parameter,
    removed,
)

app = App("whole")
STATES = ("todo", "doing", "done")


def furthest(base: str | None, mine: str, theirs: str, context: Resolving) -> str:
    assert_type(context.mine_is_later, bool)
    return max(mine, theirs, key=STATES.index)


@app.model(indexes=["team_id"])
class Membership(Model):
    team_id = Reference("Team")
    user_id = Text()
    write = nobody


@app.model
class Team(Model):
    name = Text(max_length=80)
    write = both(member("own_teams", "team_id"), anyone)
    team_id = Text()


class Dated(Model):
    """Fields that several models share."""

    made_at = Timestamp(default=datetime(2026, 1, 2, tzinfo=UTC))


@app.model(unique=[("team_id", "slug")], indexes=["status"], on_delete="revive")
class Task(Dated):
    title = Text(max_length=200)
    slug = Text(merge="first", default="")
    notes = Text(merge="text", optional=True, max_length=20_000)
    body = Text(merge="collaborative", optional=True)
    done = Boolean()
    sure = Boolean(optional=True)
    votes = Counter()
    score = Counter(default=10)
    weight = Number(merge="counter", default=0)
    tags = Set()
    labels = Set(default=["new"], max_length=1000)
    steps = List()
    place = Json(default={"city": "Oslo"})
    best = Number(merge="max", optional=True)
    least = Integer(merge="min", optional=True)
    status = Text(merge=furthest, default="todo")
    rank = Integer(server_only=True, default=0)
    secret = Text(server_only=True, optional=True)
    photo = Attachment(optional=True)
    team_id = Reference("Team")
    parent = Reference("Task", optional=True)
    heading = Text(renamed_from="caption", optional=True)
    old = removed(Integer())
    flag = removed(Boolean())

    write = either(member("team", "team_id"), owner("secret"))

    @staticmethod
    def before_write(me: Caller, before: Task | None, after: Task | None) -> dict[str, object] | None:
        if after is None:
            return None
        assert_type(after.id, str)
        assert_type(after.title, str)
        assert_type(after.notes, str | None)
        assert_type(after.done, bool)
        assert_type(after.votes, int)
        assert_type(after.tags, list[Any])
        assert_type(after.best, float | None)
        assert_type(after.made_at, datetime)
        assert_type(after.parent, str | None)
        assert_type(me.holds("team", after.team_id), bool)
        if "spam" in after.title:
            raise Refused("no advertising, please", code="spam", hint="Write something else.")
        return {"slug": after.title.lower()}

    @staticmethod
    async def after_commit(event: Any) -> None: ...


@app.model
class Draft(Model):
    owner_id = Text()
    text = Text()
    write = owner("owner_id")


@app.model(name="town")
class City:
    name = Text()
    write = nobody


@app.model
class Notice:
    platform = Text()
    text = Text()
    write = nobody


@app.model
class Message(Model):
    room_id = Reference("Team")
    text = Text()

    @staticmethod
    def write(me: Caller, before: Message | None, after: Message | None) -> bool:
        return before is None and after is not None and me.holds("chat", after.room_id)


@app.model(removed=True)
class Badge:
    name = Text()


teams = Membership.where(user_id=me).team_id
app.stream("team", carries={Task: "team_id"}, keys=teams, priority=1)
app.stream("own_teams", carries={Team: "team_id", Membership: "team_id"}, keys=teams, priority=0)
app.stream("mine", carries={Draft: "owner_id"}, keys=me)
app.stream("catalogue", carries=[City], keys=everyone, priority=3, on_metered="defer", space="shared")
app.stream("platform", carries={Notice: "platform"}, keys=claim("platform"))
app.stream("chat", carries={Message: "room_id"}, keys=parameter("room_id", within=teams), default=False)


@app.function
async def archive(ctx: Any, before: datetime, team_ids: list[str], dry: bool = False) -> int:
    return len(team_ids)


@app.function(name="ping")
async def answer(ctx: Any, *, text: str | None = None) -> str:
    return text or "pong"
