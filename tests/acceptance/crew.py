"""crew: the app that the client SDKs are tried with. Every merge kind, every kind of stream."""

from __future__ import annotations

from typing import Any

from lowtide import (
    App,
    Boolean,
    Counter,
    Integer,
    List,
    Model,
    Refused,
    Set,
    Text,
    anyone,
    everyone,
    me,
    member,
    owner,
    parameter,
    removed,
)

app = App("crew")
STATES = ("todo", "doing", "done")


def furthest(base: Any, mine: Any, theirs: Any, context: Any) -> Any:
    """The further state wins."""
    return max(mine, theirs, key=STATES.index)


@app.model
class Membership(Model):
    """Who is in which team; only the server lets people in."""

    user_id = Text()
    team_id = Text()


@app.model
class Task(Model):
    """A field of each merge kind, and what a year of versions leaves behind."""

    team_id = Text()
    title = Text(max_length=80)
    notes = Text(merge="text", default="", renamed_from="remark")
    page = Text(merge="collaborative", optional=True)
    votes = Counter()
    tags = Set()
    steps = List()
    best = Integer(merge="max", optional=True)
    least = Integer(merge="min", optional=True)
    opener = Text(merge="first", optional=True)
    state = Text(merge=furthest, default="todo")
    approved = Boolean(server_only=True)
    estimate = Integer(optional=True)
    colour = removed(Text(default="grey"))
    write = member("team", "team_id")


@app.model(on_delete="revive")
class Card(Model):
    """An edit brings it back from a deletion that did not know of the edit."""

    team_id = Text()
    body = Text()
    write = member("team", "team_id")


@app.model
class Entry(Model):
    """One side of a booking: the two sides are written in one transaction and add up to nothing."""

    team_id = Text()
    booking = Text()
    amount = Integer()
    write = member("team", "team_id")


@app.model(unique=["name"])
class Handle(Model):
    """Public; names are unique, and some words are refused."""

    name = Text()
    write = anyone

    @staticmethod
    def before_write(me: Any, before: Any, after: Any) -> None:
        if after is not None and after.name.startswith("rude"):
            raise Refused("Mind your language.", code="rude", hint="Choose another name.")


@app.model
class Article(Model):
    """Received by those who subscribe to its topic."""

    topic = Text()
    body = Text()
    write = anyone


@app.model
class Minute(Model):
    """Received by members of the team who subscribe to it."""

    team_id = Text()
    body = Text()
    write = member("team", "team_id")


@app.model
class Note(Model):
    """A user's own."""

    user_id = Text()
    body = Text()
    write = owner("user_id")


@app.model
class City(Model):
    """Much, and in no hurry; only the server writes it."""

    name = Text()
    story = Text()


@app.model
class Alarm(Model):
    """Before everything else."""

    text = Text()


teams = Membership.where(user_id=me).team_id
app.stream("alarms", carries=[Alarm], keys=everyone, priority=0)
app.stream("membership", carries={Membership: "user_id"}, keys=me, priority=1)
app.stream("notes", carries={Note: "user_id"}, keys=me, priority=2)
app.stream("team", carries={Task: "team_id", Card: "team_id", Entry: "team_id"}, keys=teams, priority=2)
app.stream("public", carries=[Handle], keys=everyone, priority=3)
app.stream("cities", carries=[City], keys=everyone, priority=3, on_metered="defer")
app.stream("articles", carries={Article: "topic"}, keys=parameter("topic"), default=False)
app.stream(
    "minutes", carries={Minute: "team_id"}, keys=parameter("team_id", within=teams), default=False, priority=1
)


@app.function
async def close_task(ctx: Any, task_id: str, reason: str = "") -> dict[str, Any]:
    """Closes a task once, and says how it was called before."""
    task = await ctx.get(Task, task_id)
    if task is None:
        raise Refused("There is no such task.", code="no_task")
    if task.state == "done":
        raise Refused("It is closed already.", code="closed")
    ctx.update(Task, task_id, state="done", title=f"{task.title} ({reason})")
    ctx.increment(Task, task_id, "votes")
    return {"was": task.state, "by": ctx.me.user}
