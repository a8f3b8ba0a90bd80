"""What the provider keeps. Secrets only as their SHA-256."""

from __future__ import annotations

import msgspec

from lowtide.auth.provider.model import (
    BROWSER_SECONDS,
    CODE_SECONDS,
    KEPT_SECONDS,
    REQUEST_SECONDS,
    Browser,
    Code,
    Details,
    digest,
    dumped,
)
from lowtide.kernel.clients import Client
from lowtide.kernel.clock import Clock
from lowtide.storage.db import Tx, load_queries

QUERIES = load_queries("lowtide.auth.provider")

_client = msgspec.json.Decoder(Client).decode
_details = msgspec.json.Decoder(Details).decode
_texts = msgspec.json.Decoder(tuple[str, ...]).decode
_parameters = msgspec.json.Decoder(dict[str, str]).decode


class ProviderStore:
    """Stateless; every function takes the caller's transaction."""

    def __init__(self, clock: Clock):
        self._clock = clock

    # -- clients ----------------------------------------------------------------------------------

    async def clients(self, tx: Tx) -> list[Client]:
        """Every client that was registered, by id."""
        return [_client(text) for (text,) in await tx.fetch(QUERIES["clients"])]

    async def client(self, tx: Tx, id: str) -> Client | None:
        """The client with this id."""
        rows = await tx.fetch(QUERIES["client"], id)
        return _client(rows[0][0]) if rows else None

    async def put_client(self, tx: Tx, client: Client) -> None:
        """Keep a client, in place of the one with its id."""
        await tx.execute(QUERIES["put_client"], client.id, dumped(client), self._clock.now())

    async def delete_client(self, tx: Tx, id: str) -> None:
        """Forget a client, and what it was granted; its codes are worth nothing."""
        for name in ("delete_client", "forget_consents_to", "forget_requests_of", "end_all_codes_of"):
            await tx.execute(QUERIES[name], id)

    # -- pushed requests --------------------------------------------------------------------------

    async def put_request(self, tx: Tx, secret: str, client: str, parameters: dict[str, str]) -> None:
        """Keep what a client pushed, for ``REQUEST_SECONDS``."""
        until = self._clock.now() + REQUEST_SECONDS * 1000
        await tx.execute(QUERIES["put_request"], digest(secret), client, dumped(parameters), until)

    async def request(self, tx: Tx, hash: str, client: str) -> dict[str, str] | None:
        """What ``client`` pushed; None for another's, an unknown one and one that was used or is too old."""
        rows = await tx.fetch(QUERIES["request"], hash, self._clock.now())
        return _parameters(rows[0][1]) if rows and rows[0][0] == client else None

    async def take_request(self, tx: Tx, hash: str) -> bool:
        """Use a pushed request up: True for the first to do so."""
        return bool(await tx.fetch(QUERIES["take_request"], hash, self._clock.now()))

    # -- codes ------------------------------------------------------------------------------------

    async def put_code(self, tx: Tx, secret: str, client: str, user: str, details: Details) -> None:
        """Keep a code, good for ``CODE_SECONDS``."""
        until = self._clock.now() + CODE_SECONDS * 1000
        await tx.execute(QUERIES["put_code"], digest(secret), client, user, dumped(details), until)

    async def code(self, tx: Tx, secret: str) -> Code | None:
        """The code, held until the transaction ends; used and expired ones, too."""
        rows = await tx.fetch(QUERIES["code"], digest(secret))
        if not rows:
            return None
        client, user, details, expires_at, used, session = rows[0]
        return Code(
            client=client,
            user=user,
            details=_details(details),
            expires_at=expires_at,
            used=bool(used),
            session=session,
        )

    async def use_code(self, tx: Tx, secret: str, session: str | None) -> None:
        """Note that a code was used, and for which session."""
        await tx.execute(QUERIES["use_code"], digest(secret), session)

    # -- consent ----------------------------------------------------------------------------------

    async def agreed(self, tx: Tx, user: str, client: str) -> frozenset[str]:
        """The scopes that ``user`` has granted ``client``, held until the transaction ends."""
        rows = await tx.fetch(QUERIES["consent"], user, client)
        return frozenset(rows[0][0].split(" ")) if rows else frozenset()

    async def agree(self, tx: Tx, user: str, client: str, scope: frozenset[str]) -> None:
        """Keep what ``user`` grants ``client``, besides what they granted before."""
        whole = sorted(scope | await self.agreed(tx, user, client))
        await tx.execute(QUERIES["put_consent"], user, client, " ".join(whole), self._clock.now())

    async def consents(self, tx: Tx, user: str) -> dict[str, tuple[frozenset[str], int]]:
        """All that ``user`` has granted: the scopes by client, and when (milliseconds since 1970)."""
        rows = await tx.fetch(QUERIES["consents"], user)
        return {client: (frozenset(scope.split(" ")), agreed_at) for client, scope, agreed_at in rows}

    async def withdraw(self, tx: Tx, user: str, client: str) -> frozenset[str]:
        """Forget what ``user`` has granted ``client``, and return it. Codes on their way are worth nothing.

        Who redeems one of them meanwhile is waited for, and so is who is about to be given one: afterwards
        every session that they gave can be read, and no other comes.
        """
        rows = await tx.fetch(QUERIES["delete_consent"], user, client)
        # Behind the consent: no code is given from here on.
        await tx.execute(QUERIES["end_codes_of_client"], user, client)
        return frozenset(rows[0][0].split(" ")) if rows else frozenset()

    # -- browsers ---------------------------------------------------------------------------------

    async def put_browser(self, tx: Tx, secret: str, browser: Browser) -> None:
        """Keep a browser's sign-in, for ``BROWSER_SECONDS``."""
        until = self._clock.now() + BROWSER_SECONDS * 1000
        await tx.execute(
            QUERIES["put_browser"],
            digest(secret),
            browser.user,
            browser.auth_time,
            browser.proved_at,
            dumped(browser.amr),
            until,
        )

    async def browser(self, tx: Tx, secret: str) -> Browser | None:
        """Who is signed in in the browser that holds ``secret``."""
        rows = await tx.fetch(QUERIES["browser"], digest(secret), self._clock.now())
        if not rows:
            return None
        user, auth_time, proved_at, amr = rows[0]
        return Browser(user=user, auth_time=auth_time, proved_at=proved_at, amr=_texts(amr))

    async def signed_in(self, tx: Tx, secret: str) -> bool:
        """Is anybody signed in in the browser that holds ``secret``? Held until the transaction ends."""
        return bool(await tx.fetch(QUERIES["hold_browser"], digest(secret), self._clock.now()))

    async def end_browser(self, tx: Tx, secret: str) -> None:
        """Sign the browser out."""
        await tx.fetch(QUERIES["delete_browser"], digest(secret))

    async def end_browsers(self, tx: Tx, user: str) -> None:
        """Sign ``user`` out of every browser; codes that are on their way are worth nothing."""
        await tx.execute(QUERIES["forget_browsers"], user)
        await tx.execute(QUERIES["end_codes"], user)

    # -- the end ----------------------------------------------------------------------------------

    async def factors(self, tx: Tx, user: str) -> tuple[str, ...]:
        """None: it is no way of signing in."""
        return ()

    async def forget(self, tx: Tx, user: str) -> None:
        """Delete everything that is kept about ``user``; their browsers are signed out."""
        # In the order in which a code is given: what it waits for is gone before the code is.
        for name in ("forget_browsers", "forget_consents", "forget_codes"):
            await tx.execute(QUERIES[name], user)

    async def sweep(self, tx: Tx) -> None:
        """Delete what has expired."""
        now = self._clock.now()
        await tx.execute(QUERIES["sweep_requests"], now)
        await tx.execute(QUERIES["sweep_codes"], now - KEPT_SECONDS * 1000)
        await tx.execute(QUERIES["sweep_browsers"], now)
