"""Expansion: the records that a list's records refer to, in the same answer.

One query for each level, whatever the number of references; a record that the user does not receive is not
there, like one that does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lowtide.kernel.errors import Malformed, TooLarge
from lowtide.kernel.http import MIB
from lowtide.kernel.schema import Model, Principal
from lowtide.records.shape import AnyRecord
from lowtide.records.store import QUERIES
from lowtide.storage.db import Tx
from lowtide.sync import store

if TYPE_CHECKING:
    from lowtide.records.service import Holdings, Records

MAX_EXPANDED_PATHS = 10
"""References that one list follows."""

MAX_EXPANDED_DEPTH = 3
"""References behind each other."""

MAX_EXPANDED_BYTES = 4 * MIB
"""The stored JSON of what is included."""

CHUNK = 100
"""Records of one query."""

Included = dict[str, dict[str, AnyRecord]]

_encode = msgspec.json.Encoder().encode


class Expansion:
    """The references that a list follows: field -> what is followed from there."""

    def __init__(self, records: Records, tree: dict[str, Any], model: Model):
        self._records = records
        self._tree = tree
        self._model = model

    @classmethod
    def read(cls, text: str, model: Model, records: Records) -> Expansion:
        """``owner_id,parent_id.owner_id`` for the records of ``model``. Raises ``Malformed``."""
        tree: dict[str, Any] = {}
        paths = [part.strip() for part in text.split(",")]
        if len(paths) > MAX_EXPANDED_PATHS:
            raise Malformed(f"expand: at most {MAX_EXPANDED_PATHS} references are followed")
        for path in paths:
            names = path.split(".")
            if len(names) > MAX_EXPANDED_DEPTH:
                raise Malformed(f"expand: at most {MAX_EXPANDED_DEPTH} references behind each other")
            here, at = tree, model
            for name in names:
                field = at.fields.get(name)
                target = None if field is None else records.shapes.get(field.model or "")
                if target is None:
                    raise Malformed(f"expand: {at.name} has no reference {name[:64]!r}")
                here, at = here.setdefault(name, {}), target.model
        return cls(records, tree, model)

    async def included(
        self, tx: Tx, principal: Principal, holdings: Holdings, rows: Sequence[tuple[str, str]]
    ) -> Included:
        """What the records in ``rows`` (model, stored JSON) refer to. Raises ``TooLarge``."""
        included: Included = {}
        known: dict[tuple[str, str], str] = {}
        size = 0
        level = [(self._model, text, self._tree) for _, text in rows]
        while level:
            wanted: dict[tuple[str, str], None] = {}
            follow: list[tuple[tuple[str, str], dict[str, Any]]] = []
            for model, text, tree in level:
                data = store.restore(model, text)
                for name, below in tree.items():
                    if data[name] is not None:
                        key = (str(model.fields[name].model), str(data[name]))
                        wanted[key] = None
                        follow.append((key, below))
            new = [key for key in wanted if key not in known]
            for key, row in (await self._read(tx, principal, holdings, new)).items():
                size += len(row[0])
                if size > MAX_EXPANDED_BYTES:
                    raise TooLarge(
                        f"The references have more than {MAX_EXPANDED_BYTES} bytes.", limit=MAX_EXPANDED_BYTES
                    )
                known[key] = row[0]
                shape = self._records.shapes[key[0]]
                included.setdefault(key[0], {})[key[1]] = shape.record(key[1], *row)
            next_level = {(key, id(below)): below for key, below in follow if below and key in known}
            level = [
                (self._records.shapes[key[0]].model, known[key], below)
                for (key, _), below in next_level.items()
            ]
        return included

    async def _read(
        self, tx: Tx, principal: Principal, holdings: Holdings, wanted: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], Sequence[Any]]:
        found: dict[tuple[str, str], Sequence[Any]] = {}
        keys = [
            (space, model, id) for model, id in wanted for space in self._records.spaces(principal, model)
        ]
        for start in range(0, len(keys), CHUNK):
            text = _encode(keys[start : start + CHUNK]).decode()
            for space, model, id, *row in await tx.fetch(QUERIES["records"], text):
                data = store.restore(self._records.shapes[model].model, row[0])
                sees = self._records.sync.streams.sees(principal, space, model, id, data, holdings)
                if sees and (space == principal.space or (model, id) not in found):
                    found[(model, id)] = row
        return found
