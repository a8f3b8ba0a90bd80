"""desk: the app that the REST API is tried with. A field of each kind, a stream of each kind."""

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
    anyone,
    everyone,
    me,
    member,
    owner,
    parameter,
    removed,
)

app = App("desk")


@app.model
class Membership(Model):
    """Who is in which team; only the server lets people in."""

    user_id = Text()
    team_id = Text()


@app.model
class Team(Model):
    """Seen by its members."""

    name = Text()
    lead_id = Text(optional=True)


@app.model(indexes=["state"])
class Task(Model):
    """A field of each kind."""

    team_id = Reference(Team)
    title = Text(max_length=80)
    state = Text(default="todo")
    notes = Text(merge="text", default="", renamed_from="remark")
    votes = Counter()
    tags = Set()
    steps = List()
    price = Number(optional=True)
    estimate = Integer(optional=True)
    due = Timestamp(optional=True)
    urgent = Boolean(default=False)
    approved = Boolean(server_only=True)
    extra = Json(optional=True)
    parent_id = Reference("Task", optional=True)
    colour = removed(Text(default="grey"))
    write = member("team", "team_id")


@app.model
class Draft(Model):
    """Its owner's alone."""

    owner_id = Text()
    body = Text()
    write = owner("owner_id")


@app.model(unique=["name"])
class Handle(Model):
    """Public; names are unique, and some words are refused."""

    name = Text()
    write = anyone

    @staticmethod
    def before_write(me: Any, before: Any, after: Any) -> None:
        if after is not None and after.name.startswith("rude"):
            raise Refused("Mind your language.", code="rude", hint="Choose another name.")
        if after is not None and after.name.startswith("sly"):
            raise Refused("Not this one.", code="version:none")


@app.model
class Dropbox(Model):
    """Anybody may put something in, nobody but the server takes it out."""

    text = Text()
    write = anyone


@app.model
class Article(Model):
    """Received by those who subscribe to its topic, whichever it is."""

    topic = Text(optional=True)
    body = Text()
    write = anyone


@app.model
class Minute(Model):
    """Received by members of the team who subscribe to it."""

    team_id = Text()
    body = Text()
    write = member("team", "team_id")


@app.model
class City(Model):
    """A catalogue of another space that every space reads."""

    name = Text()
    people = Integer(default=0)


@app.model(removed=True)
class Relic(Model):
    """Not in the app any more."""

    text = Text()
    write = anyone


teams = Membership.where(user_id=me).team_id
app.stream("membership", carries={Membership: "user_id"}, keys=me)
app.stream("team", carries={Task: "team_id", Team: "id"}, keys=teams)
app.stream("drafts", carries={Draft: "owner_id"}, keys=me)
app.stream("lent", carries={Task: "parent_id"}, keys=me)
app.stream("public", carries=[Handle, Relic], keys=everyone)
app.stream("articles", carries={Article: "topic"}, keys=parameter("topic"), default=False)
app.stream("minutes", carries={Minute: "team_id"}, keys=parameter("team_id", within=teams), default=False)
app.stream("atlas", carries=[City], keys=everyone, space="atlas")

SCHEMA = app.compile()
