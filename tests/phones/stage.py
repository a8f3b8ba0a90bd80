"""The stage of a run: server, phones, people and network, and how things move between them.

It decides nothing: ``scenario`` says what happens next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec

from lowtide.kernel.schema import Schema
from lowtide.sync.model import Mutation
from lowtide.sync.service import LOOK_EVERY
from lowtide.sync.system import with_system
from tests.phones.app import SCHEMA
from tests.phones.checker import Checker, Holder
from tests.phones.connector import Upload, Verdict
from tests.phones.conservation import check_conservation
from tests.phones.followers import Followers
from tests.phones.history import Change, History, Violation
from tests.phones.network import Letter, Link, Mail, draw
from tests.phones.phone import Applied, CheckpointAsk, Closed, Event, Mismatch, Phone, TokenWanted
from tests.phones.server import LEASE, Exchange, Hints, Server, journal, new_database
from tests.phones.users import TEAMS, Users, older, tables_of
from tests.phones.world import InlineDatabase, World

YEAR = 365 * 86_400_000
CALM_ROUNDS = 60
QUIET_ROUNDS = 3
"""Rounds of a second in which nothing moves: what a server would only do at its next sign of life is late."""
PEOPLE = (("ann", "main"), ("bob", "main"), ("ann", "main"), ("cat", "main"), ("dan", "other"))
HINTS_LOST = 0.3
"""Of what one node tells another."""
NOW = 1 << 40
"""A group after every group."""


class Stage:
    """One run's world. Every method raises ``Violation`` when a promise is broken."""

    def __init__(self, seed: int, log: Callable[[str], None] | None = None):
        self.seed = seed
        self.world = World()
        self.history = History(log)
        self.random = Random(seed)
        self.users = Users(Random(seed + 1))
        self.schema: Schema = with_system(SCHEMA)
        self.checker = Checker(self.schema, self.history)
        self.weather = draw(self.random)
        self.mail = Mail(Random(seed + 2), self.weather)
        self.links: list[Link] = []
        self.ghosts: list[Exchange] = []
        """Downloads whose phone is gone, while the server still writes to them."""
        self.calm = False
        self.trouble = False
        """The storage was made to fail: 503 is a right answer."""
        self._unknown: list[Letter] = []
        """Letters during which the server lost its power: it may have done what they ask, or not."""
        self.deployed: Schema = older(SCHEMA) if self.random.random() < 0.4 else SCHEMA
        """The version of the app that the server runs."""
        self.followers = Followers(self)
        self._names = 0
        self.nodes = self.random.choice((1, 1, 2))
        self.servers: list[Server] = []
        """The nodes, over one database."""
        self.database: InlineDatabase
        self.opened = contextlib.ExitStack()
        """What ends with the run: a database that Python's collector cannot see through stays for ever."""

    # -- setting up -----------------------------------------------------------------------------------

    async def begin(self) -> None:
        self.database = new_database(self.world, Random(self.seed + 3))
        self.opened.callback(self.database.end)
        self.database.committed = self.history.committed
        await self.start_servers()
        for user, team in (("ann", "red"), ("ann", "blue"), ("bob", "red"), ("cat", "blue")):
            await self.write("main", "put", "membership", f"{user}:{team}", user_id=user, team_id=team)
        await self.write("other", "put", "membership", "dan:red", user_id="dan", team_id="red")
        # The same id in another space is another record.
        await self.write("other", "put", "task", "task-red", team_id="red", title=self.users.token())
        for team in TEAMS:
            await self.write("main", "put", "task", f"task-{team}", team_id=team, title=self.users.token())
            await self.write("main", "put", "note", f"note-{team}", team_id=team, body=self.users.token())
            await self.write("main", "put", "card", f"card-{team}", team_id=team, body=self.users.token())
            await self.write("main", "put", "minute", f"minute-{team}", team_id=team, body=self.users.token())
        for user, space in PEOPLE[: self.random.randint(2, len(PEOPLE))]:
            link = self.new_link(user, space)
            self.links.append(link)
            link.holder.phone.subscribe("archive", {"team_id": self.random.choice(TEAMS)})

    @property
    def server(self) -> Server:
        """Whichever node a request reaches."""
        return self.servers[0] if len(self.servers) == 1 else self.random.choice(self.servers)

    async def start_servers(self) -> None:
        for server in self._new_servers():
            await server.start()

    def _new_servers(self) -> list[Server]:
        self.servers = []
        for _ in range(self.nodes):
            self._names += 1
            seed = self.seed * 1000 + self._names
            self.servers.append(
                Server(self.world, self.deployed, self.database, Hints(self._pass_hint), seed)
            )
        return self.servers

    def _pass_hint(self, sender: Hints, topic: str, payload: bytes) -> None:
        """One node tells the others; some of that is lost, and is only met by looking."""
        for server in self.servers:
            if server.bus is not sender and (self.calm or self.random.random() > HINTS_LOST):
                server.bus.hear(topic, payload)

    def new_link(self, user: str, space: str) -> Link:
        number = len(self.links)
        skew = self.random.choice((0, 0, 0, 5 * 60_000, -40_000, -56 * YEAR, 74 * YEAR))
        drift = self.random.choice((1.0, 1.0, 1.001, 0.98))
        clock, start = self.world.clock, self.world.clock.now()
        phone = Phone(
            f"{user}{number}",
            tables_of(older(SCHEMA) if self.random.random() < 0.3 else SCHEMA),
            now=lambda: max(0, start + skew + int((clock.now() - start) * drift)),
            token=self.name,
            requests=self.random.random() < 0.4,
            old_only_changed=self.random.random() < 0.7,
            max_mutations=self.random.choice((2, 10, 5_000)),
        )
        self.opened.callback(phone.close)
        return Link(Holder(phone, user, space), self.random, self.weather)

    def name(self) -> str:
        self._names += 1
        return f"{self.random.getrandbits(64):016x}-{self._names}"

    def note(self, *words: object) -> None:
        self.history.note(f"{self.world.clock.now() - 1_790_000_000_000:>9} " + " ".join(map(str, words)))

    # -- downloads ------------------------------------------------------------------------------------

    async def open(self, link: Link) -> None:
        holder = link.holder
        link.again, link.stalls = False, 0
        link.token = self.server.token(holder.user, holder.space, self.random.choice((30, 600, 3600)))
        body = holder.phone.start()
        holder.subscriptions = body["streams"]["subscriptions"]
        exchange = self.server.request(
            "POST",
            "/sync/stream",
            link.token,
            msgspec.json.encode(body),
            headers=link.headers(),
            window=self.random.choice((self.weather.window, 1, 300)),
        )
        await self.world.settle()
        self.note(holder.phone.name, "connects", exchange.status, len(body["buckets"]))
        if exchange.status != 200:
            self.unexpected(exchange.status, exchange.take(1 << 20))
            holder.phone.stop()
            return
        link.connected(exchange)
        holder.newest = holder.phone.newest()
        await self.events(link, holder.phone.established())

    async def advance(self, link: Link) -> bool:
        """Let the phone read some of its download; whether anything moved."""
        if link.download is None:
            return False
        phone = link.holder.phone
        count, lines, over = link.read(self.calm)
        for line in lines:
            await self.events(link, phone.receive(line))
            self.checker.look(link.holder)
        if lines and self.nodes == 1:
            # Of a revocation on another node one hears late.
            self.checker.taken(link.holder)
        if over and link.download is not None:
            await self.events(link, phone.ended())
            await self.end(link)
        self.note(phone.name, "reads", count, len(lines), phone.head(), "end" if over else "")
        await self.world.settle()
        return count > 0 or over

    async def end(self, link: Link) -> None:
        link.holder.phone.stop()
        exchange = link.hang_up()
        if exchange is None:
            return
        if self.calm or self.random.random() < 0.5:
            exchange.leave()
            await self.world.settle()
        else:
            self.ghosts.append(exchange)

    async def events(self, link: Link, events: list[Event]) -> None:
        holder = link.holder
        for event in events:
            match event:
                case Applied(head):
                    self.note(holder.phone.name, "applied", head)
                    self.checker.checkpoint(holder, head)
                case Mismatch(line):
                    raise Violation(f"4: {holder.phone.name} found a wrong checksum: {line}")
                case TokenWanted():
                    link.token = self.server.token(holder.user, holder.space, 3600)
                    if not event.expired:
                        await self.events(link, holder.phone.token_refreshed())
                case Closed(at_once):
                    link.again = at_once
                    await self.end(link)

    # -- letters --------------------------------------------------------------------------------------

    def write_letter(self, link: Link) -> Letter | None:
        """The next request that this phone has to make, if it has one."""
        phone = link.holder.phone
        if not link.online or link.download is None:
            return None
        if "seed" not in link.letters and (seed := phone.seed) is not None:
            return self.mail.send(link, "seed", "POST", "/sync/checkpoint-request", seed)
        if "upload" in link.letters or "checkpoint" in link.letters:
            return None
        upload = phone.upload()
        if upload is not None:
            self.note(phone.name, "sends", upload.first, upload.last)
            return self.mail.send(link, "upload", "POST", "/v1/sync/batches", upload.body, upload)
        ask = phone.ask_checkpoint()
        if ask is not None:
            return self.mail.send(link, "checkpoint", ask.method, ask.path, ask.body or b"", ask)
        return None

    async def arrive(self, letter: Letter) -> None:
        """A letter's turn has come."""
        if letter not in self.mail.letters:
            return
        fate = self.mail.fate(self.calm)
        self.note("letter", letter.number, letter.kind, letter.user, fate)
        self.mail.letters.remove(letter)
        if fate in ("lost", "twice"):
            if fate == "twice":
                self.mail.repeat(letter)
            if fate == "lost":
                self.mail.lose(letter)
                return
        if fate == "unanswered" and self.random.random() < 0.5:
            # The sender gives up first, and the request arrives after whatever it sends next.
            self.mail.repeat(letter)
            self.mail.lose(letter)
            return
        exchange = self.server.request(
            letter.method,
            letter.path,
            letter.token,
            letter.body[: self.random.randint(0, len(letter.body))] if fate == "shortened" else letter.body,
            cut=fate == "shortened",
        )
        await self.world.settle()
        await self.answer(letter, exchange, fate)

    async def answer(self, letter: Letter, exchange: Exchange, fate: str) -> None:
        status, body = exchange.status, exchange.take(1 << 30)
        if self.database.off:
            self._unknown.append(letter)
            self.mail.lose(letter)
            return
        if status == 200 and letter.kind == "upload" and fate != "shortened":
            self.history.answered(letter.space, letter.user, letter.body, body)
        elif status != 200 and fate != "shortened":
            self.unexpected(status, body)
        link = letter.sender
        if link is None:
            return
        self.mail.lose(letter)
        if fate in ("unanswered", "shortened") or not exchange.whole:
            return
        phone = link.holder.phone
        self.note(phone.name, "hears", letter.kind, status)
        if letter.kind == "upload":
            assert isinstance(letter.about, Upload)
            verdict = phone.uploaded(letter.about, status, body)
            if verdict is Verdict.TOKEN:
                link.token = self.server.token(link.holder.user, link.holder.space, 600)
        elif status == 200 and letter.kind == "seed":
            if phone.connected:
                phone.seeded(msgspec.json.decode(body)["data"]["checkpoint_request_id"])
        elif status == 200:
            assert isinstance(letter.about, CheckpointAsk)
            await self.events(link, phone.checkpoint_given(letter.about, body))
        elif status == 401:
            link.token = self.server.token(link.holder.user, link.holder.space, 600)

    def unexpected(self, status: int, body: bytes) -> None:
        """Errors that a correct server gives a correct phone: stale tokens, order, and real trouble."""
        code = msgspec.json.decode(body).get("code", "") if body else ""
        self.note("problem", status, code)
        if status == 503 and self.trouble:
            return
        if (status, code) not in ((401, "token_expired"), (409, "batch_gap"), (409, "batch_repeated")):
            raise Violation(f"the server answered {status}: {body.decode()}")

    def abandon(self, link: Link) -> None:
        for letter in link.forget():
            self.note("letter", letter.number, "abandoned")

    # -- the server -----------------------------------------------------------------------------------

    async def write(self, space: str, op: str, model: str, id: str, **data: Any) -> None:
        """The app's own code writes; a server that lost its power since the step began starts first."""
        await self.after_power_cut()
        self._names += 1
        now = self.world.clock.now()
        mutation = Mutation(n=self._names, op=op, model=model, id=id, data=data, at=now)  # type: ignore[arg-type]
        version = self.history.at((space, model, id), NOW)
        with self.steady():
            applied = await self.server.write(space, mutation)
        key = (space, "server", "server", "", self._names)
        self.history.changes[key] = Change(
            key=key,
            op=op,
            model=model,
            id=id,
            data=data,
            base=None if version is None else version.data,
            status=applied.results[0].status,
            conflicts=(),
            head=applied.group,
        )
        await self.world.settle()
        self.note("server", op, model, id, applied.results[0].status)

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """No trouble for what the scenario itself awaits of the server."""
        self.database.busy = 0
        cut, self.database.cut = self.database.cut, None
        yield
        self.database.cut = cut

    async def after_power_cut(self) -> None:
        if not self.database.off:
            return
        self.note("server restarts")
        await self.restart()

    async def restart(self, content: bytes | None = None) -> None:
        """The server dies and starts again; on ``content``, it was restored from that backup."""
        if content is not None:
            for link in self.links:
                await self.end(link)
        await self.server.kill()
        database = InlineDatabase(self.world.clock, Random(self._names), content or self.database.content())
        database.committed = self.history.committed
        self.opened.callback(database.end)
        self.database = database
        for link in self.links:
            if link.download is not None:
                link.download.ended = True
        self.ghosts.clear()
        servers = self._new_servers()
        if content is not None:
            await servers[0].begin_epoch()
        for server in servers:
            await server.start()
        for letter in self._unknown:
            await self._ask_again(letter)
        self._unknown.clear()

    async def _ask_again(self, letter: Letter) -> None:
        """A copy of the letter arrives at once: its answer says what was done, whoever is left to hear it."""
        token = self.server.token(letter.user, letter.space, 60)
        exchange = self.server.request(letter.method, letter.path, token, letter.body)
        await self.world.settle()
        self.note("letter", letter.number, "again", exchange.status)
        if letter.kind == "upload" and exchange.status == 200:
            self.history.answered(letter.space, letter.user, letter.body, exchange.take(1 << 30))

    async def hang_up_ghosts(self) -> None:
        for exchange in self.ghosts:
            exchange.leave()
        self.ghosts.clear()
        await self.world.settle()

    # -- the end --------------------------------------------------------------------------------------

    async def come_to_rest(self) -> None:
        """The network is fine and nobody writes, until nothing moves any more."""
        self.calm = True
        self.database.busy, self.database.cut = 0, None
        self.note("calm")
        if len(self.servers) > 1:
            # By then each has looked for what it was not told.
            await self.world.pass_time(1.3 * LOOK_EVERY)
        await self.hang_up_ghosts()
        quiet = 0
        for _ in range(CALM_ROUNDS):
            quiet = 0 if await self.round() else quiet + 1
            if quiet == QUIET_ROUNDS:
                if not self.checker.waiting_commands():
                    return
                await self.world.pass_time(LEASE)
                quiet = 0
            await self.world.pass_time(1)
        raise Violation(f"7: there is still something to do after {CALM_ROUNDS} quiet seconds")

    async def check_all(self) -> None:
        """Everything that holds at rest."""
        for pull in (self.followers.pull_melon, self.followers.pull_rx):
            while await pull():
                pass
        self.checker.rest([link.holder for link in self.links])
        self.checker.commands("found_city", "city")
        check_conservation(self.schema, self.history, journal(self.database))

    async def round(self) -> bool:
        """Everybody does what there is to do; whether there was anything."""
        moved = bool(self.mail.letters)
        while await self.followers.pull():
            moved = True
        while self.mail.letters:
            await self.arrive(self.mail.letters[0])
        for link in self.links:
            link.online = True
            if link.download is None:
                await self.open(link)
                moved = True
            while await self.advance(link):
                moved = True
            while (letter := self.write_letter(link)) is not None:
                moved = True
                await self.arrive(letter)
        return moved
