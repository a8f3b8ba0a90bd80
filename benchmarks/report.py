"""The table, for people on a terminal and in Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.rows import LOWTIDE, Row, same

COLUMNS = ("work", "measured", "Lowtide", "±", "a second", "wall", "budget", "holds")


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print every row."""
    peers = _peers(rows)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (*COLUMNS, *peers):
        left = column in ("work", "measured", "holds")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    area = ""
    for line in _lines(rows, peers):
        if line[0] != area:
            area = line[0]
            table.add_row(f"[bold]{area}[/bold]")
        style = "green" if line[8] == "yes" else "red" if line[8] else None
        cells = [f"  {line[1]}", *line[2:8], f"[{style}]{line[8]}[/{style}]" if style else "", *line[9:]]
        table.add_row(*cells)
    console.print(table)
    for note in notes(rows):
        console.print(f"  {note}", style="dim", highlight=False)


def markdown(rows: Sequence[Row]) -> str:
    """The same table for a page."""
    peers = _peers(rows)
    head = [*COLUMNS, *peers]
    out = [f"| {' | '.join(head)} |", f"|{'|'.join('---' for _ in head)}|"]
    area = ""
    for line in _lines(rows, peers):
        if line[0] != area:
            area = line[0]
            out.append(f"| **{area}** |{' |' * (len(head) - 1)}")
        out.append(f"| {' | '.join(line[1:])} |")
    return "\n".join([*out, "", *(f"- {note}" for note in notes(rows))]) + "\n"


def notes(rows: Sequence[Row]) -> list[str]:
    """What the numbers need to be understood."""
    return [f"{row.area}, {row.name} ({row.subject}): {row.note}" for row in rows if row.note]


def _peers(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.subject for row in rows if row.subject != LOWTIDE))


def _lines(rows: Sequence[Row], peers: Sequence[str]) -> list[list[str]]:
    """(area, then a cell for each column): a line for each work that anybody did."""
    works: list[Row] = []
    for row in rows:
        if not any(same(row, work) for work in works):
            works.append(row)
    lines = []
    for work in works:
        own = next((row for row in rows if row.subject == LOWTIDE and same(row, work)), None)
        missed = None if own is None else own.missed_by
        holds = "" if missed is None else "yes" if missed <= 0 else f"missed by {missed:.0%}"
        cells = [work.area, work.name, f"{work.measure} / {work.per}" if work.per else work.measure]
        if own is None:
            cells += [""] * 6
        else:
            cells += [
                number(own.value),
                "" if own.spread is None else f"{own.spread:.0%}",
                number(own.per_core),
                number(own.wall_rate),
                "" if own.limit is None else f"≤ {number(own.limit)}",
                holds,
            ]
        for peer in peers:
            figure = next((row for row in rows if row.subject == peer and same(row, work)), None)
            cells.append("" if figure is None else number(figure.value) or "-")
        lines.append(cells)
    return lines


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return ""
    if value >= 1000:
        return f"{round(value, 2 - len(str(int(value))) + 1):,.0f}"
    return f"{value:.3g}"
