"""The outbox of ``lowtide dev``: messages that a developer reads instead of their recipients."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from lowtide.auth.methods.messages import Channel, Message
from lowtide.auth.methods.pages import escaped, page
from lowtide.kernel.clock import Clock
from lowtide.kernel.http import Request, Response, Route
from lowtide.storage.db import Database, Tx, load_queries

QUERIES = load_queries("lowtide.auth.methods")
_LOG = logging.getLogger("lowtide.outbox")
_LINK = re.compile(r"https?://[^\s<>\"']+")

MAX_SENT = 100
"""Messages that are kept."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A message that would have been sent."""

    channel: Channel
    to: str
    subject: str
    text: str
    sent_at: int
    """Milliseconds since 1970."""


class Sents(msgspec.Struct, frozen=True):
    """What the outbox holds, newest first."""

    messages: Sequence[Sent]


class Outbox:
    """Carries messages no further than into a table, the latest hundred. For development only."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._clock = clock

    async def carry(self, message: Message, number: str) -> None:
        """Keep ``message``, once a ``number``."""
        now = self._clock.now()

        async def work(tx: Tx) -> None:
            await tx.execute(
                QUERIES["add_sent"],
                number,
                message.channel,
                message.to,
                message.subject,
                message.text,
                now,
            )
            await tx.execute(QUERIES["trim_sent"], MAX_SENT)

        await self._database.write(work)
        what = "mail" if message.channel == "mail" else "text message"
        _LOG.info("a %s to %s is in the outbox: /dev/outbox", what, message.to)


async def read_sent(tx: Tx) -> Sents:
    """What the outbox holds, newest first."""
    return Sents(
        [
            Sent(channel=channel, to=to, subject=subject, text=text, sent_at=at)
            for channel, to, subject, text, at in await tx.fetch(QUERIES["read_sent"], MAX_SENT)
        ]
    )


def outbox_routes(database: Database) -> list[Route]:
    """``GET /dev/outbox`` for people, ``GET /dev/outbox.json`` for tests: ``lowtide dev`` only."""

    async def show(_: Request[None, None]) -> Response:
        """A page with the messages, newest first."""
        sent = (await database.read(read_sent)).messages
        if not sent:
            body = '<p class="soft">Nothing was sent yet. Ask for a code, and look again.</p>'
        else:
            body = "".join(map(_article, sent))
        return page("Outbox", f"<h1>Outbox</h1><p class=soft>What would have been sent.</p>{body}", wide=True)

    async def listed(_: Request[None, None]) -> Sents:
        """The messages, newest first."""
        return await database.read(read_sent)

    return [
        Route(
            "GET",
            "/dev/outbox",
            show,
            auth="none",
            produces="text/html",
            summary="The development server's outbox, as a page",
            tags=("development",),
        ),
        Route(
            "GET",
            "/dev/outbox.json",
            listed,
            auth="none",
            response=Sents,
            summary="The development server's outbox",
            tags=("development",),
        ),
    ]


def _article(sent: Sent) -> str:
    when = datetime.fromtimestamp(sent.sent_at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    title = escaped(sent.subject or "Text message")
    return (
        f'<article><h2>{title}</h2><p class="soft">to {escaped(sent.to)}, {when}</p>'
        f"<pre>{_linked(sent.text)}</pre></article>"
    )


def _linked(text: str) -> str:
    parts, at = [], 0
    for found in _LINK.finditer(text):
        link = escaped(found[0])
        parts.append(f'{escaped(text[at : found.start()])}<a href="{link}">{link}</a>')
        at = found.end()
    return "".join(parts) + escaped(text[at:])
