"""starter: to-do lists that teams share, with and without a network.

Devices keep these models as tables of a local SQLite database. They read and write it with plain
SQL; what follows says who receives which rows, who may write them, and what happens when two
people changed the same thing without knowing of each other.
"""

from lowtide import App, Boolean, Counter, List, Model, Reference, Set, Text, either, me, member, owner

app = App("starter")


# Models ---------------------------------------------------------------------------------------
# A model without a 'write' rule is read-only for devices: closed is the default.


@app.model(unique=[("team_id", "user_id")])
class Membership(Model):
    # A team is named by the user who founded it. Founders add themselves first, then others:
    # nobody else lets people in, and nobody can give their team away. It goes with its founder's account.
    team_id = Text()
    user_id = Text()

    write = owner("team_id")


@app.model
class TodoList(Model):
    team_id = Text()
    title = Text(max_length=200)

    # The founder, and whoever receives the rows of this team (see the stream below), may write them.
    # 'owner' also says whose they are: a guest who founded a team takes it along into an account.
    write = either(owner("team_id"), member("team", "team_id"))


@app.model
class Todo(Model):
    team_id = Text()
    list_id = Reference(TodoList)
    # The later of two concurrent edits wins, and the other is kept in the journal: the default.
    title = Text(max_length=200)
    done = Boolean()
    # Both edits of a longer text are kept, as far as they touch different places.
    notes = Text(merge="text", max_length=10_000, default="")
    # Labels that two people add at once are both there afterwards.
    labels = Set()
    # The order of steps is kept, and what two people put between them.
    steps = List()
    # Votes add up: each device adds to what the others added.
    votes = Counter()

    write = either(owner("team_id"), member("team", "team_id"))


@app.model
class Note(Model):
    # Only its writer has it. A guest's notes go along when they sign in to the account they have.
    user_id = Text()
    text = Text(max_length=1_000)

    write = owner("user_id")


# Streams --------------------------------------------------------------------------------------
# A stream carries rows to devices. 'carries' names the field that holds a row's key, 'keys' says
# which keys a user holds. Who joins a team receives all its rows, and who leaves it loses them.

app.stream(
    "team",
    carries={Membership: "team_id", TodoList: "team_id", Todo: "team_id"},
    keys=Membership.where(user_id=me).team_id,
)
app.stream("mine", carries={Note: "user_id"}, keys=me)
