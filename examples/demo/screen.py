"""What the demonstration shows while it runs: a live table, or lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from examples.demo.network import Network
from examples.demo.people import Person

PLACES = {
    "fine": ("at home", "green"),
    "train": ("on the train", "yellow"),
    "basement": ("in the basement", "magenta"),
    "plane": ("on a plane", "red"),
}


class Screen:
    """Shows the phones. A context manager."""

    def __init__(self, people: Sequence[Person], networks: Mapping[str, Network], console: Console):
        self._people = people
        self._networks = networks
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown = -10.0

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, seconds: float, total: float) -> None:
        """The state now."""
        if self._live is not None:
            self._live.update(self._picture(seconds, total), refresh=True)
        elif seconds - self._shown >= 3:
            self._shown = seconds
            states = "; ".join(
                f"{p.name} {PLACES[self._networks[p.name].quality][0]}, {self._queued(p)} queued"
                for p in self._people
            )
            self._console.print(f"{seconds:4.0f} s  {states}", soft_wrap=True)

    def _picture(self, seconds: float, total: float) -> RenderableType:
        table = Table(expand=True, box=None, padding=(0, 1))
        for title in ("phone", "where", "stream", "queued", "sent", "merged", "refused", "cuts", "last edit"):
            table.add_column(title, justify="left" if title in ("phone", "where", "last edit") else "right")
        for person in self._people:
            place, colour = PLACES[self._networks[person.name].quality]
            results = person.session.results.values()
            online = person.session.online
            table.add_row(
                Text(person.name, style="bold"),
                Text(place, style=colour),
                Text("live" if online else "offline", style="green" if online else "red"),
                str(self._queued(person)),
                str(len(results)),
                str(sum(1 for r in results if r["status"] == "merged")),
                str(sum(1 for r in results if r["status"] == "refused")),
                str(self._networks[person.name].cuts),
                person.last,
            )
        lists = Table(expand=True, box=None, padding=(0, 1))
        lists.add_column("packing list")
        for person in self._people:
            lists.add_column(f"on {person.name}'s phone")
        rows = [person.session.phone.rows("item") for person in self._people]
        for id in sorted(set().union(*rows)):
            cells = [_cell(held.get(id)) for held in rows]
            same = len(set(cells)) == 1
            lists.add_row(id, *(Text(cell, style="green" if same else "yellow") for cell in cells))
        left = max(0.0, total - seconds)
        head = "everybody is home: waiting for the phones to agree" if left == 0 else f"{left:.0f} s to go"
        return Panel(Group(table, Text(), lists), title=f"three phones, one list · {head}")

    def _queued(self, person: Person) -> int:
        return person.session.phone.queued()


def _cell(item: Mapping[str, object] | None) -> str:
    if item is None:
        return "-"
    mark = "✓" if item["packed"] else " "
    return f"{mark} {item['title']} ♥{item['votes']}"
