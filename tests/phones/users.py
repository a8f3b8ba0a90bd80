"""What people do with their phones: random local transactions, made from what the phone shows.

Every value is unique in a run, so that the checker can follow each. Most of it is sensible; some of
it breaks a rule on purpose, to be refused.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
import pycrdt

from lowtide.kernel.schema import Kind, Schema
from lowtide.sync.system import with_system
from tests.phones.app import MAX_TITLE, STATES
from tests.phones.checker import Holder
from tests.phones.conservation import TOKEN
from tests.phones.phone import Scalar, Tables

Statement = tuple[str, Sequence[Scalar]]
TEAMS = ("red", "blue")
TOPICS = ("tides", "boats")
_SQL: dict[Kind, str] = {"integer": "INTEGER", "boolean": "INTEGER", "number": "REAL"}


OLD_VERSION = frozenset({("task", "place"), ("task", "least"), ("note", "colour")})
"""(model, field) that the first version of the app does not know yet."""


def older(schema: Schema) -> Schema:
    """The schema of the app's first version."""
    models = {
        name: msgspec.structs.replace(
            model, fields={f: field for f, field in model.fields.items() if (name, f) not in OLD_VERSION}
        )
        for name, model in schema.models.items()
    }
    return msgspec.structs.replace(schema, models=models)


def tables_of(schema: Schema) -> Tables:
    """The tables of an app version. ``phantom`` is a model of some other server."""
    tables = {
        model.name: {
            field.name: _SQL.get(field.kind, "TEXT") if field.merge not in ("set", "list") else "TEXT"
            for field in model.fields.values()
        }
        for model in with_system(schema).models.values()
    }
    return {**tables, "phantom": {"body": "TEXT"}}


class Users:
    """Makes local transactions. ``fresh`` gives a name that was never given before."""

    def __init__(self, random: Random):
        self._random = random
        self._count = 0
        self._twins: set[str] = set()
        self._actions: list[tuple[int, Callable[[Holder], list[Statement]]]] = [
            (3, self._new_task),
            (10, self._edit_task),
            (4, self._write_note),
            (3, self._write_card),
            (3, self._pair),
            (5, self._raise_twins),
            (2, self._echo),
            (3, self._draft),
            (2, self._handle),
            (1, self._article),
            (2, self._minute),
            (1, self._dismiss),
            (2, self._command),
            (1, self._break_a_rule),
            (1, self._move_task),
        ]
        self._weights = [weight for weight, _ in self._actions]

    def fresh(self) -> str:
        self._count += 1
        return f"{self._count:x}"

    def token(self) -> str:
        return f"t{self.fresh()}t"

    def act(self, holder: Holder) -> list[str]:
        """Write one local transaction of one to three acts; what was done, in words."""
        done = []
        with holder.phone.transaction() as database:
            for _ in range(self._random.choice((1, 1, 1, 2, 3))):
                act = self._random.choices(self._actions, self._weights)[0][1]
                for sql, parameters in act(holder):
                    database.execute(sql, parameters)
                done.append(act.__name__.strip("_"))
        return done

    # -- choosing ------------------------------------------------------------------------------------

    def _row(self, holder: Holder, table: str) -> tuple[str, dict[str, Any]] | None:
        rows = sorted(holder.phone.rows(table).items())
        if not rows:
            return None
        # Some are more popular than others, so that people meet in them.
        return rows[min(self._random.randrange(len(rows)), self._random.randrange(len(rows)))]

    def _team(self, holder: Holder) -> str:
        teams = sorted({row["team_id"] for row in holder.phone.rows("membership").values()})
        return str(self._random.choice(teams)) if teams else self._random.choice(TEAMS)

    # -- acting --------------------------------------------------------------------------------------

    def _new_task(self, holder: Holder) -> list[Statement]:
        if len(holder.phone.rows("task")) > 3 and self._random.random() < 0.8:
            return self._edit_task(holder)  # few tasks, so that people meet in them
        values: dict[str, Scalar] = {"team_id": self._team(holder), "title": self.token()}
        if self._random.random() < 0.5:
            values |= {"votes": self._random.randint(0, 3), "tags": f'["{self.fresh()}"]'}
        return [holder.phone.insert("task", f"task{self.fresh()}", **values)]

    def _edit_task(self, holder: Holder) -> list[Statement]:
        found = self._row(holder, "task")
        if found is None:
            return self._new_task(holder)
        id, task = found
        values: dict[str, Scalar] = {}
        for _ in range(self._random.choice((1, 1, 2, 4))):
            values |= self._random.choice(
                (
                    self._title,
                    self._title,
                    self._remark,
                    self._remark,
                    self._minutes,
                    self._votes,
                    self._votes,
                    self._tags,
                    self._steps,
                    self._numbers,
                    self._state,
                )
            )({**task, **values})
        known = holder.phone.tables["task"]
        values = {name: value for name, value in values.items() if name in known}
        return [holder.phone.update("task", id, **values)] if values else []

    def _title(self, task: dict[str, Any]) -> dict[str, Scalar]:
        if self._random.random() < 0.3:
            return {"place": msgspec.json.encode({"at": self.token()}).decode()}
        return {"title": self.token()}

    def _remark(self, task: dict[str, Any]) -> dict[str, Scalar]:
        words = (task["remark"] or "").split(" ")
        words.insert(self._random.randint(0, len(words)), self.token())
        return {"remark": " ".join(word for word in words if word)}

    def _minutes(self, task: dict[str, Any]) -> dict[str, Scalar]:
        # The replica's number would be random; a seed must give the same bytes.
        document: pycrdt.Doc[Any] = pycrdt.Doc(client_id=self._random.getrandbits(31))
        text = document.get("minutes", type=pycrdt.Text)
        if task.get("minutes"):
            document.apply_update(base64.b64decode(task["minutes"]))
        ends = [0, *(match.end() for match in TOKEN.finditer(str(text)))]
        text.insert(self._random.choice(ends), f" {self.token()} ")
        return {"minutes": base64.b64encode(document.get_update()).decode()}

    def _votes(self, task: dict[str, Any]) -> dict[str, Scalar]:
        return {"votes": (task["votes"] or 0) + self._random.choice((1, 1, 1, 2, 5, -1, -3))}

    def _tags(self, task: dict[str, Any]) -> dict[str, Scalar]:
        return {"tags": self._array(task["tags"])}

    def _steps(self, task: dict[str, Any]) -> dict[str, Scalar]:
        return {"steps": self._array(task["steps"])}

    def _array(self, text: str | None) -> str:
        items = msgspec.json.decode(text) if text else []
        if not isinstance(items, list):
            items = []  # this phone has broken it, and will hear of that
        if items and self._random.random() < 0.3:
            items.remove(self._random.choice(items))
        else:
            items.insert(self._random.randint(0, len(items)), self.fresh())
        return msgspec.json.encode(items).decode()

    def _numbers(self, task: dict[str, Any]) -> dict[str, Scalar]:
        name = self._random.choice(("best", "least", "opener"))
        if name == "opener":
            return {"opener": self.token()} if task.get("opener") is None else {}
        return {name: self._random.randint(-1000, 1000)}

    def _state(self, task: dict[str, Any]) -> dict[str, Scalar]:
        return {"state": f"{self._random.choice(STATES)} {self.token()}"}

    def _move_task(self, holder: Holder) -> list[Statement]:
        found = self._row(holder, "task")
        return [] if found is None else [holder.phone.update("task", found[0], team_id=self._team(holder))]

    def _write_note(self, holder: Holder) -> list[Statement]:
        fields = sorted({"body", "colour"} & holder.phone.tables["note"].keys())
        return self._sheet(holder, "note", self._random.choice(fields))

    def _write_card(self, holder: Holder) -> list[Statement]:
        return self._sheet(holder, "card", "body")

    def _sheet(self, holder: Holder, table: str, field: str) -> list[Statement]:
        found, dice = self._row(holder, table), self._random.random()
        if found is None or dice < 0.2:
            values = {"team_id": self._team(holder), field: self.token()}
            return [holder.phone.insert(table, f"{table}{self.fresh()}", **values)]
        if dice < 0.5:
            return [holder.phone.delete(table, found[0])]
        return [holder.phone.update(table, found[0], **{field: self.token()})]

    def _pair(self, holder: Holder) -> list[Statement]:
        found = self._row(holder, "half")
        if found is not None and self._random.random() < 0.4:
            pair = found[1]["pair"]
            return [holder.phone.delete("half", f"{pair}:{side}") for side in "ab"]
        pair, team = f"pair{self.fresh()}", self._team(holder)
        return [holder.phone.insert("half", f"{pair}:{side}", team_id=team, pair=pair) for side in "ab"]

    def _raise_twins(self, holder: Holder) -> list[Statement]:
        phone, team = holder.phone, self._team(holder)
        device = f"{phone.client_id}.{holder.life}@{team}"
        own = phone.rows("twin").get(f"{device}:a")
        if own is None and device not in self._twins:
            self._twins.add(device)
            twin: dict[str, Scalar] = {"team_id": team, "device": device, "version": 1}
            return [phone.insert("twin", f"{device}:{side}", **twin) for side in "ab"]
        if own is None:
            return []  # they are on the server, but this phone may not see them now
        version = own["version"] + 1
        return [phone.update("twin", f"{device}:{side}", version=version) for side in "ab"]

    def _echo(self, holder: Holder) -> list[Statement]:
        # Its own may be refused later; what others wrote has been accepted.
        twins = sorted(holder.phone.rows("twin").items())
        seen = {id: twin["version"] for id, twin in twins if not id.startswith(holder.phone.client_id)}
        text = msgspec.json.encode(seen).decode()
        return [holder.phone.insert("echo", f"echo{self.fresh()}", team_id=self._team(holder), seen=text)]

    def _draft(self, holder: Holder) -> list[Statement]:
        found, dice = self._row(holder, "draft"), self._random.random()
        if found is None or dice < 0.4:
            values = {"owner_id": holder.user, "body": self.token()}
            return [holder.phone.insert("draft", f"draft{self.fresh()}", **values)]
        if dice < 0.6:
            return [holder.phone.delete("draft", found[0])]
        return [holder.phone.update("draft", found[0], body=self.token())]

    def _handle(self, holder: Holder) -> list[Statement]:
        # Few names, many phones: most collisions are found out later, by the server.
        name = f"name{self._random.randint(1, 6)}"
        found = self._row(holder, "handle")
        if found is not None and self._random.random() < 0.5:
            return [holder.phone.update("handle", found[0], name=name)]
        return [holder.phone.insert("handle", f"handle{self.fresh()}", name=name)]

    def _article(self, holder: Holder) -> list[Statement]:
        values = {"topic": self._random.choice(TOPICS), "body": self.token()}
        return [holder.phone.insert("article", f"article{self.fresh()}", **values)]

    def _minute(self, holder: Holder) -> list[Statement]:
        values = {"team_id": self._team(holder), "body": self.token()}
        return [holder.phone.insert("minute", f"minute{self.fresh()}", **values)]

    def _command(self, holder: Holder) -> list[Statement]:
        name = f"rude{self.token()}" if self._random.random() < 0.2 else self.token()
        args = msgspec.json.encode({"name": name}).decode()
        return [
            holder.phone.insert("lowtide_commands", f"command{self.fresh()}", name="found_city", args=args)
        ]

    def _dismiss(self, holder: Holder) -> list[Statement]:
        found = self._row(holder, "lowtide_rejections")
        return [] if found is None else [holder.phone.delete("lowtide_rejections", found[0])]

    def _break_a_rule(self, holder: Holder) -> list[Statement]:
        phone, id = holder.phone, f"bad{self.fresh()}"
        task = self._row(holder, "task")
        wrong: list[Statement] = [
            phone.insert("task", id, team_id="strangers", title=self.token()),
            phone.insert("task", id, team_id=self._team(holder), title=self.token() + "x" * MAX_TITLE),
            phone.insert("task", id, title=self.token()),
            phone.insert("draft", id, owner_id="somebody else", body=self.token()),
            phone.insert("city", id, name=self.token()),
            phone.insert("membership", id, user_id=holder.user, team_id="strangers"),
            phone.insert("handle", id, name=f"rude{self.token()}"),
            phone.insert("phantom", id, body=self.token()),
        ]
        if task is not None:
            wrong.append(phone.update("task", task[0], approved=1))
            wrong.append(phone.update("task", task[0], tags='{"not": "an array"}'))
            wrong.append(phone.update("task", task[0], votes="many"))
        return [self._random.choice(wrong)]
