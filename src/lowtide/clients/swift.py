"""Swift: the schema and a struct a model, for the SDK's package ``PowerSync``."""

from __future__ import annotations

import json

from lowtide.clients.described import Attribute, Call, Described, RecordType, ValueShape, camel, type_name

_TYPES: dict[ValueShape, str] = {
    "text": "String",
    "integer": "Int64",
    "number": "Double",
    "boolean": "Bool",
    "timestamp": "Date",
    "json": "JsonValue",
    "array": "[JsonValue]",
    "object": "[String: JsonValue]",
}
_GETTERS: dict[ValueShape, str] = {
    "text": "getString",
    "integer": "getInt64",
    "number": "getDouble",
    "boolean": "getBoolean",
}
_ZEROS: dict[ValueShape, str] = {
    "text": '""',
    "integer": "0",
    "number": "0",
    "boolean": "false",
    "timestamp": "Date(timeIntervalSince1970: 0)",
    "json": ".null",
    "array": "[]",
    "object": "[:]",
}
_KEYWORDS = frozenset(
    """
    associatedtype class deinit enum extension fileprivate func import init inout internal let open
    operator private precedencegroup protocol public rethrows static struct subscript typealias var
    break case catch continue default defer do else fallthrough for guard if in repeat return throw
    switch where while Any as await catch false is nil self Self super throws true try
    """.split()
)
_TAKEN = frozenset(
    """
    LowtideSchema LowtideCommands LowtideCoding LowtideConnector LowtideRefusal LowtideUploadError Schema Table
    Column Index TrackPreviousValuesOptions SqlCursor ConnectionContext Transaction JsonValue CrudEntry CrudBatch
    CrudTransaction SyncStatus Queries Date Data String Bool Double Int Int64 Int32 UUID URL Error Encodable
    Decodable Identifiable Equatable Sendable Type Protocol Optional Array Dictionary Set Result Never Void
    JSONDecoder JSONEncoder
    """.split()
)

_CODING = """
/// Between values of Swift and what a device's tables hold.
public enum LowtideCoding {
    public static func date(_ text: String) -> Date? {
        formatter.date(from: text)
    }

    public static func text(_ date: Date) -> String {
        formatter.string(from: date)
    }

    public static func value<T: Decodable>(_ text: String) throws -> T {
        try JSONDecoder().decode(T.self, from: Data(text.utf8))
    }

    public static func text<T: Encodable>(_ value: T) throws -> String {
        String(decoding: try JSONEncoder().encode(value), as: UTF8.self)
    }

    private static var formatter: ISO8601DateFormatter {
        let formatter = ISO8601DateFormatter()
        formatter.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
        return formatter
    }
}
"""


def schema(app: Described) -> str:
    """The file: what the SDK opens its database with, the models, and the calls of functions."""
    parts = [
        f'// Made by "lowtide client swift" from the app "{app.name}". Run it again when the app changes.',
        "import Foundation\nimport PowerSync\n",
        _schema(app),
        *(_record(one) for one in app.records),
        *([_calls(app.calls)] if app.calls else []),
        _CODING,
    ]
    return "\n".join(parts)


def _schema(app: Described) -> str:
    tables = []
    for table in app.tables:
        columns = ", ".join(f".{_COLUMNS[one.type]}({_quote(one.name)})" for one in table.columns)
        indexes = ", ".join(
            f".ascending(name: {_quote(name)}, columns: [{', '.join(map(_quote, names))}])"
            for name, names in table.indexes
        )
        tables.append(
            f"            Table(\n"
            f"                name: {_quote(table.name)},\n"
            f"                columns: [{columns}],\n"
            f"                indexes: [{indexes}],\n"
            f"                trackMetadata: true,\n"
            f"                trackPreviousValues: TrackPreviousValuesOptions(onlyWhenChanged: true)\n"
            f"            ),"
        )
    return (
        "/// What the SDK's database is opened with.\n"
        "public enum LowtideSchema {\n"
        "    public static let schema = Schema(\n"
        "        tables: [\n" + "\n".join(tables) + "\n        ]\n    )\n}\n"
    )


_COLUMNS = {"TEXT": "text", "INTEGER": "integer", "REAL": "real"}


def _record(record: RecordType) -> str:
    name = type_name(record, _TAKEN)
    fields = [f"    {_note(one)}public var {_name(one)}: {_type(one)}" for one in record.attributes]
    parameters = ["id: String = UUID().uuidString.lowercased()"] + [
        f"{_name(one)}: {_type(one)}" + (f" = {_default(one)}" if one.left_out else "")
        for one in record.attributes
    ]
    assigned = ["        self.id = id"] + [
        f"        self.{_name(one)} = {_name(one)}" for one in record.attributes
    ]
    read = ['        self.id = try row.getString(name: "id")'] + [
        f"        self.{_name(one)} = {_read(one)}" for one in record.attributes
    ]
    text = (
        f"public struct {name}: Identifiable, Equatable, Sendable {{\n"
        f"    public static let table = {_quote(record.name)}\n\n"
        f"    public var id: String\n" + "\n".join(fields) + "\n\n"
        "    public init(\n        " + ",\n        ".join(parameters) + "\n    ) {\n"
        "" + "\n".join(assigned) + "\n    }\n\n"
        "    /// A row of `SELECT *`. What nobody gave a value yet has its default.\n"
        "    @Sendable public init(row: any SqlCursor) throws {\n" + "\n".join(read) + "\n    }\n"
    )
    if record.writable:
        values = "".join(f"                {_write(one)},\n" for one in record.written)
        text += (
            "\n    /// Adds it, in a transaction or by itself. To change one, update the columns that changed.\n"
            "    public func insert(_ writer: any ConnectionContext) throws {\n"
            "        try writer.execute(\n"
            f"            sql: {_quote(record.insert)},\n"
            f"            parameters: [\n                self.id,\n{values}            ]\n"
            "        )\n    }\n\n"
            "    public func insert(_ database: any PowerSyncDatabaseProtocol) async throws {\n"
            "        let record = self\n"
            "        try await database.writeTransaction { try record.insert($0) }\n    }\n"
        )
    return text + "}\n"


def _calls(calls: tuple[Call, ...]) -> str:
    functions = []
    for call in calls:
        parameters = ", ".join(
            f"{_name(one)}: {_type(one)}" + (" = nil" if one.left_out else "") for one in call.arguments
        )
        puts = []
        for one in call.arguments:
            put = f"arguments_[{_quote(one.name)}] = {_argument(one)}"
            if one.optional:
                put = f"if let {_name(one)} {{ {put} }}"
            puts.append(f"        {put}")
        keyword = "var" if puts else "let"
        functions.append(
            f"    public static func {_escaped(camel(call.name))}("
            + (f"{parameters}, " if parameters else "")
            + "in writer_: any ConnectionContext) throws -> String {\n"
            f"        {keyword} arguments_: [String: JsonValue] = [:]\n"
            + "".join(f"{put}\n" for put in puts)
            + f"        return try give({_quote(call.name)}, arguments_, writer_)\n    }}\n"
        )
    return (
        "/// Calls of the app's functions that need no network: each runs exactly once when it arrives, and its\n"
        "/// outcome comes back in `lowtide_commands` under the id that is returned.\n"
        "public enum LowtideCommands {\n" + "\n".join(functions) + "\n"
        "    private static func give(\n"
        "        _ name: String, _ arguments: [String: JsonValue], _ writer: any ConnectionContext\n"
        "    ) throws -> String {\n"
        "        let id = UUID().uuidString.lowercased()\n"
        "        try writer.execute(\n"
        '            sql: "INSERT INTO lowtide_commands(id, name, args) VALUES (?, ?, ?)",\n'
        "            parameters: [id, name, LowtideCoding.text(arguments)]\n"
        "        )\n"
        "        return id\n    }\n}\n"
    )


def _argument(one: Attribute) -> str:
    name = _name(one)
    return {
        "text": f".string({name})",
        "integer": f".int(Int({name}))",
        "number": f".double({name})",
        "boolean": f".bool({name})",
        "timestamp": f".string(LowtideCoding.text({name}))",
        "json": name,
        "array": f".array({name})",
        "object": f".object({name})",
    }[one.shape]


def _read(one: Attribute) -> str:
    column = _quote(one.name)
    if one.shape in _GETTERS:
        got = f"try row.{_GETTERS[one.shape]}Optional(name: {column})"
        return got if one.optional else f"{got} ?? {_default(one)}"
    text = f"try row.getStringOptional(name: {column})"
    if one.shape == "timestamp":
        got = f"{text}.flatMap(LowtideCoding.date)"
    else:
        got = f"{text}.map {{ try LowtideCoding.value($0) as {_TYPES[one.shape]} }}"
    return got if one.optional else f"{got} ?? {_default(one)}"


def _write(one: Attribute) -> str:
    name = f"self.{_name(one)}"  # a field may be called like a parameter
    if one.shape in _GETTERS:
        return name
    if not one.optional:
        return f"LowtideCoding.text({name})"
    return f"{name}.map {{ {'' if one.shape == 'timestamp' else 'try '}LowtideCoding.text($0) }}"


def _default(one: Attribute) -> str:
    if one.default is None:
        return "nil" if one.optional else _ZEROS[one.shape]
    if one.shape == "boolean":
        return "true" if one.default else "false"
    if one.shape == "timestamp":
        return f"LowtideCoding.date({_quote(str(one.default))})!"
    if one.shape in ("json", "array"):
        return _literal(json.loads(str(one.default)), top=one.shape == "array")
    return _quote(one.default) if isinstance(one.default, str) else repr(one.default)


def _literal(value: object, *, top: bool = False) -> str:
    """A JSON value as Swift's ``JsonValue``; ``top``: as a bare array of them."""
    if isinstance(value, list):
        items = "[" + ", ".join(_literal(one) for one in value) + "]"
        return items if top else f".array({items})"
    if isinstance(value, dict):
        members = ", ".join(f"{_quote(str(key))}: {_literal(one)}" for key, one in value.items())
        return f".object([{members or ':'}])"
    if value is None:
        return ".null"
    if isinstance(value, bool):
        return f".bool({str(value).lower()})"
    if isinstance(value, int):
        return f".int({value})"
    return f".double({value!r})" if isinstance(value, float) else f".string({_quote(str(value))})"


def _type(one: Attribute) -> str:
    return _TYPES[one.shape] + ("?" if one.optional else "")


def _name(one: Attribute) -> str:
    return _escaped(camel(one.name))


def _escaped(name: str) -> str:
    return f"`{name}`" if name in _KEYWORDS else name


def _note(one: Attribute) -> str:
    return f"/// {one.note}\n    " if one.note else ""


def _quote(text: str) -> str:
    """A string literal. JSON's differ only in how they escape."""
    out = json.dumps(text, ensure_ascii=False)
    return out.replace("\\b", "\\u{8}").replace("\\f", "\\u{c}").replace("\\/", "/")
