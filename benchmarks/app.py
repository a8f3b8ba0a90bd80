"""The app that is measured: a team's tasks, private drafts, and a table that everybody holds."""

from lowtide import App, Boolean, Counter, Integer, Number, Text, everyone, me, member, owner

app = App("bench")


@app.model
class Membership:
    """Who is in which team; only the server says."""

    user_id = Text()
    team_id = Text()


@app.model
class Task:
    """What a team shares."""

    team_id = Text()
    title = Text(max_length=200)
    notes = Text(default="")
    votes = Counter()
    done = Boolean()
    write = member("team", "team_id")


@app.model
class Draft:
    """What a user keeps to herself."""

    owner_id = Text()
    body = Text()
    write = owner("owner_id")


@app.model
class City:
    """Real data."""

    name = Text()
    country = Text()
    region = Text()
    latitude = Number()
    longitude = Number()
    population = Integer()
    timezone = Text()
    names = Text()


teams = Membership.where(user_id=me).team_id  # type: ignore[attr-defined]
app.stream("team", carries={Task: "team_id"}, keys=teams)
app.stream("mine", carries={Draft: "owner_id"}, keys=me)
app.stream("cities", carries=[City], keys=everyone)
