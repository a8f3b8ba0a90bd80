"""A mail server over real sockets that can fail in every way in which mail servers do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Received:
    """One mail that the server has taken."""

    def __init__(self, sender: str, recipients: list[str], data: bytes, *, tls: bool, user: str | None):
        self.sender, self.recipients, self.data, self.tls, self.user = sender, recipients, data, tls, user

    @property
    def mail(self) -> EmailMessage:
        found = message_from_bytes(self.data, policy=default)
        assert isinstance(found, EmailMessage)
        return found

    def text(self, kind: str = "plain") -> str:
        part = self.mail.get_body((kind,))
        assert part is not None
        return str(part.get_content())


class MailServer:
    """RFC 5321 with STARTTLS and AUTH PLAIN, as far as a client that sends needs it.

    ``answers`` replaces the answer to a command, once for each that is there: ``{"RCPT": ["550 no"]}``.
    ``cut`` closes the connection when so many lines of a message's data have come. ``silent`` never answers.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, users: dict[str, str] | None = None):
        self.tls = tls
        self.users = users or {}
        self.received: list[Received] = []
        self.connections = 0
        self.answers: dict[str, list[str]] = {}
        self.cut: int | None = None
        self.port = 0
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self, *, wrapped: bool = False) -> AsyncIterator[MailServer]:
        """``wrapped``: TLS from the first byte."""
        context = self.tls if wrapped else None
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        self._wrapped = wrapped
        try:
            yield self
        finally:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secure, user = self._wrapped, None
        sender, recipients = "", list[str]()

        async def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")
            await writer.drain()

        await say(self._planned("CONNECT") or "220 mail.test ESMTP")
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            verb, _, rest = line.partition(" ")
            verb = verb.upper()
            if planned := self._planned(verb):
                await say(planned)
                continue
            match verb:
                case "EHLO" | "HELO":
                    offers = ["mail.test", "8BITMIME"]
                    offers += ["STARTTLS"] * (self.tls is not None and not secure)
                    offers += ["AUTH PLAIN"] * bool(self.users)
                    await say(
                        "\r\n".join(f"250{' ' if offer is offers[-1] else '-'}{offer}" for offer in offers)
                    )
                case "STARTTLS":
                    await say("220 go ahead")
                    assert self.tls is not None
                    await writer.start_tls(self.tls)
                    secure = True
                case "AUTH":
                    _, name, password = base64.b64decode(rest.split(" ")[1]).decode().split("\0")
                    if self.users.get(name) == password:
                        user = name
                        await say("235 welcome")
                    else:
                        await say("535 no")
                case "MAIL":
                    if self.users and user is None:
                        await say("530 log in first")
                    else:
                        sender, recipients = _path(rest), []
                        await say("250 ok")
                case "RCPT":
                    recipients.append(_path(rest))
                    await say("250 ok")
                case "DATA":
                    await say("354 go ahead")
                    data = await self._data(reader)
                    if data is None:
                        return
                    if planned := self._planned("DATA END"):
                        await say(planned)
                        continue
                    self.received.append(Received(sender, recipients, data, tls=secure, user=user))
                    await say("250 taken")
                case "QUIT":
                    await say("221 bye")
                    return
                case _:
                    await say("250 ok")

    async def _data(self, reader: asyncio.StreamReader) -> bytes | None:
        lines = list[bytes]()
        while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
            if self.cut is not None and len(lines) >= self.cut:
                return None
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def _planned(self, verb: str) -> str | None:
        waiting = self.answers.get(verb)
        return waiting.pop(0) if waiting else None


def _path(rest: str) -> str:
    return rest[rest.index("<") + 1 : rest.index(">")]


def certificate(folder: Path, name: str = "localhost") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server called ``name`` and of a client that trusts it and nobody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{name}.pem"
    file.write_bytes(private + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cadata=pem.decode())
    return server, client
