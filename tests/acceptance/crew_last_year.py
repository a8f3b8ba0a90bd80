"""crew as it was a year ago: a field had another name, one is gone since, and some were not there yet."""

from __future__ import annotations

from lowtide import App, Counter, Model, Text, me, member

app = App("crew")


@app.model
class Membership(Model):
    """Who is in which team; only the server lets people in."""

    user_id = Text()
    team_id = Text()


@app.model
class Task(Model):
    """What there was to a task."""

    team_id = Text()
    title = Text(max_length=80)
    remark = Text(merge="text", default="")
    votes = Counter()
    colour = Text(default="grey")
    write = member("team", "team_id")


teams = Membership.where(user_id=me).team_id
app.stream("membership", carries={Membership: "user_id"}, keys=me, priority=1)
app.stream("team", carries={Task: "team_id"}, keys=teams, priority=2)
