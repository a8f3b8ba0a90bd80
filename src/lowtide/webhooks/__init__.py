"""Events as signed messages to other servers."""

from lowtide.storage.db.migrate import Component
from lowtide.webhooks.model import Endpoint
from lowtide.webhooks.records import QUEUE as RECORDS_QUEUE
from lowtide.webhooks.records import RecordChange
from lowtide.webhooks.routes import webhook_routes
from lowtide.webhooks.sending import Tried
from lowtide.webhooks.service import MAX_ENDPOINTS, QUEUE, SEALED, Webhooks
from lowtide.webhooks.store import listed

COMPONENT = Component("webhooks", "lowtide.webhooks")

__all__ = [
    "COMPONENT",
    "MAX_ENDPOINTS",
    "QUEUE",
    "RECORDS_QUEUE",
    "SEALED",
    "Endpoint",
    "RecordChange",
    "Tried",
    "Webhooks",
    "listed",
    "webhook_routes",
]
