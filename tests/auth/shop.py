"""An app whose records belong to users in every way that there is."""

from __future__ import annotations

from lowtide import App, Counter, Model, Text, either, everyone, me, member, owner

app = App("shop")


@app.model(unique=[("user_id", "team_id")])
class Membership(Model):
    """Who is in which team; the team's keys follow from it."""

    user_id = Text()
    team_id = Text()
    write = owner("user_id")


@app.model
class Note(Model):
    """Its owner's: the stream's key is the owner."""

    owner_id = Text()
    title = Text()
    seen = Counter()
    write = owner("owner_id")


@app.model
class Post(Model):
    """Everybody's to read, its author's to write: no stream's key says whose it is."""

    author_id = Text()
    text = Text()
    write = owner("author_id")


@app.model
class Task(Model):
    """A team's, and whoever made it may still change it."""

    team_id = Text()
    made_by = Text()
    title = Text()
    write = either(member("team", "team_id"), owner("made_by"))


app.stream("mine", carries={Note: "owner_id"}, keys=me)
app.stream("team", carries={Task: "team_id"}, keys=Membership.where(user_id=me).team_id)
app.stream("members", carries={Membership: "user_id"}, keys=me)
app.stream("posts", carries=[Post], keys=everyone)
