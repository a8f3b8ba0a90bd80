"""What happens in a run: any step may follow any other, as the seed says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from lowtide.sync import download, segments
from tests.phones.app import SCHEMA
from tests.phones.history import Violation
from tests.phones.network import Link
from tests.phones.server import Alarm
from tests.phones.stage import NOW, Stage
from tests.phones.users import TEAMS, TOPICS, tables_of

STEPS = 190
MOST_PHONES = 6


class Scenario(Stage):
    """A run in two parts. In the *turmoil* anything may happen. In the *calm* the network is fine and nobody
    writes any more, until nothing moves; then everything that holds in the end is checked.
    """

    def __init__(self, seed: int, steps: int = STEPS, log: Callable[[str], None] | None = None):
        super().__init__(seed, log)
        self._steps = steps
        self._backup: tuple[bytes, int] | None = None
        """The server's database, and its head then."""
        self._phone_backups: dict[Link, bytes] = {}

    def play(self) -> str:
        """The whole run."""
        sizes = self.random.choice((2, 3, 5, 30)), self.random.choice((200, 64 * 1024, 64 * 1024))
        with self.opened, _small(*sizes), Alarm() as alarm:
            self.world.play(self._play())
            if alarm.heard:
                raise Violation(f"the server logged an error: {alarm.heard[0]}")
        return self.history.digest

    async def _play(self) -> None:
        await self.begin()
        await self.come_to_rest()
        self.calm = False
        self._back_up_server()
        for link in self.links:
            self._back_up_phone(link)
        steps = self._choices()
        weights = [weight for weight, _ in steps]
        for _ in range(self._steps):
            await self.random.choices(steps, weights)[0][1]()
            await self.after_power_cut()
        await self.come_to_rest()
        await self.check_all()

    def _choices(self) -> list[tuple[int, Callable[[], Any]]]:
        return [
            (300, self._act),
            (600, self._read),
            (15, self._stall),
            (100, self._connect),
            (300, self._send),
            (150, self._carry),
            (40, self._pass_time),
            (20, self._grant_or_revoke),
            (30, self._server_writes),
            (40, self._churn),
            (15, self._airplane),
            (12, self._kill),
            (20, self._subscribe),
            (3, self._reinstall),
            (4, self._sign_out),
            (5, self._upgrade),
            (10, self.hang_up_ghosts),
            (8, self._trouble),
            (8, self._cut_power),
            (8, self._trim),
            (10, self.followers.pull),
            (10, self.followers.pull_melon),
            (16, self.followers.pull_rx),
            (7, self._resync),
            (4, self._deploy),
            (8, self._back_up),
            (2, self._restore_server),
            (14, self._restore_phone),
        ]

    def _any(self, fit: Callable[[Link], bool] = lambda link: True) -> Link:
        """Any phone; rather one that ``fit`` says yes to."""
        return self.random.choice([link for link in self.links if fit(link)] or self.links)

    # -- people and network ---------------------------------------------------------------------------

    async def _act(self) -> None:
        link = self._any()
        done = self.users.act(link.holder)
        self.note(link.holder.phone.name, "writes", *done)
        self.checker.look(link.holder)

    async def _connect(self) -> None:
        link = self._any(lambda link: link.download is None and link.online)
        if link.download is None and link.online:
            await self.open(link)

    async def _read(self) -> None:
        waiting = [link for link in self.links if link.download is not None and link.download.waiting > 0]
        for link in waiting:
            link.stalls = max(0, link.stalls - 1)
        ready = [link for link in waiting if not link.stalls]
        if ready:
            await self.advance(self.random.choice(ready))

    async def _stall(self) -> None:
        """A phone takes nothing for a while, and what the server writes to it waits in mid-stream."""
        link = self._any(lambda link: link.download is not None)
        link.stalls = self.random.randint(1, 20)
        self.note(link.holder.phone.name, "stalls")

    async def _send(self) -> None:
        letter = self.write_letter(self._any(lambda link: link.download is not None and not link.letters))
        if letter is not None and self.random.random() < self.weather.hurry:
            await self.arrive(letter)

    async def _carry(self) -> None:
        letter = self.mail.next()
        if letter is not None:
            await self.arrive(letter)

    async def _airplane(self) -> None:
        link = self._any(lambda link: not link.online or self.random.random() < 0.3)
        link.online = not link.online
        self.note(link.holder.phone.name, "online" if link.online else "offline")
        if not link.online:
            self.abandon(link)
            await self.end(link)

    async def _subscribe(self) -> None:
        link = self._any()
        stream, parameters = self.random.choice(
            [("articles", {"topic": topic}) for topic in TOPICS]
            + [("archive", {"team_id": team}) for team in (*TEAMS, *TEAMS, "strangers")]
            + [("nothing", {"x": 1})]
        )
        phone = link.holder.phone
        if self.random.random() < 0.2:
            self.note(phone.name, "unsubscribes", stream, parameters)
            await self.events(link, phone.unsubscribe(stream, parameters))
        else:
            self.note(phone.name, "subscribes", stream, parameters)
            await self.events(link, phone.subscribe(stream, parameters))

    # -- phones ---------------------------------------------------------------------------------------

    async def _kill(self) -> None:
        link = self._any()
        self.note(link.holder.phone.name, "killed")
        await self.end(link)
        self.abandon(link)
        link.holder.phone.kill()
        self.checker.look(link.holder)

    async def _upgrade(self) -> None:
        link = self._any()
        self.note(link.holder.phone.name, "upgraded")
        await self.end(link)
        self.abandon(link)
        link.holder.phone.upgrade(tables_of(SCHEMA), requests=self.random.random() < 0.5)
        self.checker.look(link.holder)

    async def _reinstall(self) -> None:
        link = self._any()
        self.note(link.holder.phone.name, "reinstalled")
        await self.end(link)
        self.abandon(link)
        link.holder.phone.reinstall()
        link.holder.forget()

    async def _sign_out(self) -> None:
        """Sign out, and perhaps another user of the household signs in on this phone."""
        link = self._any()
        holder = link.holder
        await self.end(link)
        self.abandon(link)
        holder.phone.sign_out()
        holder.forget()
        if holder.space == "main":
            holder.user = self.random.choice(("ann", "bob", "cat"))
        self.note(holder.phone.name, "signs in as", holder.user)

    # -- the server -----------------------------------------------------------------------------------

    async def _grant_or_revoke(self) -> None:
        link = self._any(lambda link: link.holder.space == "main")
        user, team = link.holder.user, self.random.choice(TEAMS)
        id = f"{user}:{team}"
        if self.history.at(("main", "membership", id), NOW) is None:
            await self.write("main", "put", "membership", id, user_id=user, team_id=team)
        elif self.random.random() < 0.5:
            await self.write("main", "delete", "membership", id)

    async def _server_writes(self) -> None:
        tasks = sorted(id for id, _ in self.history.records("main", "task", NOW))
        if tasks and self.random.random() < 0.5:
            approved = self.random.randint(0, 1)
            await self.write("main", "patch", "task", self.random.choice(tasks), approved=approved)
        else:
            await self.write("main", "put", "city", f"city{self.users.fresh()}", name=self.users.token())

    async def _churn(self) -> None:
        """Rows of a bucket come and go, and that they went is forgotten before slow phones hear of it."""
        model, team = self.random.choice(("note", "card", "minute", "city")), self.random.choice(TEAMS)
        about = {"name": self.users.token()} if model == "city" else {"team_id": team}
        there = sorted(
            id
            for id, version in self.history.records("main", model, NOW)
            if version.data is not None and version.data.get("team_id") == about.get("team_id")
        )
        if there and self.random.random() < 0.8:
            await self.write("main", "delete", model, self.random.choice(there))
        dice, member = self.random.random(), f"{self._any().holder.user}:{team}"
        if dice < 0.5:
            await self._trim()
        elif dice < 0.75 and self.history.at(("main", "membership", member), NOW) is not None:
            await self.write("main", "delete", "membership", member)
        if model != "city":
            about["body"] = self.users.token()
        await self.write("main", "put", model, f"{model}{self.users.fresh()}", **about)

    async def _pass_time(self) -> None:
        seconds = self.random.choice((0.5, 3, 25, 100, 400))
        self.note("time", seconds)
        await self.world.pass_time(seconds)

    async def _trouble(self) -> None:
        self.database.busy = self.random.randint(1, 3)
        self.trouble = True

    async def _cut_power(self) -> None:
        """The server loses its power around its next commit, or right now."""
        cut = self.random.choice(("before", "after", None))
        self.note("power", cut)
        if cut is None:
            self.database.off = True
        else:
            self.database.cut = cut  # type: ignore[assignment]

    async def _trim(self) -> None:
        """The server forgets its removals; whoever has not heard of them downloads anew."""
        # A clock that stands would call nothing old that happened since it moved last.
        await self.world.pass_time(self.random.choice((0.0, 0.01)))
        await self.after_power_cut()
        with self.steady():
            self.note("trims", await self.server.trim())

    async def _resync(self) -> None:
        """Support tells a device to download everything anew."""
        holder = self._any().holder
        with self.steady():
            await self.server.resync(holder.user, holder.space, holder.phone.client_id)
        await self.world.settle()
        self.note(holder.phone.name, "is resynced")

    async def _deploy(self) -> None:
        """A new version of the app: fields are added."""
        if self.deployed is not SCHEMA:
            self.note("deploys")
            self.deployed = SCHEMA
            await self.restart()

    # -- backups -------------------------------------------------------------------------------------

    async def _back_up(self) -> None:
        """Somebody makes a backup: of the server, or of a phone that has nothing to upload."""
        if self.random.random() < 0.15:
            self._back_up_server()
        link = self._any(lambda link: not link.holder.phone.pending())
        if not link.holder.phone.pending():
            self._back_up_phone(link)

    def _back_up_server(self) -> None:
        self._backup = (self.database.content(), self.database.ask("SELECT group_no FROM head")[0][0])
        self.note("backs up", self._backup[1])

    def _back_up_phone(self, link: Link) -> None:
        self._phone_backups[link] = link.holder.phone.backup()
        self.note(link.holder.phone.name, "is backed up")

    async def _restore_server(self) -> None:
        """The server's disk is lost, and what came after the backup with it."""
        if self._backup is None or self.deployed is not SCHEMA:
            return
        content, group = self._backup
        self.note("restores", group)
        self.history.rewind(group)
        self.checker.rewound()
        self._phone_backups.clear()
        for link in self.links:
            link.holder.go_back()
        await self.restart(content)

    async def _restore_phone(self) -> None:
        """A backup is put back, on its phone or a new one: what came after it only the server knows."""
        link = self._any(lambda link: link in self._phone_backups)
        content = self._phone_backups.get(link)
        if content is None:
            return
        if self.random.random() < 0.4 and len(self.links) < MOST_PHONES:
            old, link = link, self.new_link(link.holder.user, link.holder.space)
            link.holder.phone.requests = old.holder.phone.requests
            self.links.append(link)
            self.note(link.holder.phone.name, "is a copy of", old.holder.phone.name)
            link.holder.life = len(self.links) * 1000
        else:
            self.note(link.holder.phone.name, "is restored")
            await self.end(link)
            self.abandon(link)
        link.holder.phone.restore(content)
        link.holder.go_back()


@contextlib.contextmanager
def _small(rows: int, size: int) -> Iterator[None]:
    """Pages of a few rows and packets of a few bytes: a few rows are several, and a stream may stand still
    between any two of them."""
    before = segments.PAGE_ROWS, download.FLUSH_BYTES
    segments.PAGE_ROWS, download.FLUSH_BYTES = rows, size
    try:
        yield
    finally:
        segments.PAGE_ROWS, download.FLUSH_BYTES = before
