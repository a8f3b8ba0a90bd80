"""Ways to sign in that Lowtide proves itself, and the messages that they send."""

from lowtide.auth.methods.mail import Smtp, mail_sender, mail_server
from lowtide.auth.methods.messages import Carrier, Channel, Message, Messages
from lowtide.auth.methods.outbox import Outbox, outbox_routes
from lowtide.auth.methods.secondfactor import SEALED as SEALED_TOTP
from lowtide.auth.methods.service import Methods
from lowtide.auth.methods.sms import HttpSms
from lowtide.storage.db.migrate import Component

SEALED = SEALED_TOTP
"""What the vault seals here."""
COMPONENT = Component("methods", "lowtide.auth.methods")

__all__ = [
    "COMPONENT",
    "SEALED",
    "Carrier",
    "Channel",
    "HttpSms",
    "Message",
    "Messages",
    "Methods",
    "Outbox",
    "Smtp",
    "mail_sender",
    "mail_server",
    "outbox_routes",
]
