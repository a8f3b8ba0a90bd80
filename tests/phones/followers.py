"""Those of a run that follow the server without a client core, and what each asks it for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.phones.app import SCHEMA
from tests.phones.checker import Seat
from tests.phones.puller import Puller, Rx, Watermelon

if TYPE_CHECKING:
    from tests.phones.stage import Stage


class Followers:
    """A script, an app with WatermelonDB and one with RxDB. Every method raises ``Violation``."""

    def __init__(self, stage: Stage):
        self.puller = Puller(Seat("ann", "main"))
        self.melon = Watermelon(Seat("bob", "main"), list(SCHEMA.models))
        self.rx = Rx(Seat("cat", "main"), stage.random.choice(("note", "card", "membership", "city")))
        self._stage = stage

    async def pull(self) -> bool:
        """The script asks for its next page; whether there was something new."""
        token = self._stage.server.token(self.puller.seat.user, self.puller.seat.space, 60)
        before = self.puller.head
        exchange = self._stage.server.request(
            "POST", "/v1/sync/pull", token, self.puller.ask(self._stage.random.choice((1, 3, 50)))
        )
        await self._stage.world.settle()
        body = exchange.take(1 << 30)
        if exchange.status != 200:
            self._stage.unexpected(exchange.status, body)
            return False
        complete = self.puller.take(body)
        if complete:
            self._stage.checker.pulled(self.puller.seat, self.puller.rows(), self.puller.head)
        self._stage.note("pull", self.puller.head, complete)
        return not complete or self.puller.head != before

    async def pull_melon(self) -> bool:
        """The app with WatermelonDB asks for its next page; whether there may be more."""
        token = self._stage.server.token(self.melon.seat.user, self.melon.seat.space, 60)
        exchange = self._stage.server.request(
            "POST", "/v1/bridges/watermelondb/pull", token, self.melon.ask()
        )
        await self._stage.world.settle()
        body = exchange.take(1 << 30)
        if self._stage.database.off:
            return False
        if exchange.status != 200:
            self._stage.unexpected(exchange.status, body)
            return False
        whole = self.melon.take(body)
        if whole:
            self._stage.checker.pulled(self.melon.seat, self.melon.rows, self.melon.head)
        self._stage.note("melon", self.melon.head, whole)
        return not whole

    async def pull_rx(self) -> bool:
        """The app with RxDB asks for its next page; whether there may be more."""
        token, limit = (
            self._stage.server.token(self.rx.seat.user, self.rx.seat.space, 60),
            self._stage.random.choice((1, 3, 50)),
        )
        headers = {"x-lowtide-client": "rx"}
        exchange = self._stage.server.request("GET", self.rx.ask(limit), token, headers=headers)
        await self._stage.world.settle()
        body = exchange.take(1 << 30)
        if self._stage.database.off:
            return False
        if exchange.status == 410:
            self.rx.begin_anew()
            self._stage.note("rx begins anew")
            return True
        if exchange.status != 200:
            self._stage.unexpected(exchange.status, body)
            return False
        whole = self.rx.take(body, limit)
        if whole:
            self._stage.checker.pulled_versions(self.rx.seat, self.rx.model, self.rx.versions, self.rx.head)
        self._stage.note("rx", self.rx.head, whole)
        return not whole
