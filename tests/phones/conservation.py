"""What may not be lost: every accepted value is in the record, was replaced knowingly, or is in the journal.

The merge is not done a second time here. What each kind of field promises is an equation over the
accepted changes, and the order in which a network delivered them does not occur in it.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from typing import Any

import msgspec
import pycrdt

from lowtide.kernel.schema import Field, Schema
from tests.phones.history import Change, History, RecordKey, Violation

Journal = dict[RecordKey, list[tuple[str, Any]]]
"""(field, value that lost) of each record."""

TOKEN = re.compile(r"\bt[0-9a-f]+t\b")
"""A word that people write into texts: each is unique in a run."""


def canonical(value: Any) -> str:
    """A JSON value as text that is equal for equal values."""
    return msgspec.json.encode(value, order="deterministic").decode()


def check_conservation(schema: Schema, history: History, journal: Journal, minutes: str = "minutes") -> None:
    """Raises ``Violation``. ``minutes`` is the name that the shared text has in collaborative documents."""
    by_record: dict[RecordKey, list[Change]] = {}
    for change in history.accepted():
        by_record.setdefault(change.record, []).append(change)
    _refused_stay_out(history)
    for key, changes in by_record.items():
        model = schema.models.get(key[1])
        versions = history.versions.get(key)
        if model is None or key[1].startswith("lowtide_"):
            continue  # the server fills in the rows of its own models
        if versions is None:
            if any(change.op == "put" for change in changes):
                raise Violation(f"1: {key} was acknowledged and is not on the server")
            continue
        lost = journal.get(key, [])
        final = versions[-1].data
        for field in model.fields.values():
            written = [change for change in changes if field.name in change.data]
            losers = {canonical(value) for name, value in lost if name in (field.name, "")}
            if final is None or any(change.op == "delete" for change in changes):
                _known(key, field, written, changes, losers, final)
            else:
                _RULES.get(field.merge, _latest)(
                    key, field, written, losers, final.get(field.name, field.default), minutes
                )


def _refused_stay_out(history: History) -> None:
    """A refused value that nobody else wrote is in no version of the record."""
    accepted: dict[tuple[RecordKey, str], set[str]] = {}
    for change in history.accepted():
        for name, value in change.data.items():
            accepted.setdefault((change.record, name), set()).add(canonical(value))
    for change in history.changes.values():
        if change.accepted:
            continue
        for name, value in change.data.items():
            if not isinstance(value, str) or not TOKEN.search(value):
                continue
            if canonical(value) in accepted.get((change.record, name), set()):
                continue
            for version in history.versions.get(change.record, ()):
                if version.data is not None and version.data.get(name) == value:
                    raise Violation(f"2: {change} was refused, and {name} holds its value")


def _known(
    key: RecordKey, field: Field, written: list[Change], changes: list[Change], losers: set[str], final: Any
) -> None:
    """Each value is in the record, or is what a later change says it replaced, or lost and is journaled."""
    if field.merge not in ("latest", "custom"):
        return
    if any(change.op == "delete" and field.name not in (change.base or {}) for change in changes):
        return  # an app version that does not know the field deleted the record with all there was
    replaced = {
        canonical(change.base[field.name])
        for change in changes
        if change.base is not None and field.name in change.base
    }
    for change in written:
        value = canonical(change.data[field.name])
        at_rest = final is not None and canonical(final[field.name]) == value
        if (
            not at_rest
            and value not in replaced
            and value not in losers
            and change.data[field.name] is not None
        ):
            raise Violation(f"2: {key} {field.name} {value} of {change.key} is gone without a trace")


def _latest(
    key: RecordKey, field: Field, written: list[Change], losers: set[str], final: Any, minutes: str
) -> None:
    replaced = {canonical((change.base or {}).get(field.name)) for change in written}
    values = {canonical(change.data[field.name]): change for change in written}
    for value, change in values.items():
        if value != canonical(final) and value not in replaced and value not in losers:
            raise Violation(f"2: {key} {field.name} {value} of {change.key} is gone without a trace")
    if final != field.default and canonical(final) not in values:
        raise Violation(f"4: {key} {field.name} holds {final!r}, which nobody wrote")


def _counter(
    key: RecordKey, field: Field, written: list[Change], losers: set[str], final: Any, minutes: str
) -> None:
    total = field.default or 0
    assert isinstance(total, int)
    for change in written:
        before = (change.base or {}).get(field.name, field.default) or 0
        total += (change.data[field.name] or 0) - before
    if final != total:
        raise Violation(f"3: {key} {field.name} is {final}; the increments add up to {total}")


def _set(
    key: RecordKey, field: Field, written: list[Change], losers: set[str], final: Any, minutes: str
) -> None:
    # Copies of a phone send what was in its queue under lineages of their own.
    written = list(
        {(*change.key[:3], change.key[4], canonical(change.data)): change for change in written}.values()
    )
    added, removed = _items(field, written)
    present = Counter(map(canonical, _array(final)))
    if any(count > 1 for count in present.values()):
        raise Violation(f"3: {key} {field.name} holds something twice: {final}")
    # Each item is added by one device and never again, so that whoever removes it has seen it.
    wanted = set(added) - set(removed)
    lost = {item for text in losers for item in map(canonical, _array(msgspec.json.decode(text)))}
    if missing := wanted - set(present) - lost:
        raise Violation(f"2: {key} {field.name} lacks {missing}")
    if extra := set(present) - wanted:
        raise Violation(f"4: {key} {field.name} holds {extra}, which was removed or never added")
    if twice := [item for item, count in added.items() if count > 1]:
        raise AssertionError(f"the scenario added {twice} twice")


def _text(
    key: RecordKey, field: Field, written: list[Change], losers: set[str], final: Any, minutes: str
) -> None:
    read = _document(minutes) if field.merge == "collaborative" else lambda text: text or ""
    inserted: set[str] = set()
    for change in written:
        before = TOKEN.findall(read((change.base or {}).get(field.name)))
        inserted.update(set(TOKEN.findall(read(change.data[field.name]))) - set(before))
    present = Counter(TOKEN.findall(read(final)))
    lost = {token for text in losers for token in TOKEN.findall(read(msgspec.json.decode(text)))}
    if missing := inserted - set(present) - lost:
        raise Violation(f"2: {key} {field.name} lacks {missing}: {read(final)!r}")
    if twice := {token for token, count in present.items() if count > 1}:
        raise Violation(f"3: {key} {field.name} holds {twice} twice: {read(final)!r}")


def _extreme(
    key: RecordKey, field: Field, written: list[Change], losers: set[str], final: Any, minutes: str
) -> None:
    choose = max if field.merge == "max" else min
    values = [change.data[field.name] for change in written if change.data[field.name] is not None]
    if field.default is not None:
        values.append(field.default)
    wanted = choose(values, default=None)
    if final != wanted:
        raise Violation(f"4: {key} {field.name} is {final}; the {field.merge} of all is {wanted}")


def _first(
    key: RecordKey, field: Field, written: list[Change], losers: set[str], final: Any, minutes: str
) -> None:
    values = [change.data[field.name] for change in written if change.data[field.name] is not None]
    if values and final not in values:
        raise Violation(f"4: {key} {field.name} holds {final!r}, which nobody wrote")
    for value in values:
        if value != final and canonical(value) not in losers:
            raise Violation(f"2: {key} {field.name} {value!r} came second and is not in the journal")


_RULES: dict[str, Any] = {
    "counter": _counter,
    "set": _set,
    "list": _set,
    "text": _text,
    "collaborative": _text,
    "max": _extreme,
    "min": _extreme,
    "first": _first,
    "custom": _latest,
}


def _array(value: Any) -> list[Any]:
    if isinstance(value, str):
        value = msgspec.json.decode(value)
    return value if isinstance(value, list) else []


def _items(field: Field, written: list[Change]) -> tuple[Counter[str], Counter[str]]:
    added: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    for change in written:
        before = set(map(canonical, _array((change.base or {}).get(field.name))))
        after = set(map(canonical, _array(change.data[field.name])))
        added.update(after - before)
        removed.update(before - after)
    return added, removed


def _document(name: str) -> Any:
    def read(value: str | None) -> str:
        if not value:
            return ""
        document: pycrdt.Doc[Any] = pycrdt.Doc()
        document.apply_update(base64.b64decode(value))
        return str(document.get(name, type=pycrdt.Text))

    return read
