"""E-mail, handed to the operator's mail server by SMTP."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from lowtide.auth.methods.addresses import email_address
from lowtide.auth.methods.messages import Message
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Malformed, SetupError
from lowtide.storage.jobs import Hopeless

if TYPE_CHECKING:
    from email.headerregistry import Address
    from email.message import EmailMessage

TIMEOUT = 20.0
"""Seconds of each step: to connect, to each answer."""

Security = Literal["starttls", "tls", "none"]


class MailServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where mail is handed over, and how."""

    host: str
    port: int
    security: Security
    user: str = ""
    password: str = ""


def mail_server(url: str) -> MailServer:
    """The server that ``smtp_url`` names. Raises ``SetupError``.

    ``smtp://user:password@host:587`` demands STARTTLS, ``smtps://host:465`` speaks TLS from the start,
    ``smtp://host:25?tls=none`` neither: a password then goes to this machine only.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _wrong(f"it cannot be read ({error})") from error
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise _wrong("it does not begin with smtp:// or smtps:// and a host")
    if parts.path not in ("", "/") or parts.fragment or parts.query not in ("", "tls=none"):
        raise _wrong("nothing but ?tls=none may follow the host and the port")
    security: Security = "tls" if parts.scheme == "smtps" else "none" if parts.query else "starttls"
    if parts.scheme == "smtps" and parts.query:
        raise _wrong("smtps:// is TLS; leave ?tls=none out")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if user and security == "none" and not _here(parts.hostname):
        raise _wrong("it would send the password to another machine in clear text")
    return MailServer(
        host=parts.hostname,
        port=port or {"tls": 465, "starttls": 587, "none": 25}[security],
        security=security,
        user=user,
        password=password,
    )


def mail_sender(text: str) -> Address:
    """The sender that ``mail_from`` names: ``App <no-reply@example.com>``. Raises ``SetupError``."""
    # Like aiosmtplib, the email package is loaded where mail is sent.
    from email.headerregistry import Address
    from email.utils import parseaddr

    name, address = parseaddr(text)
    try:
        if not text.isprintable():
            raise ValueError("a control character")
        user, _, domain = email_address(address).partition("@")
        return Address(name, user, domain)
    except (Malformed, ValueError) as error:
        raise SetupError(
            f"The setting 'mail_from' is not a sender: {text!r}.",
            hint='Write it as "Notes <no-reply@example.com>".',
        ) from error


def compose(message: Message, sender: Address, number: str, now: int) -> EmailMessage:
    """``message`` as an e-mail. A line break cannot get into a header: ``Hopeless`` for one that tries."""
    from email.headerregistry import Address
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import format_datetime

    mail = EmailMessage(policy=SMTP)
    user, _, domain = message.to.partition("@")
    try:
        mail["From"] = sender
        mail["To"] = Address("", user, domain)
        mail["Subject"] = message.subject
    except ValueError as error:
        raise Hopeless(f"The message has no valid head: {error}.") from error
    mail["Date"] = format_datetime(datetime.fromtimestamp(now / 1000, UTC))
    # The same over all attempts, so that a mail that was sent twice can be recognised.
    mail["Message-ID"] = f"<{number}@{sender.domain}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    mail.set_content(message.text)
    if message.html:
        mail.add_alternative(message.html, subtype="html")
    return mail


class Smtp:
    """Carries mail to one server, a connection a message."""

    def __init__(
        self, server: MailServer, sender: Address, clock: Clock, *, context: ssl.SSLContext | None = None
    ):
        """``context``: whom to trust; None: the system's certificate authorities."""
        self._server = server
        self._sender = sender
        self._clock = clock
        self._context = context

    async def carry(self, message: Message, number: str) -> None:
        """Hand ``message`` over. Raises ``Hopeless`` when the server refuses the recipient or the text for
        good (5xx); what concerns the connection, the login or the sender is tried again.
        """
        import aiosmtplib

        server = self._server
        mail = compose(message, self._sender, number, self._clock.now())
        if self._context is None and server.security != "none":
            # Reads the system's certificates: a file.
            self._context = await asyncio.to_thread(ssl.create_default_context)
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user or None,
            password=server.password or None,
            local_hostname=self._sender.domain,
            timeout=TIMEOUT,
            use_tls=server.security == "tls",
            start_tls=server.security == "starttls",
            tls_context=self._context if server.security != "none" else None,
        )
        try:
            async with client:
                await client.sendmail(self._sender.addr_spec, [message.to], mail.as_bytes())
        except aiosmtplib.SMTPRecipientsRefused as error:
            refused = error.recipients[0]
            if 500 <= refused.code < 600:
                raise Hopeless(f"The mail server refuses the recipient: {refused.code}.") from error
            raise
        except aiosmtplib.SMTPDataError as error:
            if 500 <= error.code < 600:
                raise Hopeless(f"The mail server refuses the message: {error.code}.") from error
            raise


def _here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _wrong(why: str) -> SetupError:
    return SetupError(
        f"The setting 'smtp_url' is not a mail server: {why}.",
        hint="Write it as smtp://user:password@mail.example.com:587; a ':' or '@' in a password as %3A, %40.",
    )
