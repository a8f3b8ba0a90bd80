"""Ways to sign in that Lowtide proves itself, and the messages that they send."""

from lowtide.auth.methods.mail import Smtp, mail_sender, mail_server
from lowtide.auth.methods.messages import Carrier, Message, Messages
from lowtide.auth.methods.outbox import Outbox, outbox_routes
from lowtide.storage.db.migrate import Component

COMPONENT = Component("methods", "lowtide.auth.methods")

__all__ = [
    "COMPONENT",
    "Carrier",
    "Message",
    "Messages",
    "Outbox",
    "Smtp",
    "mail_sender",
    "mail_server",
    "outbox_routes",
]
