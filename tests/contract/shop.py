"""shop: an app with something of everything that an address can be asked for.

A ``Note`` is its owner's alone, a ``Task`` its team's, a ``City`` everybody's; only the server writes
memberships and cities.
"""

from __future__ import annotations

from typing import Any

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
    Refused,
    Set,
    Text,
    Timestamp,
    everyone,
    me,
    member,
    owner,
)

app = App("shop")


@app.model
class Membership(Model):
    """Who is in which team."""

    user_id = Text()
    team_id = Text()


@app.model(indexes=["owner_id"])
class Note(Model):
    """Its owner's, and nobody else's."""

    owner_id = Text()
    title = Text(max_length=80)
    body = Text(merge="text", default="", max_length=2000)
    stars = Integer(default=0)
    write = owner("owner_id")


@app.model(unique=[("team_id", "number")])
class Task(Model):
    """A field of each kind."""

    team_id = Text()
    number = Integer(optional=True)
    title = Text(max_length=80)
    done = Boolean(default=False)
    votes = Counter()
    tags = Set()
    steps = List()
    weight = Number(optional=True)
    due = Timestamp(optional=True)
    extra = Json(optional=True)
    note_id = Reference("note", optional=True)
    approved = Boolean(server_only=True)
    write = member("team", "team_id")

    @staticmethod
    def before_write(me: Any, before: Any, after: Any) -> None:
        if after is not None and (after.title or "").startswith("rude"):
            raise Refused("Mind your language.", code="rude", hint="Choose another title.")


@app.model
class City(Model):
    """For all to see."""

    name = Text()


app.stream("mine", carries={Note: "owner_id"}, keys=me)
app.stream("team", carries={Task: "team_id"}, keys=Membership.where(user_id=me).team_id)
app.stream("catalogue", carries=[City], keys=everyone)


@app.function
async def close_task(ctx: Any, task_id: str, reason: str = "") -> dict[str, Any]:
    """Close a task.

    Says how it was called before. A task that is closed stays as it is.
    """
    task = await ctx.get(Task, task_id)
    if task is None:
        raise Refused("There is no such task.", code="no_task")
    ctx.update(Task, task_id, done=True)
    return {"was": task.title, "by": ctx.me.user, "reason": reason}


@app.function
async def add(ctx: Any, left: int, right: int = 1) -> int:
    """Add two numbers."""
    return left + right
