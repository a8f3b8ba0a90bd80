"""One phone: a real client core in its own database, driven step by step.

A phone does no network I/O and has no timers. Whoever drives it carries ``start``'s body to the
server, feeds lines back, and carries uploads and checkpoint requests both ways; what the SDKs do
between the core and the network is done here in the same order as they do it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import apsw
import msgspec

from tests.phones import connector
from tests.phones.connector import Connector, Upload, Verdict
from tests.phones.core import open_core

Tables = Mapping[str, Mapping[str, str]]
"""Table -> column -> TEXT, INTEGER or REAL: the schema in the app's binary."""

Row = dict[str, Any]
Scalar = str | int | float | None
MAX_OP = 2**63 - 1
"""The core's target while uploads have no checkpoint of their own yet."""


class Applied(msgspec.Struct, frozen=True):
    """A whole checkpoint became visible; ``head`` is its op, 0 when the device holds no bucket."""

    head: int


class TokenWanted(msgspec.Struct, frozen=True):
    """The core asks for new credentials."""

    expired: bool


class Closed(msgspec.Struct, frozen=True):
    """The core wants the stream ended; with ``at_once``, opened again without a pause."""

    at_once: bool


class Mismatch(msgspec.Struct, frozen=True):
    """A checksum did not match: the core throws the bucket away. A correct server never causes it."""

    line: str


Event = Applied | TokenWanted | Closed | Mismatch


class CheckpointAsk(msgspec.Struct, frozen=True):
    """A request for the checkpoint that will hold what was uploaded."""

    method: Literal["GET", "POST"]
    path: str
    body: bytes | None
    sequence: int
    """The queue's counter when it was asked for: a later local write makes the answer worthless."""


class Phone:
    """One device. ``path`` may be ``:memory:``; then ``kill`` still keeps what was committed."""

    def __init__(
        self,
        name: str,
        tables: Tables,
        *,
        now: Callable[[], int],
        token: Callable[[], str],
        path: str = ":memory:",
        requests: bool = False,
        old_only_changed: bool = True,
        max_mutations: int = connector.MAX_MUTATIONS,
        max_bytes: int = connector.MAX_BYTES,
    ):
        """``now`` is this device's clock in ms, ``token`` gives random names: of databases, of lineages.

        ``requests`` asks for checkpoints in the newer of the SDKs' two ways.
        ``old_only_changed`` keeps the replaced values of changed columns only, as an app should.
        """
        self.name = name
        self.now = now
        self.requests = requests
        self.parameters: dict[str, Any] = {}
        self.subscriptions: list[dict[str, Any]] = []
        """The streams that the running app asks for by name."""
        self.connected = False
        """A sync iteration is open in the core."""
        self.tables = tables
        self._token = token
        self._path = path
        self._old_only_changed = old_only_changed
        self._limits = (max_mutations, max_bytes)
        self._seeded = False
        self._open(None)

    # -- life ------------------------------------------------------------------------------------

    def _open(self, content: bytes | None) -> None:
        schema = self._schema()
        fresh = content is None and self._path == ":memory:"
        self.database = open_core(self._path, _installed(schema) if fresh else content)
        self.database.create_scalar_function("lowtide_now", lambda *_: self.now(), 0)
        self.connected = self._seeded = False
        self.subscriptions = []
        if not fresh:
            fresh = not self._ask("SELECT count(*) FROM sqlite_master WHERE name = 'lowtide_upload'")
            _install(self.database, schema)
        if fresh:
            # The core names a new database at random; a seed must give the same name.
            self.write(("UPDATE ps_kv SET value = ? WHERE key = 'client_id'", (self._token(),)))
        self._connector = Connector(
            self.database,
            now=self.now,
            lineage=self._token,
            max_mutations=self._limits[0],
            max_bytes=self._limits[1],
        )

    def _schema(self) -> str:
        tables = [
            {
                "name": table,
                "columns": [{"name": column, "type": kind} for column, kind in columns.items()],
                "include_old": True,
                "include_old_only_when_changed": self._old_only_changed,
                "include_metadata": True,
            }
            for table, columns in self.tables.items()
        ]
        return _json({"tables": tables})

    def kill(self) -> None:
        """End the process without a goodbye and start the app again: only what was committed is left."""
        content = self.backup() if self._path == ":memory:" else None
        self.database.close(True)
        self._open(content)

    def close(self) -> None:
        """Close the database."""
        self.database.close(True)

    def backup(self) -> bytes:
        """The database as bytes, as a phone's backup to the cloud would hold it."""
        return self.database.serialize("main")

    def restore(self, content: bytes) -> None:
        """Set the phone up from a backup, its own or another's. In-memory phones only."""
        self.database.close(True)
        self._open(content)

    def reinstall(self) -> None:
        """Delete the app with its data, and install it anew. In-memory phones only."""
        self.database.close(True)
        self._open(None)

    def sign_out(self) -> None:
        """Forget the user's rows and the upload queue, as the SDKs' ``disconnectAndClear`` does."""
        self.stop()
        self._ask("SELECT powersync_clear(0)")

    def upgrade(self, tables: Tables, requests: bool) -> None:
        """Install an app version with another schema and perhaps a newer SDK; the process starts again."""
        self.tables = tables
        self.requests = self.requests or requests
        self.kill()

    @property
    def client_id(self) -> str:
        """What the core calls this database."""
        return str(self._ask("SELECT powersync_client_id()"))

    # -- local reads and writes ------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """One local write transaction; it is uploaded as one."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield self.database
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def write(self, *statements: tuple[str, Sequence[Scalar]]) -> None:
        """Run statements in one local transaction."""
        with self.transaction() as database:
            for sql, parameters in statements:
                database.execute(sql, parameters)

    def insert(self, table: str, id: str, **values: Scalar) -> tuple[str, list[Scalar]]:
        """The statement that inserts a row, for ``write``."""
        columns = ", ".join(f'"{column}"' for column in ("id", *values))
        marks = ", ".join("?" * (len(values) + 1))
        return f'INSERT INTO "{table}" ({columns}) VALUES ({marks})', [id, *values.values()]

    def update(self, table: str, id: str, **values: Scalar) -> tuple[str, list[Scalar]]:
        """The statement that updates a row, for ``write``."""
        columns = ", ".join(f'"{column}" = ?' for column in values)
        return f'UPDATE "{table}" SET {columns} WHERE id = ?', [*values.values(), id]

    def delete(self, table: str, id: str) -> tuple[str, list[Scalar]]:
        """The statement that deletes a row, for ``write``."""
        return f'DELETE FROM "{table}" WHERE id = ?', [id]

    def rows(self, table: str) -> dict[str, Row]:
        """Every row that the app sees, by id."""
        columns = list(self.tables[table])
        named = ", ".join(f'"{column}"' for column in columns)
        return {
            str(row[0]): dict(zip(columns, row[1:], strict=True))
            for row in self.database.execute(f'SELECT id, {named} FROM "{table}"')
        }

    def stored(self, table: str) -> dict[str, str]:
        """Every row's bytes as the core keeps them, by id."""
        rows = self.database.execute(f'SELECT id, data FROM "ps_data__{table}"')
        return {str(id): str(data) for id, data in rows}

    def buckets(self) -> list[str]:
        """The names of the buckets that the device holds."""
        rows = self.database.execute("SELECT name FROM ps_buckets WHERE pending_delete = 0 ORDER BY name")
        return [str(name) for (name,) in rows if name != "$local"]

    def newest(self) -> dict[str, int]:
        """The latest op that it has of each bucket that holds a row, shown yet or not."""
        rows = self.database.execute(
            "SELECT b.name, max(o.op_id) FROM ps_oplog o JOIN ps_buckets b ON b.id = o.bucket GROUP BY b.id"
        )
        return {str(name): int(op) for name, op in rows if name != "$local"}

    def queued(self) -> int:
        """Local changes that have not been acknowledged."""
        return int(self._ask("SELECT count(*) FROM ps_crud"))

    # -- download --------------------------------------------------------------------------------

    def start(self) -> dict[str, Any]:
        """Open a sync iteration; the body to post to ``/sync/stream``. Seeding, if asked for: ``seed``."""
        self.stop()
        self._seeded = False
        self._seed: bytes | None = None
        options = {
            "parameters": self.parameters,
            "active_streams": self.subscriptions,
            "include_defaults": True,
            "checkpoint_mode": "requests" if self.requests else "legacy",
        }
        body: dict[str, Any] | None = None
        for instruction in self._control("start", _json(options)):
            if "EstablishSyncStream" in instruction:
                body = instruction["EstablishSyncStream"]["request"]
                seed = instruction["EstablishSyncStream"].get("checkpoint_request")
                self._seed = None if seed is None else msgspec.json.encode(seed)
        assert body is not None
        self.connected = True
        return body

    def established(self) -> list[Event]:
        """The server has answered the stream's request with 200."""
        return self._events("connection", "established")

    def receive(self, line: str | bytes) -> list[Event]:
        """One line of the stream: JSON text, or one BSON document.

        An iteration that the core cannot go on with ends with ``Closed``.
        """
        if not self.connected:
            return []
        try:
            return self._events("line_text" if isinstance(line, str) else "line_binary", line)
        except apsw.Error:
            # What the SDKs do with any error of an iteration: end it, and connect again after a pause.
            self.stop()
            return [Closed(False)]

    def ended(self) -> list[Event]:
        """The server has ended the stream."""
        return self._events("connection", "end") if self.connected else []

    def token_refreshed(self) -> list[Event]:
        """New credentials are there."""
        return self._events("refreshed_token", None) if self.connected else []

    def subscribe(self, stream: str, parameters: dict[str, Any] | None = None) -> list[Event]:
        """Ask for a stream by name, from now on."""
        wanted = {"name": stream, "params": parameters}
        self._subscriptions("subscribe", {"stream": wanted, "ttl": None, "priority": None})
        if wanted not in self.subscriptions:
            self.subscriptions.append(wanted)
        return self._subscribed()

    def unsubscribe(self, stream: str, parameters: dict[str, Any] | None = None) -> list[Event]:
        """Ask for it no longer."""
        wanted = {"name": stream, "params": parameters}
        self._subscriptions("unsubscribe", wanted)
        self.subscriptions = [asked for asked in self.subscriptions if asked != wanted]
        return self._subscribed()

    def _subscriptions(self, command: str, payload: dict[str, Any]) -> None:
        self._ask("SELECT powersync_control('subscriptions', ?)", _json({command: payload}))

    def _subscribed(self) -> list[Event]:
        if not self.connected:
            return []
        return self._events("update_subscriptions", _json(self.subscriptions))

    def stop(self) -> None:
        """The iteration is over, for whatever reason."""
        if self.connected:
            self.connected = False
            self._control("stop", None)

    # -- upload ----------------------------------------------------------------------------------

    def upload(self) -> Upload | None:
        """The next batch to post to ``/v1/sync/batches``; see ``connector``."""
        return self._connector.batch()

    def uploaded(self, upload: Upload, status: int, body: bytes) -> Verdict:
        """The server's answer to a batch."""
        return self._connector.answered(upload, status, body)

    # -- the checkpoint that holds one's own uploads ---------------------------------------------

    @property
    def seed(self) -> bytes | None:
        """The body to post to ``/sync/checkpoint-request`` once after ``start``; None when not needed."""
        return self._seed if self.connected and not self._seeded else None

    def seeded(self, checkpoint_request_id: str) -> None:
        """The answer to ``seed``."""
        self._ask("SELECT powersync_control('seed_checkpoint_request_id', ?)", checkpoint_request_id)
        self._seeded = True

    def ask_checkpoint(self) -> CheckpointAsk | None:
        """What to ask when the queue is empty; None while nothing needs asking, or before seeding."""
        if self.queued() or self._target() != MAX_OP:
            return None
        sequence = self._sequence()
        if not self.requests:
            path = f"/write-checkpoint2.json?client_id={self.client_id}"
            return CheckpointAsk("GET", path, None, sequence)
        if not self._seeded:
            return None
        number = self._ask("SELECT CAST(powersync_control('next_checkpoint_request_id', NULL) AS TEXT)")
        body = msgspec.json.encode({"client_id": self.client_id, "checkpoint_request_id": str(number)})
        return CheckpointAsk("POST", "/sync/checkpoint-request", body, sequence)

    def checkpoint_given(self, ask: CheckpointAsk, answer: bytes) -> list[Event]:
        """The answer to ``ask``. Downloads apply again once a checkpoint carries that number."""
        data = msgspec.json.decode(answer)["data"]
        number = str(data["checkpoint_request_id" if self.requests else "write_checkpoint"])
        with self.transaction() as database:
            if self.queued() or self._sequence() != ask.sequence or self._target() != MAX_OP:
                return []
            database.execute(
                "SELECT powersync_control('target_checkpoint_request_id', ?)", (number,)
            ).fetchall()
        return self._events("completed_upload", None) if self.connected else []

    def pending(self) -> bool:
        """Is there a local change that is not uploaded, or whose checkpoint is not visible yet?"""
        return self.queued() > 0 or self._target() > self._number("last_applied_checkpoint_request_id")

    def _target(self) -> int:
        return self._number("target_checkpoint_request_id")

    def _number(self, key: str) -> int:
        row = self.database.execute(
            "SELECT CAST(value AS INTEGER) FROM ps_kv WHERE key = ?", (key,)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def _sequence(self) -> int:
        return int(self._ask("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'ps_crud'"))

    # -- the core --------------------------------------------------------------------------------

    def _ask(self, sql: str, *parameters: Scalar) -> Any:
        if self.database.in_transaction:
            row = self.database.execute(sql, parameters).fetchone()
        else:
            with self.transaction():
                row = self.database.execute(sql, parameters).fetchone()
        assert row is not None
        return row[0]

    def _control(self, operation: str, payload: str | bytes | None) -> list[dict[str, Any]]:
        with self.transaction():
            row = self.database.execute("SELECT powersync_control(?, ?)", (operation, payload)).fetchone()
        assert row is not None
        instructions: list[dict[str, Any]] = msgspec.json.decode(row[0])
        return instructions

    def _events(self, operation: str, payload: str | bytes | None) -> list[Event]:
        events: list[Event] = []
        for instruction in self._control(operation, payload):
            if "DidCompleteSync" in instruction:
                events.append(Applied(self.head()))
            elif "FetchCredentials" in instruction:
                events.append(TokenWanted(instruction["FetchCredentials"]["did_expire"]))
            elif "LogLine" in instruction:
                line = instruction["LogLine"]["line"]
                if "Checksums didn't match" in line:
                    events.append(Mismatch(line))
            elif "CloseSyncStream" in instruction:
                self.stop()
                events.append(Closed(instruction["CloseSyncStream"]["hide_disconnect"]))
        return events

    def head(self) -> int:
        """The op of the checkpoint that is visible; 0 before the first."""
        return int(
            self._ask("SELECT coalesce(max(last_applied_op), 0) FROM ps_buckets WHERE name != '$local'")
        )


def _install(database: apsw.Connection, schema: str) -> None:
    """What an app does when it starts: say which tables there are, and set the connector up."""
    with database:
        database.execute("SELECT powersync_replace_schema(?)", (schema,)).fetchall()
        database.execute(connector.SETUP.format(now="lowtide_now()"))


@functools.cache
def _installed(schema: str) -> bytes:
    """A database right after the app's first start; made once, because it takes 20 ms."""
    database = open_core()
    _install(database, schema)
    return database.serialize("main")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
