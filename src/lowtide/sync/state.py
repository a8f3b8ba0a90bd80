"""What a group of transactions is merged with: everything that was read for it, as the merge goes on."""

from __future__ import annotations

from collections.abc import Mapping

from lowtide.kernel.schema import Lookup, Principal
from lowtide.sync.index import IndexKey
from lowtide.sync.model import RecordKey, StoredRecord
from lowtide.sync.streams import Holding


class State:
    """What a group read from the database, and what its transactions have made of it so far."""

    def __init__(
        self,
        records: dict[RecordKey, StoredRecord | None],
        index: dict[IndexKey, str | None],
        holdings: dict[tuple[str, str], dict[Lookup, dict[str, int]]],
    ):
        self.records = records
        """Every record that a transaction names; None: there is none."""
        self.index = index
        """Unique values that were read: value -> id of the record that holds it; None: nobody does."""
        self.holdings = holdings
        """(space, user) -> the keys of each lookup."""

    def held_by(self, principal: Principal) -> Mapping[Lookup, Holding]:
        """The keys that the user holds."""
        return self.holdings.get((principal.space, principal.user), {})
