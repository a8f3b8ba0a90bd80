"""Dart: the schema and a class a model, for the SDK's package ``powersync``."""

from __future__ import annotations

import json

from lowtide.clients.described import Attribute, Call, Described, RecordType, ValueShape, camel, type_name

_TYPES: dict[ValueShape, str] = {
    "text": "String",
    "integer": "int",
    "number": "double",
    "boolean": "bool",
    "timestamp": "DateTime",
    "json": "Object?",
    "array": "List<Object?>",
    "object": "Map<String, Object?>",
}
_ZEROS: dict[ValueShape, str] = {
    "text": "''",
    "integer": "0",
    "number": "0",
    "boolean": "false",
    "timestamp": "DateTime.utc(1970)",
    "json": "null",
    "array": "const []",
    "object": "const {}",
}
_KEYWORDS = frozenset(
    """
    abstract as assert async await base break case catch class const continue covariant default
    deferred do dynamic else enum export extends extension external factory false final finally for
    Function get hide if implements import in interface is late library mixin new null of on
    operator part required rethrow return sealed set show static super switch sync this throw true
    try type typedef var void when while with yield hashCode runtimeType toString insert table
    fromRow
    """.split()
)
_TAKEN = frozenset(
    """
    LowtideCommands LowtideConnector LowtideRefusal LowtideUploadException Schema Table Column Index IndexedColumn
    TrackPreviousValuesOptions CrudEntry CrudBatch CrudTransaction PowerSyncDatabase SqliteWriteContext Row Uuid
    String Object List Map Set DateTime Record Future Stream Iterable Function Type Null Never
    """.split()
)
_COLUMNS = {"TEXT": "text", "INTEGER": "integer", "REAL": "real"}

_END = """
String _newId() => uuid.v4();

String _moment(DateTime moment) =>
    DateTime.fromMillisecondsSinceEpoch(moment.millisecondsSinceEpoch, isUtc: true).toIso8601String();
"""


def schema(app: Described) -> str:
    """The file: what the SDK opens its database with, the models, and the calls of functions."""
    return "\n".join(
        [
            f'// Made by "lowtide client dart" from the app "{app.name}". Run it again when the app changes.',
            "import 'dart:convert';\n",
            "import 'package:powersync/powersync.dart';",
            "import 'package:powersync/sqlite3_common.dart' show Row;",
            "import 'package:powersync/sqlite_async.dart' show SqliteWriteContext;\n",
            _schema(app),
            *(_record(one) for one in app.records),
            *([_calls(app.calls)] if app.calls else []),
            _END.lstrip("\n"),
        ]
    )


def _schema(app: Described) -> str:
    tables = []
    for table in app.tables:
        columns = ", ".join(f"Column.{_COLUMNS[one.type]}({_quote(one.name)})" for one in table.columns)
        indexes = "".join(
            f"      Index({_quote(name)}, [{', '.join(f'IndexedColumn({_quote(one)})' for one in names)}]),\n"
            for name, names in table.indexes
        )
        tables.append(
            f"  Table(\n    {_quote(table.name)},\n    [{columns}],\n"
            + (f"    indexes: [\n{indexes}    ],\n" if indexes else "")
            + "    trackMetadata: true,\n"
            "    trackPreviousValues: TrackPreviousValuesOptions(onlyWhenChanged: true),\n  ),"
        )
    return (
        "/// What the SDK's database is opened with.\n"
        "const lowtideSchema = Schema([\n" + "\n".join(tables) + "\n]);\n"
    )


def _record(record: RecordType) -> str:
    name = type_name(record, _TAKEN)
    parameters, initial = ["String? id"], ["id = id ?? _newId()"]
    for one in record.attributes:
        if not one.left_out:
            parameters.append(f"required this.{_name(one)}")
        elif one.shape == "timestamp" and one.default is not None:
            parameters.append(f"{_TYPES['timestamp']}? {_name(one)}")
            initial.append(f"{_name(one)} = {_name(one)} ?? {_default(one)}")
        else:
            default = _default(one)
            parameters.append(f"this.{_name(one)}" + (f" = {default}" if default != "null" else ""))
    fields = "".join(
        (f"  /// {one.note}\n" if one.note else "") + f"  final {_type(one)} {_name(one)};\n"
        for one in record.attributes
    )
    read = "".join(f"        {_name(one)}: {_read(one)},\n" for one in record.attributes)
    text = (
        f"class {name} {{\n"
        f"  {name}({{\n"
        + "".join(f"    {one},\n" for one in parameters)
        + "  }) : "
        + ",\n        ".join(initial)
        + ";\n\n"
        "  /// A row of `SELECT *`. What nobody gave a value yet has its default.\n"
        f"  factory {name}.fromRow(Row row) => {name}(\n        id: row['id'] as String,\n{read}      );\n\n"
        f"  static const table = {_quote(record.name)};\n\n"
        f"  final String id;\n{fields}"
    )
    if record.writable:
        sql = _quote(record.insert)
        values = "".join(f"          {_write(one)},\n" for one in record.written)
        text += (
            "\n  /// Adds it, in a transaction or by itself. To change one, update the columns that changed.\n"
            "  Future<void> insert(SqliteWriteContext writer) => writer.execute(\n"
            f"        {sql},\n        [\n          this.id,\n{values}        ],\n      );\n"
        )
    return text + "}\n"


def _calls(calls: tuple[Call, ...]) -> str:
    functions = []
    for call in calls:
        named = [f"{'' if one.left_out else 'required '}{_type(one)} {_name(one)}" for one in call.arguments]
        listed = f", {{{', '.join(named)}}}" if named else ""
        members = "".join(
            "        "
            + (
                f"if ({_name(one)} != null) "
                if one.optional and (one.left_out or one.shape != "json")
                else ""
            )
            + f"{_quote(one.name)}: {_argument(one)},\n"
            for one in call.arguments
        )
        functions.append(
            f"  static Future<String> {_escaped(camel(call.name))}(SqliteWriteContext writer_{listed}) =>\n"
            f"      _give(writer_, {_quote(call.name)}, {{\n{members}      }});\n"
        )
    return (
        "/// Calls of the app's functions that need no network: each runs exactly once when it arrives, and its\n"
        "/// outcome comes back in `lowtide_commands` under the id that is returned.\n"
        "abstract final class LowtideCommands {\n" + "\n".join(functions) + "\n"
        "  static Future<String> _give(SqliteWriteContext writer, String name, Map<String, Object?> arguments) async {\n"
        "    final id = _newId();\n"
        "    await writer.execute(\n"
        "      'INSERT INTO lowtide_commands(id, name, args) VALUES (?, ?, ?)',\n"
        "      [id, name, jsonEncode(arguments)],\n"
        "    );\n"
        "    return id;\n  }\n}\n"
    )


def _argument(one: Attribute) -> str:
    return f"_moment({_name(one)})" if one.shape == "timestamp" else _name(one)


def _read(one: Attribute) -> str:
    value = f"row[{_quote(one.name)}]"
    end = "" if one.optional or one.shape == "json" else f" ?? {_default(one)}"
    if one.shape in ("text", "integer"):
        return f"{value} as {_TYPES[one.shape]}?{end}"
    if one.shape == "number":
        return f"({value} as num?)?.toDouble(){end}"
    if one.shape == "boolean":
        fallback = "" if one.optional else f" ?? {1 if one.default else 0}"
        if one.optional:
            return f"{value} == null ? null : {value} != 0"
        return f"({value} as int?{fallback}) != 0"
    if one.shape == "timestamp":
        return f"DateTime.tryParse({value} as String? ?? ''){end}"
    decoded = f"jsonDecode({value} as String? ?? 'null')"
    return decoded if one.shape == "json" else f"{decoded} as {_TYPES[one.shape]}?{end}"


def _write(one: Attribute) -> str:
    name = f"this.{_name(one)}"  # a field may be called like a parameter
    if one.shape == "boolean":
        return f"{name} == null ? null : ({name}! ? 1 : 0)" if one.optional else f"{name} ? 1 : 0"
    if one.shape == "timestamp":
        return f"{name} == null ? null : _moment({name}!)" if one.optional else f"_moment({name})"
    if one.shape in ("json", "array"):
        return f"{name} == null ? null : jsonEncode({name})" if one.optional else f"jsonEncode({name})"
    return name


def _default(one: Attribute) -> str:
    if one.default is None:
        return "null" if one.optional else _ZEROS[one.shape]
    if one.shape == "boolean":
        return "true" if one.default else "false"
    if one.shape == "timestamp":
        return f"DateTime.parse({_quote(str(one.default))})"
    if one.shape in ("json", "array"):
        value = json.loads(str(one.default))
        return ("const " if isinstance(value, list | dict) else "") + _literal(value)
    return _quote(one.default) if isinstance(one.default, str) else repr(one.default)


def _literal(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quote(str(key))}: {_literal(one)}" for key, one in value.items()) + "}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else _quote(str(value))


def _type(one: Attribute) -> str:
    return _TYPES[one.shape] + ("?" if one.optional and one.shape != "json" else "")


def _name(one: Attribute) -> str:
    return _escaped(camel(one.name))


def _escaped(name: str) -> str:
    return f"{name}_" if name in _KEYWORDS else name


def _quote(text: str) -> str:
    """A string literal in single quotes, where a dollar sign begins no interpolation."""
    inside = json.dumps(text, ensure_ascii=True)[1:-1].replace('\\"', '"')
    return "'" + inside.replace("'", "\\'").replace("$", "\\$") + "'"
