"""One database, two adapters: SQLite for the first machine, PostgreSQL for the rest.

A store function is ``async def f(tx, ...)`` and awaits nothing but ``tx``. On PostgreSQL it
suspends as usual. On SQLite ``tx`` answers at once, so a whole function runs in the writer thread
without a hop per statement. The same code, the same tests.

SQL lives beside its component in ``queries.sql``, in the dialect that both share: parameters are
``$1``, ``$2``; upserts are ``ON CONFLICT``; values are BIGINT, TEXT, DOUBLE PRECISION or BYTEA/BLOB.
Where the two must differ, a statement has a ``-- postgres`` variant.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any, Literal, Protocol, TypeVar

import msgspec

T = TypeVar("T")
Dialect = Literal["sqlite", "postgres"]
Row = Sequence[Any]


class Query(msgspec.Struct, frozen=True):
    """One named statement, ready for each dialect."""

    name: str
    sqlite: str
    postgres: str


class Tx(Protocol):
    """An open transaction. Lives only inside the function that received it."""

    @property
    def dialect(self) -> Dialect: ...

    async def fetch(self, query: Query, *params: Any) -> list[Row]:
        """Every row of ``query``, as sequences in the order of its columns."""
        ...

    async def execute(self, query: Query, *params: Any) -> None:
        """Run ``query`` and forget its rows."""
        ...

    async def execute_many(self, query: Query, rows: Sequence[Sequence[Any]]) -> None:
        """Run ``query`` once for each of ``rows``; far cheaper than a loop."""
        ...

    async def script(self, sql: str) -> None:
        """Run several statements without parameters: migrations only."""
        ...


class Database(Protocol):
    """Where Lowtide keeps what it promised to keep.

    ``write`` has group commit on SQLite: many callers' work may share one fsync. The work must
    therefore be safe to run again from its beginning (a neighbour that fails rolls the group back,
    and each is then redone alone); it must not keep results of a first try.
    """

    @property
    def dialect(self) -> Dialect: ...

    async def start(self) -> None:
        """Open. Raises ``AlreadyRunning``, ``StorageLost``."""
        ...

    async def close(self) -> None:
        """Finish what is queued, then close. Nothing may be called afterwards."""
        ...

    async def write(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Run ``work`` in a read-write transaction and return its result once that is durable.

        Whatever ``work`` raises is raised here, and nothing that it wrote stays. Raises ``Busy``
        when the queue is full, ``StorageFull``, ``StorageLost``, ``StorageTimeout``.
        """
        ...

    async def read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Run ``work`` in a read-only transaction: every statement sees one snapshot.

        The snapshot holds every ``write`` that has returned. Raises as ``write`` does.
        """
        ...


class Queries:
    """The statements of one component, by name: ``queries["insert_job"]``."""

    def __init__(self, queries: dict[str, Query]):
        self._queries = queries

    def __getitem__(self, name: str) -> Query:
        return self._queries[name]

    def names(self) -> list[str]:
        """Every statement's name, in the order of the file."""
        return list(self._queries)


def load_queries(package: str, file: str = "queries.sql") -> Queries:
    """Read a component's ``queries.sql``.

    ``-- name: x`` starts a statement for both dialects; ``-- postgres`` inside it starts the text
    that replaces it there. Other lines that start with ``--`` are comments.
    """
    text = resources.files(package).joinpath(file).read_text("utf-8")
    return Queries(parse_queries(text))


def parse_queries(text: str) -> dict[str, Query]:
    """The statements in ``text``; ``ValueError`` for a name used twice or text before the first."""
    parts: dict[str, dict[str, list[str]]] = {}
    name, dialect = "", "sqlite"
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("-- name:"):
            name, dialect = bare.removeprefix("-- name:").strip(), "sqlite"
            if name in parts:
                raise ValueError(f"two statements are named {name!r}")
            parts[name] = {"sqlite": []}
        elif bare == "-- postgres":
            dialect = "postgres"
            parts[name]["postgres"] = []
        elif bare and not bare.startswith("--"):
            if not name:
                raise ValueError(f"a statement without a name: {bare!r}")
            parts[name][dialect].append(line.strip())
    queries = {}
    for name, by_dialect in parts.items():
        shared = " ".join(by_dialect["sqlite"])
        postgres = " ".join(by_dialect.get("postgres", by_dialect["sqlite"]))
        queries[name] = Query(name, _numbered(shared), postgres)
    return queries


def _numbered(sql: str) -> str:
    # SQLite reads $1 as a *named* parameter; ?1 is its numbered form.
    out, i = [], 0
    while i < len(sql):
        if sql[i] == "$" and sql[i + 1 : i + 2].isdigit():
            out.append("?")
        else:
            out.append(sql[i])
        i += 1
    return "".join(out)
