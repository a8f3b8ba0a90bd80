"""Messages to people: enqueued with what they tell of, sealed while they wait, carried later.

A message holds a code or a link that signs somebody in, so its job's payload is encrypted, and what was
not sent in its time is not sent at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import NotSetUp
from lowtide.storage.db import Tx
from lowtide.storage.jobs import Hopeless, Job, Jobs
from lowtide.storage.vault import Vault

JOB = "lowtide.message"
PURPOSE = "message"
"""Of the seal."""
DEADLINE = 60.0
"""Seconds of one attempt, from the name's look-up to the server's "taken"."""

Channel = Literal["mail", "sms"]

SETTINGS: Mapping[Channel, str] = {"mail": "smtp_url and mail_from", "sms": "sms_url"}
"""What the operator sets for each channel."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is told, to whom, and until when it is worth telling."""

    channel: Channel
    to: str
    """An address or a number, in the form that ``addresses`` makes."""
    text: str
    until: int
    """Milliseconds since 1970: not sent later."""
    subject: str = ""
    html: str = ""


class Carrier(Protocol):
    """Takes messages out of the house."""

    async def carry(self, message: Message, number: str) -> None:
        """Hand ``message`` over. ``number`` is the same over all attempts.

        Raises ``Hopeless`` when it is refused for good; anything else is tried again.
        """
        ...


class Sealed(msgspec.Struct, frozen=True):
    """A job's payload."""

    sealed: str


class Messages:
    """Sends messages, at least once, by whatever carries their channel."""

    def __init__(self, jobs: Jobs, vault: Vault, clock: Clock, carriers: Mapping[Channel, Carrier]):
        """Registers the job. A channel without a carrier is not set up: ``check`` says so."""
        self._jobs = jobs
        self._vault = vault
        self._clock = clock
        self._carriers = carriers
        jobs.register(JOB, Sealed, self._run, deadline=DEADLINE)

    def check(self, channel: Channel) -> None:
        """Raise ``NotSetUp`` if nothing here carries ``channel``."""
        if channel not in self._carriers:
            raise NotSetUp(
                f"This server cannot send {'e-mail' if channel == 'mail' else 'text messages'}.",
                hint=f"The operator sets {SETTINGS[channel]} in lowtide.toml; 'lowtide dev' needs neither.",
            )

    def able(self, channel: Channel) -> bool:
        """Does anything here carry ``channel``?"""
        return channel in self._carriers

    async def send(self, tx: Tx, message: Message) -> None:
        """Enqueue ``message`` in the caller's transaction; call ``wake`` after the commit.

        It is sent at least once: as soon as a worker has time, and again while that fails, until its
        time is over. Then its job is dead, where the operator sees it. Raises ``NotSetUp``.
        """
        self.check(message.channel)
        sealed = self._vault.seal(PURPOSE, msgspec.json.encode(message))
        await self._jobs.enqueue(tx, JOB, Sealed(sealed))

    def wake(self) -> None:
        """Tell the workers that there is something to send."""
        self._jobs.wake()

    async def _run(self, job: Job, payload: Sealed) -> None:
        message = msgspec.json.decode(self._vault.open(PURPOSE, payload.sealed), type=Message)
        if self._clock.now() > message.until:
            raise Hopeless("The message could not be sent while it was of use.")
        self.check(message.channel)
        await self._carriers[message.channel].carry(message, job.id)
