"""starter: to-do lists that teams share, with and without a network.

Devices keep these models as tables of a local SQLite database. They read and write it with plain
SQL; what follows says who receives which rows, who may write them, and what happens when two
people changed the same thing without knowing of each other.
"""

from lowtide import App, Boolean, Counter, Reference, Set, Text, me, member, owner

app = App("starter")


# Models ---------------------------------------------------------------------------------------
# A model without a 'write' rule is read-only for devices: closed is the default.


@app.model
class Team:
    name = Text(max_length=100)
    owner_id = Text()

    # Whoever is in 'owner_id' may write the team, and nobody can give it away.
    write = owner("owner_id")


@app.model(unique=[("team_id", "user_id")])
class Membership:
    team_id = Reference(Team)
    user_id = Text()

    # Only the owner of a team lets people in and out (see the stream 'owned').
    write = member("owned", "team_id")


@app.model
class TodoList:
    team_id = Reference(Team)
    title = Text(max_length=200)

    write = member("team", "team_id")


@app.model
class Todo:
    team_id = Reference(Team)
    list_id = Reference(TodoList)
    # The later of two concurrent edits wins, and the other is kept in the journal: the default.
    title = Text(max_length=200)
    done = Boolean()
    # Both edits of a longer text are kept, as far as they touch different places.
    notes = Text(merge="text", max_length=10_000, optional=True)
    # Labels that two people add at once are both there afterwards.
    labels = Set()
    # So are votes: each device adds to what the others added.
    votes = Counter()

    write = member("team", "team_id")


# Streams --------------------------------------------------------------------------------------
# A stream carries rows to devices. 'carries' names the field whose value is a row's key, 'keys'
# says which keys a user holds. Who joins a team receives its rows; who leaves loses them.

app.stream("mine", carries={Team: "owner_id"}, keys=me)
app.stream("owned", carries={Membership: "team_id"}, keys=Team.where(owner_id=me).id)
app.stream(
    "team",
    carries={Team: "id", Membership: "team_id", TodoList: "team_id", Todo: "team_id"},
    keys=Membership.where(user_id=me).team_id,
)
