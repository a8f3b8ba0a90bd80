"""Records in and out as files: NDJSON, or CSV with a header. Imports go through the writer.

A structured value (set, list, json) is JSON in both; in CSV it is JSON text in its cell, and an empty cell
is an empty field. The id is the column or key ``id``.
"""

from __future__ import annotations

import csv
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Literal, TextIO

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import decode_json
from lowtide.kernel.errors import LowtideError, NotFound
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Data, Model, Principal, Schema
from lowtide.kernel.values import MAX_RECORD_BYTES, check_id, coerce_fields
from lowtide.storage.db import Database
from lowtide.sync import store
from lowtide.sync.model import Applied, Batch, Mutation, Transaction
from lowtide.sync.store import QUERIES

FileFormat = Literal["ndjson", "csv"]
Progress = Callable[[int], None]
"""Told how many records are done so far."""

PAGE = 1_000
BATCH = 500

_encode = msgspec.json.Encoder().encode
_parse = msgspec.json.Decoder().decode


class _Lines:
    """Where a CSV writer writes: lines end as they do on this system's text files, yet a carriage return in a
    cell is quoted, which the writer does only for what ends its own lines."""

    def __init__(self, out: TextIO):
        self._out = out

    def write(self, line: str) -> None:
        self._out.write(line.removesuffix("\r\n") + "\n")


class RefusedLine(msgspec.Struct, frozen=True):
    """A line that was not imported, and why."""

    line: int
    code: str
    message: str


class Imported(msgspec.Struct, frozen=True):
    """What an import did."""

    records: int
    refused: list[RefusedLine]


async def export(
    database: Database,
    schema: Schema,
    space: str,
    model: str,
    out: TextIO,
    format: FileFormat,
    progress: Progress,
) -> int:
    """Write every live record of ``model`` in the order of ids; how many. ``NotFound`` for the model.

    Pages of 1,000, each a snapshot of its own: what changes meanwhile is in it as it was or as it is.
    """
    declared = _model(schema, model)
    names = ["id", *declared.fields]
    table = csv.writer(_Lines(out)) if format == "csv" else None
    if table is not None:
        table.writerow(names)
    after, done = "", 0
    while True:
        rows = await database.read(
            lambda tx, after=after: tx.fetch(QUERIES["records_of"], space, model, after, PAGE)  # type: ignore[misc]
        )
        for id, text, *_ in rows:
            data = store.restore(declared, text)
            if table is not None:
                table.writerow([id, *("" if value is None else value for value in data.values())])
            else:
                out.write(_encode({"id": id, **_readable(declared, data)}).decode() + "\n")
        done += len(rows)
        progress(done)
        if len(rows) < PAGE:
            return done
        after = rows[-1][0]


async def import_(
    apply: Callable[[Batch], Awaitable[Applied]],
    schema: Schema,
    space: str,
    model: str,
    lines: TextIO,
    format: FileFormat,
    clock: Clock,
    ids: Ids,
    progress: Progress,
) -> Imported:
    """Create or update a record for each line; write rules do not bind, everything else does.

    A line that cannot be imported is in the answer with its number, and the others are imported.
    Importing the same file again changes nothing. Raises ``NotFound`` for the model, and what the
    writer raises.
    """
    declared = _model(schema, model)
    refused: list[RefusedLine] = []
    waiting: list[tuple[int, Mutation]] = []
    done = 0

    async def flush() -> None:
        nonlocal done
        principal = Principal(user="import", space=space, server=True)
        batch = Batch(
            transactions=[
                Transaction(principal=principal, client_id="import", mutations=[mutation], online=True)
                for _, mutation in waiting
            ]
        )
        applied = await apply(batch)
        for (number, _), result in zip(waiting, applied.results, strict=True):
            if result.status == "refused":
                refused.append(RefusedLine(number, result.code or "", result.message or ""))
            else:
                done += 1
        waiting.clear()
        progress(done)

    for number, given in _records(lines, format):
        try:
            if isinstance(given, Exception):
                raise given
            named = given.pop("id", None)
            id = ids.uuid() if named in (None, "") else check_id(str(named))
            data = coerce_fields(declared, _typed(declared, given) if format == "csv" else given)
        except (ValueError, LowtideError) as error:
            refused.append(RefusedLine(number, "invalid", str(error)))
            continue
        mutation = Mutation(n=1, op="put", model=model, id=id, data=data, at=clock.now())
        waiting.append((number, mutation))
        if len(waiting) == BATCH:
            await flush()
    if waiting:
        await flush()
    refused.sort(key=lambda one: one.line)
    return Imported(done, refused)


def _records(lines: TextIO, format: FileFormat) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    if format == "csv":
        # The module's bound is for all of the process, and half of what a text may be.
        csv.field_size_limit(4 * MAX_RECORD_BYTES)
        reader = csv.DictReader(lines)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.reader.line_num, ValueError(str(error))
                continue
            if None in row or None in row.values():
                yield reader.line_num, ValueError("the line has more or fewer cells than the header")
            else:
                yield reader.line_num, dict(row)
    for number, line in enumerate(_bounded(lines), 1):
        if not line.strip():
            continue
        try:
            given = decode_json(line, max_bytes=4 * MAX_RECORD_BYTES)
        except LowtideError as error:
            yield number, ValueError(error.message)
            continue
        yield number, given if isinstance(given, dict) else ValueError("not a JSON object")


def _bounded(lines: TextIO) -> Iterable[str]:
    while line := lines.readline(8 * MAX_RECORD_BYTES):
        yield line


def _typed(model: Model, row: dict[str, Any]) -> dict[str, Any]:
    """A CSV row's texts as JSON values: an empty cell is None, a number is a number."""
    out: dict[str, Any] = {}
    for name, text in row.items():
        field = model.fields.get(name)
        if field is None:
            out[name] = text
        elif text == "":
            out[name] = None if field.optional or field.kind != "text" else ""
        elif field.kind in ("integer", "number", "boolean"):
            try:
                out[name] = _parse(text.lower() if field.kind == "boolean" else text)
            except msgspec.DecodeError:
                raise ValueError(f"{name}: expected a {field.kind}, not {text[:40]!r}") from None
        else:
            out[name] = text
    return out


def _readable(model: Model, data: Data) -> dict[str, Any]:
    """Booleans and structured values as JSON has them."""
    out: dict[str, Any] = {}
    for name, field in model.fields.items():
        value = data[name]
        if value is not None and field.kind == "boolean":
            out[name] = bool(value)
        elif isinstance(value, str) and (field.kind == "json" or field.merge in ("set", "list")):
            out[name] = _parse(value)
        else:
            out[name] = value
    return out


def _model(schema: Schema, name: str) -> Model:
    model = schema.models.get(name)
    if model is None:
        raise NotFound(f"this app has no model {name!r}", hint=f"It has {', '.join(schema.models)}.")
    return model
