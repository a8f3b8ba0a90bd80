"""Writing entries: in the caller's transaction, so neither is there without the other."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from lowtide.audit.model import MAX_PERSONAL, Entry, cut, seal_personal, seal_value
from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import canonical_json
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Tx, load_queries

QUERIES = load_queries("lowtide.audit")


class Audit:
    """Keeps entries. One for the whole process; safe to use from every transaction."""

    def __init__(self, clock: Clock, ids: Ids, *, pepper: bytes = b""):
        """``pepper``: what keys the hashes of values; not in the database in the clear."""
        self._clock, self._ids = clock, ids
        self.pepper = pepper
        self.tell: Callable[[Tx, Sequence[Entry]], Awaitable[None]] | None = None
        """Told of entries in their transaction; awaits nothing but its ``tx``."""
        self.wrote = False
        """Has an entry been written since somebody set this to False? A hint for the sequencer."""

    def pseudonym(self, text: str) -> str:
        """What stands for ``text`` in ``personal`` where nobody needs it: the same for the same.

        Keyed: who has the database alone cannot try texts out.
        """
        return hmac.digest(
            self.pepper or b"-", f"pseudonym\n{text}".encode("utf-8", "surrogatepass"), "sha256"
        )[:16].hex()

    async def write(self, tx: Tx, entry: Entry) -> str:
        """Keep ``entry`` in the caller's transaction: it exists exactly if that commits. Returns its id.

        Nothing is cut out of the caller's way: a text that is too long or cannot be stored is shortened or
        escaped, and a ``personal`` beyond 16 KiB keeps its names only. ``TypeError`` for a ``before``,
        ``after`` or ``personal`` that is no JSON. One statement; two with any of these three. About 15 µs.
        """
        (id,) = await self.write_all(tx, [entry])
        return id

    async def write_all(self, tx: Tx, entries: Sequence[Entry]) -> list[str]:
        """``write`` for each of ``entries``, in as many statements as for one."""
        ids, rows, details = [], [], []
        for entry in entries:
            id, salt = self._ids.uuid(), self._ids.token()
            personal = _personal(entry) if entry.personal else None
            detailed = not (personal is None and entry.before is None and entry.after is None)
            ids.append(id)
            rows.append(
                (
                    id,
                    self._clock.now(),
                    cut(entry.space),
                    cut(entry.action),
                    cut(entry.actor),
                    cut(entry.via),
                    cut(entry.target),
                    cut(entry.request),
                    None if entry.before is None else seal_value(self.pepper, salt, entry.before),
                    None if entry.after is None else seal_value(self.pepper, salt, entry.after),
                    seal_personal(salt, personal or "") if detailed else None,
                )
            )
            if detailed:
                details.append((id, salt, personal))
        await tx.execute_many(QUERIES["add_entry"], rows)
        if details:
            await tx.execute_many(QUERIES["add_detail"], details)
        self.wrote = True
        if self.tell is not None:
            await self.tell(tx, entries)
        return ids

    async def write_change(self, tx: Tx, entry: Entry) -> bool:
        """``write``, unless the last entry of this action and target had the same ``after``. Did it change?

        For what is looked at every start, such as the settings: only a change is worth an entry.
        """
        last = await tx.fetch(QUERIES["last"], cut(entry.action), cut(entry.target))
        if last:
            [(hash, salt)] = last
            if seal_value(self.pepper, salt, entry.after) == bytes(hash):
                return False
        await tx.execute(QUERIES["keep_last"], await self.write(tx, entry))
        return bool(last)

    async def erase(self, tx: Tx, subject: str) -> int:
        """Forget the personal data and the salts of every entry whose actor or target is ``subject``.

        The entries stay, and so does the chain: it holds only hashes, which nobody can try values against
        any more. The erasure is an entry itself (``audit.erase``). Returns how many entries lost theirs.
        Costs a look at each entry of the subject.
        """
        by = await self.write(tx, Entry(action="audit.erase", actor="system", target=subject))
        return len(await tx.fetch(QUERIES["erase"], cut(subject), by))


def _personal(entry: Entry) -> str:
    text = canonical_json(msgspec.to_builtins(entry.personal))
    if len(text.encode()) > MAX_PERSONAL:
        return canonical_json({cut(name): "too large to keep" for name in list(entry.personal)[:20]})
    return text
