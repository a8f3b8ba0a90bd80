"""TypeScript: the schema, an interface a model with typed writes, and the calls of functions."""

from __future__ import annotations

import json

from lowtide.clients.described import Attribute, Call, Described, RecordType, ValueShape, camel, type_name

_TYPES: dict[ValueShape, str] = {
    "text": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "timestamp": "Date",
    "json": "Json",
    "array": "Json[]",
    "object": "{ [name: string]: Json }",
}
_COLUMNS = {"TEXT": "text", "INTEGER": "integer", "REAL": "real"}
_TAKEN = frozenset(
    """
    Json Writer Row Kind Records Record Functions Date Object String Array Partial Pick Promise
    Schema Table
    """.split()
)
_RESERVED = frozenset(
    """
    schema records record read write column Schema Table functions give break case catch class const
    continue debugger default delete do else enum export extends false finally for function if
    import in instanceof new null return super switch this throw true try typeof var void while with
    yield let static await implements interface package private protected public eval arguments tracked
    """.split()
)

_RUNTIME = """/** Any JSON value. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };

/** A database, or an open transaction of it. */
export interface Writer {
  execute(sql: string, parameters?: any[]): Promise<unknown>;
  get<T>(sql: string, parameters?: any[]): Promise<T>;
}

/** A row as the SDK gives it. */
export type Row = Record<string, unknown>;

type Kind = 'plain' | 'boolean' | 'timestamp' | 'json';

function read(kind: Kind, value: unknown): unknown {
  if (value === null || value === undefined || kind === 'plain') return value ?? null;
  if (kind === 'boolean') return value !== 0;
  return kind === 'timestamp' ? new Date(String(value)) : JSON.parse(String(value));
}

function write(kind: Kind, value: unknown): unknown {
  if (value === null || value === undefined || kind === 'plain') return value ?? null;
  if (kind === 'boolean') return value ? 1 : 0;
  return kind === 'timestamp' ? (value as Date).toISOString() : JSON.stringify(value);
}

/** A model's table: rows in, typed records out, and writes of just the columns that change. */
export class Records<T extends { id: string }, New, Change, Count extends string> {
  constructor(
    readonly table: string,
    private readonly kinds: Record<string, Kind>,
    private readonly defaults: Row,
    private readonly written: string[]
  ) {}

  /** A row of `SELECT *`. What nobody gave a value yet has its default. */
  from(row: Row): T {
    const out: Row = { id: row.id };
    for (const [name, kind] of Object.entries(this.kinds)) {
      out[name] = read(kind, row[name] ?? this.defaults[name]);
    }
    return out as T;
  }

  /** Adds a record and tells its id. What is left out has its default. */
  async insert(writer: Writer, record: New & { id?: string }): Promise<string> {
    const given = record as Row;
    const id = (given.id as string | undefined) ?? (await writer.get<{ id: string }>('SELECT uuid() AS id')).id;
    const values = this.written.map((name) =>
      given[name] === undefined ? (this.defaults[name] ?? null) : write(this.kinds[name]!, given[name])
    );
    const columns = ['id', ...this.written].map((name) => `"${name}"`).join(', ');
    const marks = ['id', ...this.written].map(() => '?').join(', ');
    await writer.execute(`INSERT INTO "${this.table}"(${columns}) VALUES (${marks})`, [id, ...values]);
    return id;
  }

  /** Sets the fields that are given, and no others. */
  async update(writer: Writer, id: string, change: Change): Promise<void> {
    const given = Object.entries(change as Row).filter(([, value]) => value !== undefined);
    if (given.length === 0) return;
    const columns = given.map(([name]) => `"${name}" = ?`).join(', ');
    const values = given.map(([name, value]) => write(this.kinds[name]!, value));
    await writer.execute(`UPDATE "${this.table}" SET ${columns} WHERE id = ?`, [...values, id]);
  }

  /** Adds to counters: what several devices add adds up. */
  async add(writer: Writer, id: string, amounts: { [name in Count]?: number }): Promise<void> {
    const given = Object.entries(amounts) as [string, number][];
    if (given.length === 0) return;
    const columns = given.map(([name]) => `"${name}" = coalesce("${name}", 0) + ?`).join(', ');
    const values = given.map(([, amount]) => amount);
    await writer.execute(`UPDATE "${this.table}" SET ${columns} WHERE id = ?`, [...values, id]);
  }

  async delete(writer: Writer, id: string): Promise<void> {
    await writer.execute(`DELETE FROM "${this.table}" WHERE id = ?`, [id]);
  }
}
"""


def schema(app: Described) -> str:
    """The file: what the SDK opens its database with, the models, and the calls of functions."""
    return "\n".join(
        [
            f'// Made by "lowtide client typescript" from the app "{app.name}". Run it again when the app changes.',
            "import { column, Schema, Table } from '@powersync/common';\n",
            _schema(app),
            _RUNTIME,
            *(_record(one) for one in app.records),
            *([_calls(app.calls)] if app.calls else []),
        ]
    )


def _schema(app: Described) -> str:
    tables = []
    for table in app.tables:
        columns = "".join(f"      {one.name}: column.{_COLUMNS[one.type]},\n" for one in table.columns)
        indexes = ", ".join(f"{name}: [{', '.join(map(_quote, names))}]" for name, names in table.indexes)
        options = f"{{ ...tracked, indexes: {{ {indexes} }} }}" if indexes else "tracked"
        tables.append(f"  {table.name}: new Table(\n    {{\n{columns}    }},\n    {options}\n  ),\n")
    return (
        "const tracked = { trackPrevious: { onlyWhenChanged: true }, trackMetadata: true };\n\n"
        "/** What the SDK's database is opened with. */\n"
        "export const schema = new Schema({\n" + "".join(tables) + "});\n"
    )


def _record(record: RecordType) -> str:
    name = type_name(record, _TAKEN)
    fields = "".join(
        (f"  /** {one.note} */\n" if one.note else "") + f"  {one.name}: {_type(one)};\n"
        for one in record.attributes
    )
    new = "".join(f"  {one.name}{'?' if one.left_out else ''}: {_type(one)};\n" for one in record.written)
    settable = [_quote(one.name) for one in record.written if not one.counter]
    counters = [_quote(one.name) for one in record.attributes if one.counter]
    kinds = ", ".join(f"{one.name}: '{_kind(one)}'" for one in record.attributes)
    defaults = ", ".join(
        f"{one.name}: {json.dumps(_fallback(one))}" for one in record.attributes if not one.optional
    )
    written = ", ".join(_quote(one.name) for one in record.written)
    text = f"export interface {name} {{\n  id: string;\n{fields}}}\n"
    types = f"{name}, never, never, never"
    if record.writable:
        text += f"\nexport interface New{name} {{\n{new}}}\n"
        change = f"Partial<Pick<{name}, {' | '.join(settable)}>>" if settable else "{}"
        types = f"{name}, New{name}, {change}, {' | '.join(counters) or 'never'}"
    return (
        text + f"\nexport const {_escaped(camel(record.name))} = new Records<{types}>(\n"
        f"  {_quote(record.name)},\n  {{ {kinds} }},\n  {{ {defaults} }},\n  [{written}]\n);\n"
    )


def _calls(calls: tuple[Call, ...]) -> str:
    """The arguments of each function by its name: what the client's ``functions`` are typed with."""
    members = []
    for call in calls:
        arguments = "".join(
            f"    {one.name}{'?' if one.left_out else ''}: {_argument(one)};\n" for one in call.arguments
        )
        members.append(f"  {call.name}: {{\n{arguments}  }};\n" if arguments else f"  {call.name}: {{}};\n")
    return (
        "/** The app's functions: the arguments of each. */\n"
        "export interface Functions {\n" + "".join(members) + "}\n\n"
        "/**\n"
        " * Calls a function without a network: it runs exactly once when it arrives, and its outcome comes back in\n"
        " * `lowtide_commands` under the id that is told.\n"
        " */\n"
        "export async function give<Name extends keyof Functions>(\n"
        "  writer: Writer,\n  name: Name,\n  args: Functions[Name]\n): Promise<string> {\n"
        "  const { id } = await writer.get<{ id: string }>('SELECT uuid() AS id');\n"
        "  const sql = 'INSERT INTO lowtide_commands(id, name, args) VALUES (?, ?, ?)';\n"
        "  await writer.execute(sql, [id, name, JSON.stringify(args)]);\n"
        "  return id;\n}\n"
    )


def _argument(one: Attribute) -> str:
    # JSON turns a Date into its text by itself.
    return f"{_TYPES[one.shape]}{' | null' if one.optional else ''}"


def _kind(one: Attribute) -> str:
    if one.shape in ("boolean", "timestamp"):
        return one.shape
    return "json" if one.shape in ("json", "array") else "plain"


def _fallback(one: Attribute) -> object:
    """In its form on the wire."""
    if one.default is not None:
        return one.default
    return {
        "text": "",
        "timestamp": "1970-01-01T00:00:00.000Z",
        "json": "null",
        "array": "[]",
    }.get(one.shape, 0)


def _type(one: Attribute) -> str:
    return f"{_TYPES[one.shape]}{' | null' if one.optional and one.shape != 'json' else ''}"


def _escaped(name: str) -> str:
    return f"{name}Records" if name in _RESERVED else name


def _quote(text: str) -> str:
    return "'" + json.dumps(text)[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
