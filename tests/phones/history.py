"""What happened in a run: every version of every record, every answer, and a digest of all of it.

It sees what no device sees: each commit of the server, and each answer before the network loses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tests.phones.world import InlineDatabase

OPS_PER_GROUP = 1 << 20
RecordKey = tuple[str, str, str]
"""(space, model, id)"""
ChangeKey = tuple[str, str, str, str, int]
"""(space, user, client_id, lineage, n)"""


class Violation(AssertionError):
    """A promise was broken."""


class Version(msgspec.Struct, frozen=True):
    """A record as one group of the server left it."""

    group: int
    data: dict[str, Any] | None
    """None: deleted."""
    text: str
    """The bytes that devices receive."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One mutation that the server answered."""

    key: ChangeKey
    op: str
    model: str
    id: str
    data: dict[str, Any]
    base: dict[str, Any] | None
    status: str
    conflicts: tuple[str, ...]
    head: int

    @property
    def record(self) -> RecordKey:
        return (self.key[0], self.model, self.id)

    @property
    def accepted(self) -> bool:
        return self.status != "refused"


class History:
    """Everything of one run. ``digest`` is equal for two runs exactly if all of it was."""

    def __init__(self, log: Callable[[str], None] | None = None):
        self.versions: dict[RecordKey, list[Version]] = {}
        self.changes: dict[ChangeKey, Change] = {}
        """In the order of the server's answers."""
        self._log = log
        self._digest = hashlib.blake2b(digest_size=8)
        self._seen_op = 0
        self._answers: dict[ChangeKey, tuple[Any, Any]] = {}

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    @property
    def group(self) -> int:
        """The latest that changed a record."""
        return self._seen_op // OPS_PER_GROUP

    def note(self, event: str) -> None:
        """One more event."""
        self._digest.update(event.encode())
        if self._log is not None:
            self._log(event)

    # -- the server --------------------------------------------------------------------------------

    def committed(self, database: InlineDatabase) -> None:
        """The server has committed: keep every record that changed."""
        rows = database.ask(
            "SELECT space, model, id, data, deleted, op FROM record WHERE op > ? ORDER BY op", self._seen_op
        )
        for space, model, id, text, deleted, op in rows:
            data = None if deleted else msgspec.json.decode(text)
            version = Version(op // OPS_PER_GROUP, data, text)
            self.versions.setdefault((space, model, id), []).append(version)
            self._seen_op = op
            self.note(f"server {op} {model}/{id} {'deleted' if deleted else text}")

    def answered(self, space: str, user: str, request: bytes, response: bytes) -> None:
        """The server has answered an upload with 200, whether or not the answer arrives."""
        body, answer = msgspec.json.decode(request), msgspec.json.decode(response)
        results = {result["n"]: result for result in answer["results"]}
        for transaction in body["transactions"]:
            for mutation in transaction.get("mutations", ()):
                self._answer(space, user, body, mutation, results[mutation["n"]], int(answer["head"]))

    def _answer(self, space: str, user: str, body: Any, mutation: Any, result: Any, head: int) -> None:
        key = (space, user, body["client_id"], body.get("lineage", ""), mutation["n"])
        before = self._answers.setdefault(key, (mutation, result))
        if before != (mutation, result):
            raise Violation(f"3: {key} was answered {before[1]}, and when it was repeated {result}")
        if key not in self.changes:
            self.changes[key] = Change(
                key=key,
                op=mutation["op"],
                model=mutation["model"],
                id=mutation["id"],
                data=mutation.get("data", {}),
                base=mutation.get("base"),
                status=result["status"],
                conflicts=tuple(result.get("conflicts", ())),
                head=head,
            )

    def rewind(self, group: int) -> None:
        """The server was restored from a backup of ``group``: what came later did not happen."""
        for key, versions in list(self.versions.items()):
            kept = [version for version in versions if version.group <= group]
            if kept:
                self.versions[key] = kept
            else:
                del self.versions[key]
        for change_key in [key for key, change in self.changes.items() if change.head > group]:
            del self.changes[change_key]
        self._answers = {key: answer for key, answer in self._answers.items() if key in self.changes}
        self._seen_op = group * OPS_PER_GROUP + OPS_PER_GROUP - 1

    # -- asking ------------------------------------------------------------------------------------

    def at(self, key: RecordKey, group: int) -> Version | None:
        """The record as of ``group``; None when it was not there."""
        for version in reversed(self.versions.get(key, ())):
            if version.group <= group:
                return None if version.data is None else version
        return None

    def records(self, space: str, model: str, group: int) -> Iterator[tuple[str, Version]]:
        """Every live record of a model as of ``group``."""
        for key in self.versions:
            if key[0] == space and key[1] == model and (version := self.at(key, group)) is not None:
                yield key[2], version

    def accepted(self) -> Iterator[Change]:
        """Every mutation that the server said it has applied, merged or found to change nothing."""
        return (change for change in self.changes.values() if change.accepted)
