"""One database, two adapters: SQLite for the first machine, PostgreSQL for the rest.

A store function is ``async def f(tx, ...)`` and awaits nothing but ``tx``. On PostgreSQL it
suspends as usual. On SQLite ``tx`` answers at once, so a whole function runs in the writer thread
without a hop per statement. The same code, the same tests.

SQL lives beside its component in ``queries.sql``, in the dialect that both share: parameters are
``$1``, ``$2``; upserts are ``ON CONFLICT``; values are BIGINT, TEXT, DOUBLE PRECISION or BYTEA/BLOB.
Where the two must differ, a statement has a ``-- postgres`` variant.

A parameter is ``None``, ``int`` (64 bits), ``float``, ``str`` (without NUL) or ``bytes``, of the type of its
column: PostgreSQL does not convert. A list goes in as JSON text: ``IN (SELECT value FROM json_each($1))``,
and for PostgreSQL ``= ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb)))``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from lowtide.kernel.files import folder_of

T = TypeVar("T")
Dialect = Literal["sqlite", "postgres"]
Row = Sequence[Any]


class Query(msgspec.Struct, frozen=True):
    """One named statement, ready for each dialect."""

    name: str
    sqlite: str
    postgres: str


class Tx(Protocol):
    """An open transaction. Lives only inside the function that received it, one statement at a time.

    A statement that fails fails the whole transaction, even if the function catches the error: use
    ``ON CONFLICT`` where a conflict is expected. Errors are ``NotUnique``, ``Malformed`` (a value that does
    not fit), ``TooLarge``, ``StorageTimeout`` (each statement has a deadline), ``StorageFull``,
    ``StorageLost``, ``Busy`` and, for what only a defect explains, ``StatementFailed``.
    """

    @property
    def dialect(self) -> Dialect: ...

    async def fetch(self, query: Query, *params: Any) -> list[Row]:
        """Every row of ``query``, as sequences in the order of its columns."""
        ...

    async def execute(self, query: Query, *params: Any) -> None:
        """Run ``query`` and forget its rows."""
        ...

    async def execute_many(self, query: Query, rows: Sequence[Sequence[Any]]) -> None:
        """Run ``query`` once for each of ``rows``: far cheaper than a loop, and with a longer deadline."""
        ...

    async def script(self, sql: str) -> None:
        """Run several statements without parameters and without a deadline: migrations only."""
        ...


class Database(Protocol):
    """Where Lowtide keeps what it promised to keep.

    Work must be safe to run again from its beginning, and must not keep results of a first try: on
    SQLite many callers' writes share one fsync, and one that raises has the others redone; on
    PostgreSQL a lost connection or a deadlock does the same.

    A caller that is cancelled stops waiting; work that has begun may be finished all the same.
    """

    @property
    def dialect(self) -> Dialect: ...

    async def start(self) -> None:
        """Open. Raises ``AlreadyRunning``, ``StorageLost``, ``SetupError``."""
        ...

    async def close(self) -> None:
        """Finish what is queued, then close. What is called afterwards raises ``StorageLost``."""
        ...

    async def write(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Run ``work`` in a read-write transaction and return its result once that is durable.

        Whatever ``work`` raises is raised here, and nothing that it wrote stays. Raises ``Busy``
        when the queue is full, and the errors of ``Tx``. After ``StorageLost`` it is not known
        whether the write happened; after every other error it did not.
        """
        ...

    async def read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Run ``work`` in a read-only transaction: every statement sees one snapshot.

        The snapshot holds every ``write`` that has returned. Raises as ``write`` does.
        """
        ...


class Select:
    """A work of one statement, for ``Database.read``, which returns its rows.

    A statement is a snapshot by itself: on PostgreSQL it runs without a transaction around it, in one round
    trip instead of three. It is read-only there too.
    """

    __slots__ = ("params", "query")

    def __init__(self, query: Query, *params: Any):
        self.query = query
        self.params = params

    async def __call__(self, tx: Tx) -> list[Row]:
        return await tx.fetch(self.query, *self.params)


class Queries:
    """The statements of one component, by name: ``QUERIES["insert_job"]``."""

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
    text = (folder_of(package) / file).read_text("utf-8")
    return Queries(parse_queries(text))


def parse_queries(text: str) -> dict[str, Query]:
    """The statements in ``text``.

    ``ValueError`` for a name used twice, text before the first name, or a name without text.
    """
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
            if not name:
                raise ValueError("a variant without a name")
            dialect = "postgres"
            parts[name]["postgres"] = []
        elif bare and not bare.startswith("--"):
            if not name:
                raise ValueError(f"a statement without a name: {bare!r}")
            parts[name][dialect].append(line.strip())
    queries = {}
    for name, by_dialect in parts.items():
        shared = "\n".join(by_dialect["sqlite"])
        postgres = "\n".join(by_dialect.get("postgres", by_dialect["sqlite"]))
        if not shared or not postgres:
            raise ValueError(f"the statement {name!r} has no text")
        queries[name] = Query(name, _numbered(shared), postgres)
    return queries


_PARAMETER = re.compile(r"'(?:[^']|'')*'|\$(?=\d)")


def _numbered(sql: str) -> str:
    # SQLite reads $1 as a *named* parameter; ?1 is its numbered form. Text in quotes stays.
    return _PARAMETER.sub(lambda found: "?" if found[0] == "$" else found[0], sql)
