"""The demonstration's app: a packing list that a team shares."""

from lowtide import App, Boolean, Counter, Model, Set, Text, me, member, nobody

app = App("packing")


@app.model
class Membership(Model):
    """Who travels with whom; only the server decides."""

    user_id = Text()
    team_id = Text()
    write = nobody


@app.model(on_delete="revive")
class Item(Model):
    """One thing to pack."""

    team_id = Text()
    title = Text(max_length=24)
    votes = Counter()
    labels = Set()
    notes = Text(merge="text", default="", max_length=2_000)
    packed = Boolean()
    write = member("team", "team_id")


app.stream(
    "team",
    carries={Membership: "team_id", Item: "team_id"},
    keys=Membership.where(user_id=me).team_id,
)


@app.function
async def found_team(ctx, team: str, users: list[str]) -> int:  # type: ignore[no-untyped-def]
    """Put users into a team. An app would look first whether ``ctx.me.user`` may."""
    for user in users:
        ctx.create(Membership, f"{team}-{user}", team_id=team, user_id=user)
    return len(users)
