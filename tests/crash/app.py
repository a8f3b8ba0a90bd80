"""The app that is crashed. Everybody receives and writes everything, so that any device can be the judge."""

from __future__ import annotations

from typing import Any

from lowtide import App, Counter, Integer, List, Model, Refused, Set, Text, anyone, everyone

app = App("crash")


@app.model
class Mark(Model):
    """One transaction of one writer: there, if the transaction was applied."""

    writer = Text()
    number = Integer()
    write = anyone


@app.model
class Half(Model):
    """Two are written in one transaction: nobody may see one without the other."""

    mark = Text()
    write = anyone


@app.model
class Tally(Model):
    """Counts what was applied: applied twice is counted twice."""

    total = Counter()
    bag = Set()
    line = List()
    write = anyone


@app.model
class Word(Model):
    """Bad ones are refused, and what is in the same transaction with them."""

    text = Text()
    write = anyone

    @staticmethod
    def before_write(me: Any, before: Any, after: Any) -> None:
        if after is not None and after.text.startswith("bad"):
            raise Refused("No bad words.", code="bad_word")


app.stream("all", carries=[Mark, Half, Tally, Word], keys=everyone)
