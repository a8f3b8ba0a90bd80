"""Kotlin: the schema and a data class a model, for the SDK ``com.powersync:core``."""

from __future__ import annotations

import json

from lowtide.clients.described import (
    Attribute,
    Call,
    Described,
    RecordType,
    ValueShape,
    camel,
    type_name,
    words,
)

_TYPES: dict[ValueShape, str] = {
    "text": "String",
    "integer": "Long",
    "number": "Double",
    "boolean": "Boolean",
    "timestamp": "Instant",
    "json": "JsonElement",
    "array": "JsonArray",
    "object": "JsonObject",
}
_GETTERS: dict[ValueShape, str] = {
    "text": "getStringOptional",
    "integer": "getLongOptional",
    "number": "getDoubleOptional",
    "boolean": "getBooleanOptional",
}
_ZEROS: dict[ValueShape, str] = {
    "text": '""',
    "integer": "0L",
    "number": "0.0",
    "boolean": "false",
    "timestamp": "Instant.fromEpochMilliseconds(0)",
    "json": "JsonNull",
    "array": "JsonArray(emptyList())",
    "object": "JsonObject(emptyMap())",
}
_KEYWORDS = frozenset(
    """
    as break class continue do else false for fun if in interface is null object package return
    super this throw true try typealias typeof val var when while
    """.split()
)
_TAKEN = frozenset(
    """
    LowtideCommands LowtideConnector LowtideRefusal LowtideUploadException Schema Table Column Index
    TrackPreviousValuesOptions SqlCursor ConnectionContext PowerSyncDatabase String Long Int Double Boolean
    Instant Uuid ExperimentalTime ExperimentalUuidApi Json JsonArray JsonElement JsonNull JsonObject JsonPrimitive
    Map List Any Unit Exception
    """.split()
)
_COLUMNS = {"TEXT": "text", "INTEGER": "integer", "REAL": "real"}

_IMPORTS = """import com.powersync.PowerSyncDatabase
import com.powersync.db.SqlCursor
import com.powersync.db.getBooleanOptional
import com.powersync.db.getDoubleOptional
import com.powersync.db.getLongOptional
import com.powersync.db.getString
import com.powersync.db.getStringOptional
import com.powersync.db.internal.ConnectionContext
import com.powersync.db.schema.Column
import com.powersync.db.schema.Index
import com.powersync.db.schema.Schema
import com.powersync.db.schema.Table
import com.powersync.db.schema.TrackPreviousValuesOptions
import kotlin.time.ExperimentalTime
import kotlin.time.Instant
import kotlin.uuid.ExperimentalUuidApi
import kotlin.uuid.Uuid
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonArray
"""

_END = """
private fun moment(text: String): Instant? = runCatching { Instant.parse(text) }.getOrNull()

/** To the millisecond, as the server writes it. */
private fun text(moment: Instant): String {
    val whole = Instant.fromEpochMilliseconds(moment.toEpochMilliseconds()).toString().removeSuffix("Z")
    val (seconds, fraction) = whole.split(".").let { it[0] to it.getOrElse(1) { "" } }
    return seconds + "." + fraction.padEnd(3, '0').take(3) + "Z"
}

private fun newId(): String = Uuid.random().toString()
"""


def package(app: Described) -> str:
    """The package that the files are in."""
    return f"lowtide.{''.join(words(app.name.replace('-', '_')))}"


def schema(app: Described) -> str:
    """The file: what the SDK opens its database with, the models, and the calls of functions."""
    return "\n".join(
        [
            f'// Made by "lowtide client kotlin" from the app "{app.name}". Run it again when the app changes.',
            "@file:OptIn(ExperimentalTime::class, ExperimentalUuidApi::class)\n",
            f"package {package(app)}\n",
            _IMPORTS,
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
        indexes = ", ".join(
            f"Index.ascending({_quote(name)}, listOf({', '.join(map(_quote, names))}))"
            for name, names in table.indexes
        )
        tables.append(
            "            Table(\n"
            f"                name = {_quote(table.name)},\n"
            f"                columns = listOf({columns}),\n"
            f"                indexes = listOf({indexes}),\n"
            "                trackMetadata = true,\n"
            "                trackPreviousValues = TrackPreviousValuesOptions(onlyWhenChanged = true),\n"
            "            ),"
        )
    return (
        "/** What the SDK's database is opened with. */\n"
        "public val lowtideSchema: Schema =\n    Schema(\n        listOf(\n"
        + "\n".join(tables)
        + "\n        ),\n    )\n"
    )


def _record(record: RecordType) -> str:
    name = type_name(record, _TAKEN)
    fields = ["    val id: String = newId(),"]
    for one in record.attributes:
        note = f"    /** {one.note} */\n" if one.note else ""
        default = f" = {_default(one)}" if one.left_out else ""
        fields.append(f"{note}    val {_name(one)}: {_type(one)}{default},")
    read = ['                id = row.getString("id"),'] + [
        f"                {_name(one)} = {_read(one)}," for one in record.attributes
    ]
    text = f"public data class {name}(\n" + "\n".join(fields) + "\n) {\n"
    if record.writable:
        sql = _quote(record.insert)
        values = "".join(f"                {_write(one)},\n" for one in record.written)
        text += (
            "    /** Adds it, in a transaction or by itself. To change one, update the columns that changed. */\n"
            "    public fun insert(writer: ConnectionContext) {\n"
            f"        writer.execute(\n            {sql},\n"
            f"            listOf(\n                this.id,\n{values}            ),\n        )\n    }}\n\n"
            "    public suspend fun insert(database: PowerSyncDatabase) {\n"
            "        database.writeTransaction { insert(it) }\n    }\n\n"
        )
    return text + (
        "    public companion object {\n"
        f"        public const val TABLE: String = {_quote(record.name)}\n\n"
        "        /** A row of `SELECT *`. What nobody gave a value yet has its default. */\n"
        f"        public fun from(row: SqlCursor): {name} =\n"
        f"            {name}(\n" + "\n".join(read) + "\n            )\n    }\n}\n"
    )


def _calls(calls: tuple[Call, ...]) -> str:
    functions = []
    for call in calls:
        parameters = [
            f"{_name(one)}: {_type(one)}" + (" = null" if one.left_out else "") for one in call.arguments
        ]
        puts = []
        for one in call.arguments:
            put = f"put({_quote(one.name)}, {_argument(one)})"
            if one.optional:
                put = f"if ({_name(one)} != null) {put}"
            puts.append(f"                {put}\n")
        listed = ", ".join(["writer_: ConnectionContext", *parameters])
        functions.append(
            f"    public fun {_escaped(camel(call.name))}({listed}): String =\n"
            f"        give(\n            writer_,\n            {_quote(call.name)},\n"
            "            buildMap<String, JsonElement> {\n" + "".join(puts) + "            },\n        )\n"
        )
    return (
        "/**\n"
        " * Calls of the app's functions that need no network: each runs exactly once when it arrives, and its\n"
        " * outcome comes back in `lowtide_commands` under the id that is returned.\n"
        " */\n"
        "public object LowtideCommands {\n" + "\n".join(functions) + "\n"
        "    private fun give(writer: ConnectionContext, name: String, arguments: Map<String, JsonElement>): String {\n"
        "        val id = newId()\n"
        "        writer.execute(\n"
        '            "INSERT INTO lowtide_commands(id, name, args) VALUES (?, ?, ?)",\n'
        "            listOf(id, name, JsonObject(arguments).toString()),\n"
        "        )\n"
        "        return id\n    }\n}\n"
    )


def _argument(one: Attribute) -> str:
    name = _name(one)
    if one.shape == "timestamp":
        return f"JsonPrimitive(text({name}))"
    return name if one.shape in ("json", "array", "object") else f"JsonPrimitive({name})"


def _read(one: Attribute) -> str:
    column = _quote(one.name)
    if one.shape in _GETTERS:
        got = f"row.{_GETTERS[one.shape]}({column})"
    else:
        text = f"row.getStringOptional({column})"
        got = {
            "timestamp": f"{text}?.let {{ moment(it) }}",
            "array": f"{text}?.let {{ Json.parseToJsonElement(it).jsonArray }}",
        }.get(one.shape, f"{text}?.let {{ Json.parseToJsonElement(it) }}")
    return got if one.optional else f"{got} ?: {_default(one)}"


def _write(one: Attribute) -> str:
    name = f"this.{_name(one)}"  # a field may be called like a parameter
    if one.shape in _GETTERS:
        return name
    if one.shape == "timestamp":
        return f"{name}?.let {{ text(it) }}" if one.optional else f"text({name})"
    return f"{name}?.toString()" if one.optional else f"{name}.toString()"


def _default(one: Attribute) -> str:
    if one.default is None:
        return "null" if one.optional else _ZEROS[one.shape]
    if one.shape == "boolean":
        return "true" if one.default else "false"
    if one.shape == "integer":
        return f"{one.default}L"
    if one.shape == "number":
        return repr(float(one.default))
    if one.shape == "timestamp":
        return f"Instant.parse({_quote(str(one.default))})"
    if one.shape == "array":
        empty = json.loads(str(one.default)) == []
        return _ZEROS["array"] if empty else f"Json.parseToJsonElement({_quote(str(one.default))}).jsonArray"
    return (
        f"Json.parseToJsonElement({_quote(str(one.default))})"
        if one.shape == "json"
        else _quote(str(one.default))
    )


def _type(one: Attribute) -> str:
    return _TYPES[one.shape] + ("?" if one.optional else "")


def _name(one: Attribute) -> str:
    return _escaped(camel(one.name))


def _escaped(name: str) -> str:
    return f"`{name}`" if name in _KEYWORDS else name


def _quote(text: str) -> str:
    """A string literal: JSON's, and a dollar sign begins no template."""
    return json.dumps(text, ensure_ascii=True).replace("$", "\\$").replace("\\f", "\\u000c")
