"""A run: phones, people, a bad network and a server, driven by one seed.

    python -m tests.phones.simulation --seed 7        plays one run and shows every step
    python -m tests.phones.simulation --seeds 0:1000  plays many; a failure prints the command that replays it

A run has two parts. In the *turmoil* any step may happen next. In the *calm* the network is fine and
nobody writes any more, until nothing moves; then everything that holds in the end is checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec

from lowtide.kernel.schema import Schema
from lowtide.sync import segments
from lowtide.sync.model import Mutation
from lowtide.sync.system import with_system
from tests.phones.app import app
from tests.phones.checker import Checker, Holder
from tests.phones.connector import Upload, Verdict
from tests.phones.conservation import check_conservation
from tests.phones.history import Change, History, Violation
from tests.phones.network import Letter, Link, Mail, draw
from tests.phones.phone import Applied, CheckpointAsk, Closed, Event, Mismatch, Phone, TokenWanted
from tests.phones.server import Exchange, Server, journal, new_database
from tests.phones.users import TEAMS, TOPICS, Users, tables_of
from tests.phones.world import InlineDatabase, World

YEAR = 365 * 86_400_000
STEPS = 90
CALM_ROUNDS = 60
OLD_VERSION = frozenset({("task", "place"), ("task", "least"), ("note", "colour")})
"""What the first version of the app does not know yet."""
PEOPLE = (("ann", "main"), ("bob", "main"), ("ann", "main"), ("cat", "main"), ("dan", "other"))


class Simulation:
    """One run. ``play`` returns the digest of its history, or raises ``Violation``."""

    def __init__(self, seed: int, steps: int = STEPS, keep_log: bool = False):
        self.seed = seed
        self.world = World()
        self.history = History(keep_log)
        self.random = Random(seed)
        self.users = Users(Random(seed + 1))
        self._steps = steps
        self._schema: Schema = with_system(app.compile())
        self._checker = Checker(self._schema, self.history)
        self._weather = draw(self.random)
        self._mail = Mail(Random(seed + 2), self._weather)
        self._links: list[Link] = []
        self._ghosts: list[Exchange] = []
        """Downloads whose phone is gone, while the server still writes to them."""
        self._calm = False
        self._names = 0
        self._expect_trouble = False
        self._server: Server
        self._database: InlineDatabase

    def play(self) -> str:
        """The whole run."""
        try:
            with _small_pages(self.random.choice((2, 5, 30, 1000))):
                self.world.play(self._play())
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"the run failed: {type(error).__name__}: {error}") from error
        return self.history.digest

    async def _play(self) -> None:
        await self._begin()
        steps = self._choices()
        weights = [weight for weight, _ in steps]
        for _ in range(self._steps):
            await self.random.choices(steps, weights)[0][1]()
            await self._after_power_cut()
        await self._rest()

    # -- setting up ----------------------------------------------------------------------------------

    async def _begin(self) -> None:
        self._database = new_database(self.world, Random(self.seed + 3))
        self._database.committed = self.history.committed
        await self._start_server()
        for user, team in (("ann", "red"), ("ann", "blue"), ("bob", "red"), ("cat", "blue")):
            await self._write("main", "put", "membership", f"{user}:{team}", user_id=user, team_id=team)
        await self._write("other", "put", "membership", "dan:red", user_id="dan", team_id="red")
        for user, space in PEOPLE[: self.random.randint(2, len(PEOPLE))]:
            self._links.append(self._new_link(user, space))

    async def _start_server(self) -> None:
        self._names += 1
        self._server = Server(self.world, app.compile(), self._database, self.seed * 1000 + self._names)
        await self._server.start()

    def _new_link(self, user: str, space: str) -> Link:
        number = len(self._links)
        skew = self.random.choice((0, 0, 0, 5 * 60_000, -40_000, -56 * YEAR, 74 * YEAR))
        drift = self.random.choice((1.0, 1.0, 1.001, 0.98))
        clock, start = self.world.clock, self.world.clock.now()
        phone = Phone(
            f"{user}{number}",
            tables_of(self._schema, OLD_VERSION if self.random.random() < 0.3 else frozenset()),
            now=lambda: max(0, start + skew + int((clock.now() - start) * drift)),
            token=self._name,
            requests=self.random.random() < 0.4,
            old_only_changed=self.random.random() < 0.7,
            max_mutations=self.random.choice((2, 10, 5_000)),
        )
        return Link(Holder(phone, user, space), self.random, self._weather)

    def _name(self) -> str:
        self._names += 1
        return f"{self.random.getrandbits(64):016x}-{self._names}"

    def _note(self, *words: object) -> None:
        self.history.note(f"{self.world.clock.now() - 1_790_000_000_000:>9} " + " ".join(map(str, words)))

    # -- what may happen -----------------------------------------------------------------------------

    def _choices(self) -> list[tuple[int, Callable[[], Any]]]:
        return [
            (22, self._act),
            (40, self._read),
            (14, self._connect),
            (24, self._send),
            (24, self._carry),
            (6, self._pass_time),
            (3, self._grant_or_revoke),
            (3, self._server_writes),
            (2, self._airplane),
            (2, self._kill),
            (2, self._subscribe),
            (1, self._reinstall),
            (1, self._sign_out),
            (1, self._upgrade),
            (1, self._hang_up_ghosts),
            (1, self._trouble),
            (1, self._cut_power),
        ]

    def _any(self) -> Link:
        return self.random.choice(self._links)

    async def _act(self) -> None:
        link = self._any()
        done = self.users.act(link.holder)
        self._note(link.holder.phone.name, "writes", *done)
        self._checker.look(link.holder)

    async def _connect(self) -> None:
        link = self._any()
        if link.download is None and link.online:
            await self._open(link)

    async def _open(self, link: Link) -> None:
        holder = link.holder
        link.again = False
        link.token = self._server.token(holder.user, holder.space, self.random.choice((30, 600, 3600)))
        body = holder.phone.start()
        holder.subscriptions = body["streams"]["subscriptions"]
        exchange = self._server.request(
            "POST",
            "/sync/stream",
            link.token,
            msgspec.json.encode(body),
            headers=link.headers(),
            window=self._weather.window,
        )
        await self.world.settle()
        self._note(holder.phone.name, "connects", exchange.status, len(body["buckets"]))
        if exchange.status != 200:
            self._unexpected(exchange.status, exchange.take(1 << 20))
            holder.phone.stop()
            return
        link.connected(exchange)
        await self._events(link, holder.phone.established())

    async def _read(self) -> None:
        await self._advance(self._any())

    async def _advance(self, link: Link) -> bool:
        """Let the phone read some of its download; whether anything moved."""
        if link.download is None:
            return False
        phone = link.holder.phone
        count, lines, over = link.read(self._calm)
        for line in lines:
            await self._events(link, phone.receive(line))
            self._checker.look(link.holder)
        if over and link.download is not None:
            await self._events(link, phone.ended())
            await self._end(link)
        self._note(phone.name, "reads", count, len(lines), phone.head(), "end" if over else "")
        await self.world.settle()
        return count > 0 or over

    async def _end(self, link: Link) -> None:
        link.holder.phone.stop()
        exchange = link.hang_up()
        if exchange is None:
            return
        if self._calm or self.random.random() < 0.5:
            exchange.leave()
            await self.world.settle()
        else:
            self._ghosts.append(exchange)

    async def _events(self, link: Link, events: list[Event]) -> None:
        holder = link.holder
        for event in events:
            match event:
                case Applied(head):
                    self._note(holder.phone.name, "applied", head)
                    self._checker.checkpoint(holder, head)
                case Mismatch(line):
                    raise Violation(f"4: {holder.phone.name} found a wrong checksum: {line}")
                case TokenWanted():
                    link.token = self._server.token(holder.user, holder.space, 3600)
                    if not event.expired:
                        await self._events(link, holder.phone.token_refreshed())
                case Closed(at_once):
                    link.again = at_once
                    await self._end(link)

    # -- letters -------------------------------------------------------------------------------------

    async def _send(self) -> None:
        letter = self._write_letter(self._any())
        if letter is not None and self.random.random() < self._weather.hurry:
            await self._arrive(letter)

    def _write_letter(self, link: Link) -> Letter | None:
        """The next request that this phone has to make, if it has one."""
        phone = link.holder.phone
        if not link.online or link.download is None:
            return None
        if "seed" not in link.letters and (seed := phone.seed) is not None:
            return self._mail.send(link, "seed", "POST", "/sync/checkpoint-request", seed)
        if "upload" in link.letters or "checkpoint" in link.letters:
            return None
        upload = phone.upload()
        if upload is not None:
            self._note(phone.name, "sends", upload.first, upload.last)
            return self._mail.send(link, "upload", "POST", "/v1/sync/batches", upload.body, upload)
        ask = phone.ask_checkpoint()
        if ask is not None:
            return self._mail.send(link, "checkpoint", ask.method, ask.path, ask.body or b"", ask)
        return None

    async def _carry(self) -> None:
        if self._mail.letters:
            await self._arrive(self.random.choice(self._mail.letters))

    async def _arrive(self, letter: Letter) -> None:
        """A letter's turn has come."""
        if letter not in self._mail.letters:
            return
        fate = self._mail.fate(self._calm)
        self._note("letter", letter.number, letter.kind, letter.user, fate)
        self._mail.letters.remove(letter)
        if fate in ("lost", "twice"):
            if fate == "twice":
                self._mail.repeat(letter)
            if fate == "lost":
                self._mail.lose(letter)
                return
        if fate == "unanswered" and self.random.random() < 0.5:
            # The sender gives up first, and the request arrives after whatever it sends next.
            self._mail.repeat(letter)
            self._mail.lose(letter)
            return
        exchange = self._server.request(
            letter.method,
            letter.path,
            letter.token,
            letter.body[: self.random.randint(0, len(letter.body))] if fate == "shortened" else letter.body,
            cut=fate == "shortened",
        )
        await self.world.settle()
        await self._answer(letter, exchange, fate)

    async def _answer(self, letter: Letter, exchange: Exchange, fate: str) -> None:
        status, body = exchange.status, exchange.take(1 << 30)
        if self._database.off:
            # What the server did before it lost its power is found out by asking again.
            self._mail.repeat(letter)
            self._mail.lose(letter)
            return
        if status == 200 and letter.kind == "upload" and fate != "shortened":
            self.history.answered(letter.space, letter.user, letter.body, body)
        elif status != 200 and fate != "shortened":
            self._unexpected(status, body)
        link = letter.sender
        if link is None:
            return
        self._mail.lose(letter)
        if fate in ("unanswered", "shortened") or not exchange.whole:
            return
        phone = link.holder.phone
        self._note(phone.name, "hears", letter.kind, status)
        if letter.kind == "upload":
            assert isinstance(letter.about, Upload)
            verdict = phone.uploaded(letter.about, status, body)
            if verdict is Verdict.TOKEN:
                link.token = self._server.token(link.holder.user, link.holder.space, 600)
        elif status == 200 and letter.kind == "seed":
            if phone.connected:
                phone.seeded(msgspec.json.decode(body)["data"]["checkpoint_request_id"])
        elif status == 200:
            assert isinstance(letter.about, CheckpointAsk)
            await self._events(link, phone.checkpoint_given(letter.about, body))
        elif status == 401:
            link.token = self._server.token(link.holder.user, link.holder.space, 600)

    def _unexpected(self, status: int, body: bytes) -> None:
        """Errors that a correct server gives a correct phone: stale tokens, order, and real trouble."""
        code = msgspec.json.decode(body).get("code", "") if body else ""
        self._note("problem", status, code)
        if status == 503 and self._expect_trouble:
            return
        if (status, code) not in ((401, "token_expired"), (409, "batch_gap"), (409, "batch_repeated")):
            raise Violation(f"the server answered {status}: {body.decode()}")

    # -- the server ----------------------------------------------------------------------------------

    async def _write(self, space: str, op: str, model: str, id: str, **data: Any) -> None:
        """The app's own code writes."""
        self._names += 1
        self._database.busy = 0
        cut, self._database.cut = self._database.cut, None
        now = self.world.clock.now()
        mutation = Mutation(n=self._names, op=op, model=model, id=id, data=data, at=now)  # type: ignore[arg-type]
        version = self.history.at((space, model, id), 1 << 40)
        applied = await self._server.write(space, mutation)
        self._database.cut = cut
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
        self._note("server", op, model, id, applied.results[0].status)

    async def _grant_or_revoke(self) -> None:
        user, team = self.random.choice(("ann", "bob", "cat")), self.random.choice(TEAMS)
        id = f"{user}:{team}"
        if self.history.at(("main", "membership", id), 1 << 40) is None:
            await self._write("main", "put", "membership", id, user_id=user, team_id=team)
        else:
            await self._write("main", "delete", "membership", id)

    async def _server_writes(self) -> None:
        tasks = sorted(id for id, _ in self.history.records("main", "task", 1 << 40))
        if tasks and self.random.random() < 0.5:
            approved = self.random.randint(0, 1)
            await self._write("main", "patch", "task", self.random.choice(tasks), approved=approved)
        else:
            await self._write("main", "put", "city", f"city{self.users.fresh()}", name=self.users.token())

    async def _pass_time(self) -> None:
        seconds = self.random.choice((0.5, 3, 25, 100, 2_000))
        self._note("time", seconds)
        await self.world.pass_time(seconds)

    async def _trouble(self) -> None:
        self._database.busy = self.random.randint(1, 3)
        self._expect_trouble = True

    async def _cut_power(self) -> None:
        """The server loses its power around its next commit, or right now."""
        cut = self.random.choice(("before", "after", None))
        self._note("power", cut)
        if cut is None:
            self._database.off = True
        else:
            self._database.cut = cut  # type: ignore[assignment]

    async def _after_power_cut(self) -> None:
        if not self._database.off:
            return
        self._note("server restarts")
        await self._server.kill()
        fresh = InlineDatabase(self.world.clock, Random(self._names), self._database.content())
        fresh.committed = self.history.committed
        self._database = fresh
        for link in self._links:
            if link.download is not None:
                link.download.ended = True
        self._ghosts.clear()
        await self._start_server()

    async def _hang_up_ghosts(self) -> None:
        for exchange in self._ghosts:
            exchange.leave()
        self._ghosts.clear()
        await self.world.settle()

    # -- phones --------------------------------------------------------------------------------------

    async def _airplane(self) -> None:
        link = self._any()
        link.online = not link.online
        self._note(link.holder.phone.name, "online" if link.online else "offline")
        if not link.online:
            self._abandon(link)
            await self._end(link)

    def _abandon(self, link: Link) -> None:
        for letter in link.forget():
            self._note("letter", letter.number, "abandoned")

    async def _kill(self) -> None:
        link = self._any()
        self._note(link.holder.phone.name, "killed")
        await self._end(link)
        self._abandon(link)
        link.holder.phone.kill()
        self._checker.look(link.holder)

    async def _upgrade(self) -> None:
        link = self._any()
        self._note(link.holder.phone.name, "upgraded")
        await self._end(link)
        self._abandon(link)
        link.holder.phone.upgrade(tables_of(self._schema))
        self._checker.look(link.holder)

    async def _reinstall(self) -> None:
        link = self._any()
        self._note(link.holder.phone.name, "reinstalled")
        await self._end(link)
        self._abandon(link)
        link.holder.phone.reinstall()
        link.holder.forget()

    async def _sign_out(self) -> None:
        """Sign out, and perhaps another user of the household signs in on this phone."""
        link = self._any()
        holder = link.holder
        await self._end(link)
        self._abandon(link)
        holder.phone.sign_out()
        holder.forget()
        if holder.space == "main":
            holder.user = self.random.choice(("ann", "bob", "cat"))
        self._note(holder.phone.name, "signs in as", holder.user)

    async def _subscribe(self) -> None:
        link = self._any()
        stream, parameters = self.random.choice(
            [("articles", {"topic": topic}) for topic in TOPICS]
            + [("archive", {"team_id": team}) for team in (*TEAMS, "strangers")]
            + [("nothing", {"x": 1})]
        )
        phone = link.holder.phone
        if self.random.random() < 0.3:
            self._note(phone.name, "unsubscribes", stream, parameters)
            await self._events(link, phone.unsubscribe(stream, parameters))
        else:
            self._note(phone.name, "subscribes", stream, parameters)
            await self._events(link, phone.subscribe(stream, parameters))

    # -- the end -------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        self._calm = True
        self._database.busy, self._database.cut = 0, None
        self._note("calm")
        await self._hang_up_ghosts()
        quiet = 0
        for _ in range(CALM_ROUNDS):
            moved = await self._round()
            quiet = 0 if moved else quiet + 1
            if quiet == 3:
                break
            await self.world.pass_time(1)
        holders = [link.holder for link in self._links]
        self._checker.rest(holders)
        check_conservation(self._schema, self.history, journal(self._database))

    async def _round(self) -> bool:
        """Everybody does what there is to do; whether there was anything."""
        moved = bool(self._mail.letters)
        while self._mail.letters:
            await self._arrive(self._mail.letters[0])
        for link in self._links:
            link.online = True
            if link.download is None:
                await self._open(link)
                moved = True
            while await self._advance(link):
                moved = True
            while (letter := self._write_letter(link)) is not None:
                moved = True
                await self._arrive(letter)
        return moved


@contextlib.contextmanager
def _small_pages(rows: int) -> Iterator[None]:
    """Pages of a few rows, so that a few rows are several pages."""
    before, segments.PAGE_ROWS = segments.PAGE_ROWS, rows
    try:
        yield
    finally:
        segments.PAGE_ROWS = before
