"""Signing in: with a password, with a code from a mail, and what a token costs once somebody is signed in.

Users sign up as people do: they ask for a code, read the mail, and set a password with it. The mails go over
SMTP to a server of ours; each request comes from a network of its own, because tries are counted by network.
argon2id is dear by design, so its threads are counted apart.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvloop

from benchmarks.client import Wire, connect
from benchmarks.meter import Meter, memory, stepped_back
from benchmarks.rows import Row
from benchmarks.run import Run, Server
from tests.auth.methods.smtp_server import MailServer, Received

DEVICES = 16
"""Connections, each signing in one user after the other."""
USERS = 48
PASSWORD = "wandering lighthouse keepers"
TOKENS = 2_000
MAIL_SECONDS = 30.0
_CODE = re.compile(r"Your code for \w+: ([0-9 ]+)")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


def measure(run: Run) -> None:
    uvloop.run(_measure(run))


async def _measure(run: Run) -> None:
    async with MailServer().serving() as mails:
        mails.received = post = _Post()
        settings = {
            "smtp_url": f"smtp://127.0.0.1:{mails.port}?tls=none",
            "mail_from": "Bench <bench@example.com>",
            "trusted_proxies": "127.0.0.1",
        }
        with run.server(settings=settings) as server:
            run.say("signing up")
            await _everybody(server, post, _Person.sign_up)
            run.say("signing in with a password")
            whole, hashing = await _rounds(run, server, post, _Person.by_password, 5)
            add = run.add
            add(Row(area="login", name="with a password", per="login", rounds=whole))
            apart = [all_ - hash_ for all_, hash_ in zip(whole, hashing, strict=True)] if any(hashing) else []
            note = "" if apart else "the threads that hash cannot be told apart on this system"
            add(Row(area="login", name="the same, without argon2id", per="login", rounds=apart, note=note))
            run.say("signing in with a mailed code")
            whole, _ = await _rounds(run, server, post, _Person.by_code, 3)
            held = memory(server.pid) / 1e6
            add(Row(area="login", name="with a mailed code", per="login", rounds=whole, memory_mb=held))
    with run.server() as server:
        run.say("verifying tokens")
        new, known = await asyncio.to_thread(_verify, run, server)
        add(Row(area="login", name="an access token, the first time", per="request", rounds=new))
        add(Row(area="login", name="an access token, known", per="request", rounds=known))


class _Post(list[Received]):
    """The mails that a server has taken, and the codes in them."""

    def __init__(self) -> None:
        super().__init__()
        self._codes: dict[str, asyncio.Queue[str]] = {}

    def append(self, mail: Received) -> None:
        """A mail has come."""
        found = _CODE.search(mail.text())
        if found is not None:
            self._of(mail.recipients[0]).put_nowait(found[1].replace(" ", ""))

    async def code_for(self, address: str) -> str:
        """The code in the next mail to ``address``. Raises ``TimeoutError``."""
        async with asyncio.timeout(MAIL_SECONDS):
            return await self._of(address).get()

    def _of(self, address: str) -> asyncio.Queue[str]:
        return self._codes.setdefault(address, asyncio.Queue())


class _Person:
    """Somebody with a mailbox, on a connection that others use after them."""

    def __init__(self, wire: Wire, post: _Post, number: int):
        self._wire = wire
        self._post = post
        self._email = f"user{number}@example.com"

    async def sign_up(self) -> None:
        """Set a first password with a code from a mail."""
        await self._with_code("/v1/auth/password/set", {"password": PASSWORD})

    async def by_password(self) -> None:
        """Sign in with it."""
        _signed_in(await self._ask("/v1/auth/password", {"email": self._email, "password": PASSWORD}))

    async def by_code(self) -> None:
        """Sign in with a code from a mail."""
        await self._with_code("/v1/auth/email/finish", {})

    async def _with_code(self, path: str, more: dict[str, str]) -> None:
        flow = await self._ask("/v1/auth/email/start", {"email": self._email})
        code = await self._post.code_for(self._email)
        _signed_in(await self._ask(path, {"flow_id": flow["flow_id"], "code": code, **more}))

    async def _ask(self, path: str, body: dict[str, str]) -> Any:
        place = os.urandom(3)
        headers = f"x-forwarded-for: 10.{place[0]}.{place[1]}.{place[2]}\r\n"
        answer = await self._wire.ask("POST", path, _encode(body), headers)
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"POST {path}: {answer.status} {answer.body[:500]!r}")
        return _decode(answer.body)


def _signed_in(answer: Any) -> None:
    if "refresh_token" not in answer:
        raise RuntimeError(f"nobody was signed in: {answer}")


Do = Callable[[_Person], Awaitable[None]]


async def _everybody(server: Server, post: _Post, do: Do) -> None:
    """``do`` for each user, on ``DEVICES`` connections at a time."""

    async def some(first: int) -> None:
        wire = await connect(server.port)
        try:
            for number in range(first, USERS, DEVICES):
                await do(_Person(wire, post, number))
        finally:
            wire.close()

    await asyncio.gather(*(some(first) for first in range(DEVICES)))


async def _rounds(
    run: Run, server: Server, post: _Post, do: Do, most: int
) -> tuple[list[float], list[float]]:
    """Microseconds of CPU of a login in each round: all of it, and of the threads that hash alone."""
    whole, hashing = [], []
    for _ in range(min(most, run.rounds)):
        before = stepped_back(server.pid)
        with Meter(server.pid) as meter:
            await _everybody(server, post, do)
        whole.append(meter.cpu / USERS * 1e6)
        hashing.append((stepped_back(server.pid) - before) / USERS * 1e6)
    return whole, hashing


def _verify(run: Run, server: Server) -> tuple[list[float], list[float]]:
    """Microseconds of CPU of ``Tokens.verify``, in this process: a token's first time, and each after."""
    new: list[float] = []
    known: list[float] = []
    for i in range(run.rounds):
        tokens = [server.token(f"user{i}-{number}") for number in range(TOKENS)]
        for found in (new, known):
            began = time.process_time()
            for token in tokens:
                server.tokens.verify(token)
            found.append((time.process_time() - began) / TOKENS * 1e6)
    return new, known
