"""The checker: proves the promises over a recorded history. It knows nothing of how the server works.

The numbers in its messages are those of the promises:

1. nothing acknowledged is lost, 2. nothing is lost silently, 3. exactly once, 4. convergence,
5. atomic and causal, 6. no leak, 7. a bad mutation never blocks the queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from lowtide.kernel.schema import Everyone, Keys, Lookup, Me, OwnDevice, Parameter, Schema
from tests.phones.history import OPS_PER_GROUP, Change, History, RecordKey, Violation
from tests.phones.phone import Phone


class Seat(msgspec.Struct, frozen=True):
    """Who looks: it decides what there is to see."""

    user: str
    space: str
    client_id: str = ""
    subscriptions: Sequence[dict[str, Any]] = ()


class Holder(msgspec.Struct):
    """Who uses a phone, and what it has shown so far."""

    phone: Phone
    user: str
    space: str
    subscriptions: list[dict[str, Any]] = []
    """What it asked for by name when it connected last."""
    twins: dict[str, int] = {}
    """The highest version of each twin that was visible."""
    life: int = 0
    """How often phone or server were set back: versions are counted anew then."""
    set_back: bool = False
    """Not in step again since: what it shows may be older than what it showed."""
    newest: dict[str, int] = {}
    """The latest op of each bucket that it has taken, and that was looked at."""

    @property
    def seat(self) -> Seat:
        return Seat(self.user, self.space, self.phone.client_id, self.subscriptions)

    def forget(self) -> None:
        """The phone was set up anew: what it showed does not bind it."""
        self.twins = {}

    def go_back(self) -> None:
        """The phone or the server was restored from a backup."""
        self.life += 1
        self.set_back = True
        self.forget()


class Checker:
    """Looks at devices while a run goes on. Every method raises ``Violation``."""

    def __init__(self, schema: Schema, history: History):
        self._schema = schema
        self._history = history
        self._causal = True

    def rewound(self) -> None:
        """The server was restored from a backup: what people remember of the time after it binds nobody."""
        self._causal = False

    # -- at any moment -------------------------------------------------------------------------------

    def look(self, holder: Holder) -> None:
        """What a device shows now, half way through a download or not, is consistent in itself."""
        phone = holder.phone
        pairs: dict[str, int] = {}
        for half in phone.rows("half").values():
            pairs[half["pair"]] = pairs.get(half["pair"], 0) + 1
        for pair, count in pairs.items():
            if count != 2:
                raise Violation(f"5: {phone.name} shows one half of pair {pair}")
        twins: dict[str, int] = {}
        for id, twin in phone.rows("twin").items():
            version = twin["version"]
            if twins.setdefault(twin["device"], version) != version:
                raise Violation(f"5: {phone.name} shows the twins of {twin['device']} at different versions")
            if holder.set_back:
                continue
            if version < holder.twins.get(id, 0) and not self._refused(holder, id):
                raise Violation(f"5: {phone.name} shows twin {id} at {version} after {holder.twins[id]}")
            holder.twins[id] = version

    def _refused(self, holder: Holder, id: str) -> bool:
        """A device takes back what it wrote itself when the server has refused it."""
        phone = holder.phone.client_id
        return any(
            change.id == id and not change.accepted and change.key[2] == phone
            for change in self._history.changes.values()
        )

    def taken(self, holder: Holder) -> None:
        """What a device has taken, to be shown yet or not, was its user's when it was written or later."""
        before, holder.newest = holder.newest, holder.phone.newest()
        latest = self._history.group
        for name, op in holder.newest.items():
            if op == before.get(name) or holder.set_back:
                continue
            key = _stream_and_key(name)
            groups = (latest, *range(op // OPS_PER_GROUP, latest))
            if not any(key in self.permitted(holder.seat, group) for group in groups):
                raise Violation(
                    f"6: {holder.phone.name} took op {op} of {name}, which was its user's no longer"
                )

    # -- at a checkpoint -----------------------------------------------------------------------------

    def checkpoint(self, holder: Holder, op: int) -> None:
        """A device that has applied a checkpoint shows exactly what its user may see as of it."""
        holder.set_back = False
        self.look(holder)
        phone, seat, group = holder.phone, holder.seat, op // OPS_PER_GROUP
        if self._causal:
            self._causality(phone)
        permitted = self.permitted(seat, group)
        for name in phone.buckets():
            if _stream_and_key(name) not in permitted:
                raise Violation(f"6: {phone.name} holds bucket {name} at checkpoint {group}")
        for table in phone.tables:
            expected = self.expected(seat, table, permitted, group)
            shown = phone.rows(table)
            for id in expected.keys() - shown.keys():
                raise Violation(f"4: {phone.name} lacks {table}/{id} at checkpoint {group}")
            for id in shown.keys() - expected.keys():
                # The row may be another user's, or deleted: both are worse than merely stale.
                raise Violation(f"6: {phone.name} shows {table}/{id} at checkpoint {group}")
            for id, row in shown.items():
                wanted = {column: expected[id].get(column) for column in row}
                if row != wanted:
                    raise Violation(f"4: {phone.name} shows {table}/{id} as {row}, not {wanted}, at {group}")

    def _causality(self, phone: Phone) -> None:
        versions = {id: twin["version"] for id, twin in phone.rows("twin").items()}
        for id, echo in phone.rows("echo").items():
            for twin, version in msgspec.json.decode(echo["seen"]).items():
                if twin in versions and versions[twin] < version:
                    shown = versions[twin]
                    raise Violation(f"5: {phone.name} shows echo {id} of {twin} {version}, but twin {shown}")

    def permitted(self, seat: Seat, group: int) -> set[tuple[str, Any]]:
        """Each (stream, key) that somebody is to receive as of ``group``."""
        permitted: set[tuple[str, Any]] = set()
        for stream in self._schema.streams.values():
            if stream.default:
                permitted.update((stream.name, key) for key in self._keys(seat, stream.keys, {}, group))
        for wanted in seat.subscriptions:
            asked = self._schema.streams.get(wanted["stream"])
            if asked is not None:
                keys = self._keys(seat, asked.keys, wanted["parameters"] or {}, group)
                permitted.update((asked.name, key) for key in keys)
        return permitted

    def _keys(self, seat: Seat, keys: Keys, parameters: Any, group: int) -> Iterator[Any]:
        match keys:
            case Me():
                yield seat.user
            case Everyone():
                yield None
            case OwnDevice():
                if seat.client_id:
                    yield f"{seat.user}/{seat.client_id}"
            case Lookup(model, match, take):
                for id, version in self._history.records(seat.space, model, group):
                    if version.data is not None and version.data[match] == seat.user:
                        yield id if take == "id" else version.data[take]
            case Parameter(name, within):
                asked = parameters.get(name)
                if asked is not None and (
                    within is None or asked in set(self._keys(seat, within, {}, group))
                ):
                    yield asked
            case _:
                raise NotImplementedError(keys)

    def expected(
        self, seat: Seat, model: str, permitted: set[tuple[str, Any]], group: int
    ) -> dict[str, dict[str, Any]]:
        """The rows of a model that are in the permitted buckets as of ``group``."""
        expected: dict[str, dict[str, Any]] = {}
        for stream in self._schema.streams.values():
            if model not in stream.carries:
                continue
            field = stream.carries[model]
            for id, version in self._history.records(stream.space or seat.space, model, group):
                assert version.data is not None
                if (stream.name, None if field is None else version.data[field]) in permitted:
                    expected[id] = version.data
        return expected

    def pulled(self, seat: Seat, rows: dict[tuple[str, str], dict[str, Any]], group: int) -> None:
        """Who has pulled to the end without a client core has what a device has."""
        permitted = self.permitted(seat, group)
        expected = {
            (model, id): data
            for model in self._schema.models
            for id, data in self.expected(seat, model, permitted, group).items()
        }
        if rows != expected:
            wrong = [key for key in rows.keys() | expected.keys() if rows.get(key) != expected.get(key)]
            raise Violation(f"4: the pull at {group} differs in {sorted(wrong)}")

    def pulled_versions(self, seat: Seat, model: str, versions: dict[str, int], group: int) -> None:
        """As ``pulled``, of one model, by the groups that wrote what is there."""
        permitted = self.permitted(seat, group)
        expected: dict[str, int] = {}
        for id in self.expected(seat, model, permitted, group):
            for space in (seat.space, "main"):
                if (version := self._history.at((space, model, id), group)) is not None:
                    expected.setdefault(id, version.group)
        if versions != expected:
            raise Violation(f"4: the {model}s pulled at {group} are {versions}, not {expected}")

    # -- when everything has come to rest --------------------------------------------------------------

    def rest(self, holders: list[Holder]) -> None:
        """After the last upload and download: all that holds only in the end."""
        latest = max((v.group for versions in self._history.versions.values() for v in versions), default=0)
        for holder in holders:
            if queued := holder.phone.queued():
                raise Violation(f"7: {holder.phone.name} still has {queued} changes in its queue")
            self.checkpoint(holder, latest * OPS_PER_GROUP)
            self._bytes(holder, latest)
        self._server_pairs()
        self._resurrection()
        self._rejections(holders, latest)

    def waiting_commands(self) -> bool:
        """Is a command still to be run?"""
        return any(row["status"] == "pending" for row in self._commands())

    def commands(self, function: str, model: str) -> None:
        """Each command ran once: ``function`` made one record of ``model``, named as it was told."""
        made: dict[str, int] = {}
        for (_, name, _), versions in self._history.versions.items():
            if name == model and versions[0].data is not None:
                made[versions[0].data["name"]] = made.get(versions[0].data["name"], 0) + 1
        for row in self._commands():
            wanted = {"done": 1, "failed": 0}.get(row["status"], -1)
            name = msgspec.json.decode(row["args"])["name"]
            if row["name"] == function and made.get(name, 0) != wanted:
                raise Violation(f"3: command {row} made {made.get(name, 0)} records")

    def _commands(self) -> Iterator[dict[str, Any]]:
        for (_, model, _), versions in self._history.versions.items():
            if model == "lowtide_commands" and (data := versions[-1].data) is not None:
                yield data

    def _bytes(self, holder: Holder, group: int) -> None:
        """Rows are equal to the byte, on every device that has them."""
        for table in holder.phone.tables:
            for id, text in holder.phone.stored(table).items():
                versions = [self._history.at((space, table, id), group) for space in (holder.space, "main")]
                if text not in [version.text for version in versions if version is not None]:
                    raise Violation(f"4: {holder.phone.name} stores {table}/{id} as {text}: {versions}")

    def _server_pairs(self) -> None:
        """The server itself was never between: two halves come and go in one group."""
        pairs: dict[tuple[str, str], dict[str, list[tuple[int, bool]]]] = {}
        for (space, model, id), versions in self._history.versions.items():
            if model == "half":
                pair = id.partition(":")[0]
                lives = [(version.group, version.data is not None) for version in versions]
                pairs.setdefault((space, pair), {})[id] = lives
        for (_, pair), halves in pairs.items():
            both = list(halves.values())
            if len(both) != 2 or both[0] != both[1]:
                raise Violation(f"5: the server had one half of pair {pair}: {halves}")

    def _resurrection(self) -> None:
        """A deleted record stays deleted unless somebody creates it again, or the model revives it."""
        created: dict[RecordKey, int] = {}
        for change in self._history.accepted():
            if change.op == "put":
                created[change.record] = created.get(change.record, 0) + 1
        for key, versions in self._history.versions.items():
            model = self._schema.models.get(key[1])
            revives = model is not None and model.on_delete == "revive"
            lives = [version.data is not None for version in versions]
            births = sum(now and not before for before, now in zip([False, *lives], lives, strict=False))
            if births > max(1, created.get(key, 0)) and not revives:
                raise Violation(f"4: {key} came back to life: {versions}")

    def _rejections(self, holders: list[Holder], group: int) -> None:
        """Every refused mutation is a row, with its content, that its device sees; and no other is."""
        # Copies of one phone use the same numbers: several refusals may have the same key.
        refused: dict[Any, list[Change]] = {}
        for change in self._history.changes.values():
            if not change.accepted:
                space, user, client_id, _, n = change.key
                refused.setdefault((space, f"{user}/{client_id}", n, change.model, change.id), []).append(
                    change
                )
        for (space, model, id), versions in self._history.versions.items():
            if model != "lowtide_rejections":
                continue
            row = versions[0].data
            assert row is not None
            candidates = refused.get((space, row["device"], row["n"], row["model"], row["record_id"]), [])
            sent = msgspec.json.decode(row["data"]) or {}
            for change in candidates:
                if (sent, row["op"]) == (change.data, change.op) and row["code"] and row["message"]:
                    candidates.remove(change)
                    break
            else:
                raise Violation(f"2: rejection {id} is not what was sent and refused: {row}, {candidates}")
        for changes in refused.values():
            for change in changes:
                raise Violation(f"2: {change} was refused and is not among the rejections")


def _stream_and_key(bucket: str) -> tuple[str, Any]:
    """From ``team["red"]@...``."""
    stream, _, rest = bucket.partition("[")
    return stream, msgspec.json.decode(rest[: rest.rindex("]")] or "null")
