"""Who did what: entries in the transaction of the change, chained so that nothing is altered unseen."""

from lowtide.audit.chain import Chain
from lowtide.audit.model import Entry
from lowtide.audit.service import Audit
from lowtide.storage.db.migrate import Component

COMPONENT = Component("audit", "lowtide.audit")

__all__ = ["COMPONENT", "Audit", "Chain", "Entry"]
