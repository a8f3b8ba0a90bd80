"""One run: what is asked for, what was found, and where things lie meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.status import Status

from benchmarks.report import number
from benchmarks.rows import Row
from tests.server_process import ServerProcess

APP = Path(__file__).parent / "app.py"


class Server(ServerProcess):
    """``lowtide serve``, as its operator runs it."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class Run:
    """What the measurements of one run share."""

    def __init__(self, console: Console, folder: Path, *, quick: bool):
        self.console = console
        self.folder = folder
        self.quick = quick
        self.rows: list[Row] = []
        self._status: Status | None = None
        self._servers = 0

    @property
    def rounds(self) -> int:
        """How often a thing is measured."""
        return 1 if self.quick else 5

    @property
    def seconds(self) -> float:
        """How long a round of constant load lasts."""
        return 0.7 if self.quick else 1.5

    @property
    def devices(self) -> int:
        """Listeners of the live and reconnecting kind."""
        return 200 if self.quick else 1_000

    @property
    def table_rows(self) -> int:
        """Rows of a first sync."""
        return 10_000 if self.quick else 100_000

    @contextmanager
    def working(self) -> Iterator[None]:
        """Show what is going on, as far as the console can."""
        with self.console.status("") as self._status:
            yield
        self._status = None

    def say(self, text: str) -> None:
        """What is going on now."""
        if self._status is not None and self.console.is_terminal:
            self._status.update(text)
        else:
            self.console.print(f"… {text}", highlight=False)

    def add(self, row: Row) -> None:
        """A row is done."""
        self.rows.append(row)
        value = number(row.value) or "-"
        unit = f"{row.measure} / {row.per}" if row.per else row.measure
        held = (
            ""
            if row.missed_by is None
            else "  ok"
            if row.missed_by <= 0
            else f"  over by {row.missed_by:.0%}"
        )
        self.console.print(
            f"  {row.subject:<16} {row.area}, {row.name}: {value} {unit}{held}", highlight=False
        )

    def server(self, *, postgres: str | None = None, settings: dict[str, str] | None = None) -> Server:
        """A new Lowtide with nothing in it, to be started with ``with``."""
        self._servers += 1
        folder = self.folder / f"lowtide-{self._servers}"
        return Server(folder, APP, "bench", postgres=postgres, settings=settings)
