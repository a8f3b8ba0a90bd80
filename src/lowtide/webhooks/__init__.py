"""Events as signed messages to other servers."""

from lowtide.storage.db.migrate import Component
from lowtide.webhooks.routes import webhook_routes
from lowtide.webhooks.service import QUEUE, SEALED, Webhooks

COMPONENT = Component("webhooks", "lowtide.webhooks")

__all__ = ["COMPONENT", "QUEUE", "SEALED", "Webhooks", "webhook_routes"]
