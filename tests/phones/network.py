"""A bad network: what lies between one phone and the server, and everything that goes wrong there.

A request is a letter. It may be lost on the way there or on the way back, arrive twice, arrive long
after its sender gave up, or arrive cut. An answer that is a stream may end at any byte.
"""

from __future__ import annotations

from random import Random
from typing import Any, Literal

import msgspec

from tests.phones.checker import Holder
from tests.phones.connector import Upload
from tests.phones.frames import Frames
from tests.phones.phone import CheckpointAsk
from tests.phones.server import Exchange

Kind = Literal["upload", "checkpoint", "seed"]


class Weather(msgspec.Struct, frozen=True):
    """How bad the network is; drawn once for each run."""

    lost: float
    """Requests that never arrive."""
    unanswered: float
    """Answers that never arrive, of requests that did."""
    twice: float
    """Requests that arrive again later."""
    shortened: float
    """Requests whose body ends early."""
    hurry: float
    """Requests that are answered within one step."""
    cuts: float
    """Reads of a stream after which the connection breaks."""
    window: int
    """Bytes that fit between server and phone."""


def draw(random: Random) -> Weather:
    """Fine, mixed or stormy."""
    storm = random.choice((0.0, 0.05, 0.15, 0.35))
    return Weather(
        lost=storm,
        unanswered=storm,
        twice=storm,
        shortened=storm / 4,
        hurry=random.choice((0.2, 0.6, 0.9)),
        cuts=storm / 2,
        window=random.choice((1, 300, 4_000, 1 << 20)),
    )


class Letter(msgspec.Struct):
    """A request on its way."""

    kind: Kind
    number: int
    sender: Link | None
    """Who still waits for the answer."""
    user: str
    space: str
    token: str
    method: str
    path: str
    body: bytes
    about: Upload | CheckpointAsk | None
    slow: bool = False
    """It arrives after everything else, when its sender has long forgotten it."""


class Link:
    """One phone's radio: its download, and its letters that wait for an answer."""

    def __init__(self, holder: Holder, random: Random, weather: Weather):
        self.holder = holder
        self.online = True
        self.token = ""
        self.download: Exchange | None = None
        self.frames: Frames | None = None
        self.letters: dict[str, Letter] = {}
        self.again = False
        """The core wants to connect again at once."""
        self.stalls = 0
        """How many more times the phone takes nothing of its download when it could."""
        self._random = random
        self._weather = weather

    def headers(self) -> dict[str, str]:
        """What this platform's HTTP client says that it takes."""
        bson = "application/vnd.powersync.bson-stream;q=0.9,application/x-ndjson;q=0.8"
        return {
            "accept": self._random.choice(("application/x-ndjson", bson)),
            "accept-encoding": self._random.choice(("identity", "gzip", "zstd, gzip")),
        }

    def connected(self, exchange: Exchange) -> None:
        """A download has begun."""
        self.download = exchange
        self.frames = Frames(exchange.headers["content-type"], exchange.headers.get("content-encoding", ""))

    def read(self, calm: bool) -> tuple[int, list[str | bytes], bool]:
        """Some of the download: how many bytes, their lines, and whether the connection is over."""
        exchange, frames = self.download, self.frames
        assert exchange is not None
        assert frames is not None
        if not exchange.waiting:
            return 0, [], exchange.ended
        data = exchange.take(1 << 20 if calm else self._random.choice((1, 50, 700, 5_000, 1 << 20)))
        lines = frames.feed(data)
        if not calm and self._random.random() < self._weather.cuts:
            # A connection that closes in order hands over what it had, a broken one does not.
            rest = frames.rest() if self._random.random() < 0.5 else None
            return len(data), [*lines, rest] if rest is not None else lines, True
        return len(data), lines, exchange.ended and not exchange.waiting

    def hang_up(self) -> Exchange | None:
        """End the download on this side; the server may not hear of it yet."""
        exchange, self.download, self.frames = self.download, None, None
        return exchange

    def forget(self) -> list[Letter]:
        """The app was ended: nobody waits for answers any more. What was sent is still on its way."""
        letters = list(self.letters.values())
        for letter in letters:
            letter.sender = None
        self.letters.clear()
        return letters


class Mail:
    """All letters under way."""

    def __init__(self, random: Random, weather: Weather):
        self.letters: list[Letter] = []
        self._random = random
        self._weather = weather
        self._count = 0

    def send(self, link: Link, kind: Kind, method: str, path: str, body: bytes, about: Any = None) -> Letter:
        """Put a letter on its way. A link has one of each kind, like the SDKs."""
        self._count += 1
        who = (link.holder.user, link.holder.space)
        letter = Letter(kind, self._count, link, *who, link.token, method, path, body, about)
        link.letters[kind] = letter
        self.letters.append(letter)
        return letter

    def lose(self, letter: Letter) -> None:
        """The sender hears of a fault and waits no longer."""
        if letter.sender is not None and letter.sender.letters.get(letter.kind) is letter:
            del letter.sender.letters[letter.kind]
        letter.sender = None

    def fate(self, calm: bool) -> str:
        """What happens to the letter whose turn it is."""
        if calm:
            return "arrive"
        weather, dice = self._weather, self._random.random()
        for fate in ("lost", "unanswered", "twice", "shortened"):
            chance: float = getattr(weather, fate)
            if dice < chance:
                return fate
            dice -= chance
        return "arrive"

    def repeat(self, letter: Letter) -> None:
        """A copy stays on its way; nobody waits for it."""
        slow = self._random.random() < 0.4
        self.letters.append(msgspec.structs.replace(letter, sender=None, slow=slow))

    def next(self) -> Letter | None:
        """A letter whose turn may be now."""
        due = [letter for letter in self.letters if not letter.slow]
        return self._random.choice(due) if due else None
