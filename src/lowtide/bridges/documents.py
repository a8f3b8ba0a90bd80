"""Documents: records as RxDB holds them, and back.

A document has values as JSON has them: booleans, arrays, objects; times as text. A field that is empty is
absent, because a JSON schema's ``string`` takes no null.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from lowtide.bridges.pushes import Claim
from lowtide.kernel.codec import canonical_json
from lowtide.kernel.errors import Malformed
from lowtide.kernel.schema import Model
from lowtide.kernel.values import coerce_fields
from lowtide.sync.store import restore

VERSION = "lowtide_version"
DELETED = "_deleted"

_encode = msgspec.json.Encoder().encode
_data = msgspec.json.Decoder(dict[str, str | int | float | None]).decode


class Documents:
    """The documents of one model."""

    def __init__(self, model: Model):
        self.model = model
        self._structured: set[str] = set()
        self._booleans: set[str] = set()
        self._json: set[str] = set()
        self._former = {f.renamed_from: name for name, f in model.fields.items() if f.renamed_from}
        for field in model.fields.values():
            names = {name for name in (field.name, field.renamed_from) if name}
            if field.kind == "json" and field.merge not in ("set", "list"):
                self._json |= names
            if field.kind == "json" or field.merge in ("set", "list"):
                self._structured |= names
            elif field.kind == "boolean":
                self._booleans |= names

    def document(self, id: str, row: tuple[str, int] | None) -> msgspec.Raw:
        """The document of a stored row; of None, the one that says that it is gone."""
        if row is None:
            return msgspec.Raw(_encode({"id": id, DELETED: True}))
        document: dict[str, Any] = {"id": id}
        for name, value in _data(row[0]).items():
            if value is None:
                continue
            if name in self._structured:
                document[name] = msgspec.Raw(str(value).encode())
            else:
                document[name] = value == 1 if name in self._booleans else value
        document[VERSION] = str(row[1])
        document[DELETED] = False
        return msgspec.Raw(_encode(document))

    def claim(self, assumed: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Claim:
        """What a row of a push says. Raises ``Malformed`` for one without an id, or that is about two."""
        id = new.get("id")
        if not isinstance(id, str) or (assumed is not None and assumed.get("id") != id):
            raise Malformed("A row is about one document, and names it by 'id', a text.")
        known = assumed is not None and assumed.get(DELETED) is not True
        base = self._given(assumed) if assumed is not None and known else None
        data = self._given(new)
        for former, name in self._former.items():
            if former in new and new[former] != (assumed or {}).get(former, new.get(name)):
                # An older app writes under the name that it knows; a document has both.
                data[name] = new[former]
        for name in base or ():
            data.setdefault(name, None)
        version, has = _version(assumed, known), new.get(VERSION)
        # RxDB writes what it receives and what it assumes one after the other: a crash may come in between.
        moved = isinstance(has, str) and has != (assumed or {}).get(VERSION)
        return Claim(
            model=self.model.name,
            id=id,
            data={} if new.get(DELETED) is True else data,
            gone=new.get(DELETED) is True,
            made=not known,
            moved=moved,
            base=None if base is None or moved else {**dict.fromkeys(data), **base},
            versions=str(has)[:40] if moved else version,
            whole=True,
        )

    def agrees(self, new: Mapping[str, Any], row: tuple[str, int] | None) -> bool:
        """Is ``new`` what the record is?"""
        if row is None or new.get(DELETED) is True:
            return row is None and new.get(DELETED) is True
        try:
            mine = coerce_fields(self.model, self._given(new))
        except ValueError:
            return False
        return all(mine.get(name) == value for name, value in restore(self.model, row[0]).items())

    def _given(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return {
            # A text is a JSON value here; from a device it is the JSON text of one.
            name: canonical_json(value) if name in self._json and isinstance(value, str) else value
            for name, value in document.items()
            if name not in ("id", VERSION)
            and not name.startswith("_")
            and self._former.get(name) not in document
        }


def _version(assumed: Mapping[str, Any] | None, known: bool) -> str:
    if assumed is None:
        return ""
    version = assumed.get(VERSION)
    if not isinstance(version, str) or not version:
        # Not one of ours, or not kept: what it says stands for it.
        content = canonical_json({name: value for name, value in assumed.items() if name != VERSION})
        version = "#" + hashlib.blake2b(content.encode(), digest_size=9).hexdigest()
    return version[:40] if known else f"gone:{version[:40]}"
