"""One-time codes and links: a person proves that a mailbox or a telephone is theirs.

A *flow* begins on a device, which gets its secret ``flow_id``, and ends there, whichever way it is
proved: by the code, or by the link, on whatever device that is opened. Opening a link does nothing, so a
mail scanner may do it. Confirming it takes the choice of the number that the beginning device shows, so
that nobody signs a stranger in by opening the stranger's mail in good faith.

At rest there is no secret: of ``flow_id`` and of the link's token a digest is kept, of the code an
HMAC under ``flow_id``, so that the few digits cannot be tried out by who reads the database.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.auth.methods.known import KnownDevices
from lowtide.auth.methods.messages import Channel, Message, Messages
from lowtide.auth.model import Spend, User
from lowtide.auth.users import Users
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import InvalidGrant, SignInPending, TooManyRequests
from lowtide.kernel.ids import Ids
from lowtide.kernel.rates import Limit
from lowtide.storage.db import Database, Tx, load_queries
from lowtide.storage.purge import purge
from lowtide.storage.rates import SharedRates

QUERIES = load_queries("lowtide.auth.methods")

DIGITS = 8
GOOD_FOR = 600
"""Seconds."""
MAX_TRIES = 5
"""Codes that may be tried in one flow."""
MAX_SECRET = 128
"""Characters of a flow's id, a code or a link's token, as they are sent."""

Charge = tuple[str, str, Limit]
"""(name, key, limit): something scarce that a message takes one of."""


class Charges(msgspec.Struct, frozen=True):
    """What a message takes of: that of strangers, or of a device that is known."""

    strangers: Sequence[Charge]
    known: Callable[[str], Sequence[Charge]]
    """By the place that ``KnownDevices`` names."""


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """What the device that began keeps."""

    flow_id: str
    """Secret; finishes the flow."""
    number: int
    """Two digits to show to the user, who finds them again behind the link."""
    expires_in: int
    """Seconds."""


class Proved(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody reads what is sent to ``address``."""

    channel: Channel
    address: str
    spend: Spend
    """Ends the flow; see ``Evidence``."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What whoever opens a link is shown."""

    address: str
    device: str
    ip: str
    asked_at: int
    numbers: Sequence[int]
    """Three, of which the device shows one."""


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """What a message tells."""

    code: str
    link: str
    """The token."""


Compose = Callable[[Secrets, int], Message]
"""What is sent, given the secrets and until when it is of use."""

Verdict = Literal["right", "wrong", "pending", "gone"]


class Codes:
    """Flows of every channel. What they cost: a transaction at each end, and that which signs in."""

    def __init__(
        self,
        database: Database,
        messages: Messages,
        rates: SharedRates,
        audit: Audit,
        clock: Clock,
        ids: Ids,
        users: Users,
    ):
        self._database = database
        self._users = users
        self._known = KnownDevices()
        self._messages = messages
        self._rates = rates
        self._audit = audit
        self._clock = clock
        self._ids = ids

    async def start(
        self,
        channel: Channel,
        address: str,
        charges: Charges,
        compose: Compose,
        *,
        device: str = "",
        installation: str = "",
        ip: str = "",
    ) -> Flow:
        """Begin a flow, and send what ``compose`` writes to ``address``.

        Nothing here depends on whether anybody has that address, so nobody learns it; but a device on which
        the address's user has signed in before, which says so by its ``installation``, has charges of its
        own: strangers cannot use up what it needs. Raises ``NotSetUp``, and ``TooManyRequests`` when one of
        ``charges`` is used up.
        """
        self._messages.check(channel)
        flow_id, link = self._ids.token(), self._ids.token()
        code = f"{int(self._ids.token(), 16) % 10**DIGITS:0{DIGITS}}"
        number = 10 + int(self._ids.token(), 16) % 90
        now = self._clock.now()
        until = now + GOOD_FOR * 1000
        message = compose(Secrets(code=code, link=link), until)

        async def work(tx: Tx) -> float:
            place = await self._place(tx, channel, address, installation)
            for name, key, limit in charges.known(place) if place else charges.strangers:
                decision = await self._rates.in_tx(tx, name, key, limit)
                if not decision.allowed:
                    return decision.retry_after
            await tx.execute(
                QUERIES["add_flow"],
                _digest(flow_id),
                channel,
                address,
                _mac(flow_id, code),
                _digest(link),
                number,
                device,
                ip,
                now,
                until,
            )
            await self._messages.send(tx, message)
            return 0.0

        wait = await self._database.write(work)
        if wait:
            raise TooManyRequests(
                "Too many codes were asked for.",
                hint="Use the last one that was sent, or wait for the seconds in Retry-After.",
                retry_after=wait,
            )
        self._messages.wake()
        return Flow(flow_id=flow_id, number=number, expires_in=GOOD_FOR)

    async def prove(self, flow_id: str, code: str | None, *, request: str = "") -> Proved:
        """Whose a flow is: by the code, or by a link that was confirmed meanwhile. ``spend`` works once.

        A wrong code counts at once, whatever becomes of the sign-in; the right one does not, so that it
        can be sent again until it has signed in. Raises ``InvalidGrant`` for a flow that is none, is over, or
        a wrong code (``tries_left`` says how many may follow), and ``SignInPending`` without a code, as long
        as nobody has confirmed the link.
        """
        digest = _digest(flow_id)
        mac = None if code is None else _mac(flow_id, _bare(code))
        now = self._clock.now()

        async def spend(tx: Tx) -> None:
            if not await tx.fetch(QUERIES["end_flow"], digest, now):
                raise _over()

        async def work(tx: Tx) -> tuple[Verdict, int, Proved | None]:
            # Held, so that no guess is compared before the one before it was counted.
            rows = await tx.fetch(QUERIES["hold_flow"], digest, now)
            if not rows:
                return "gone", 0, None
            channel, address, expected, tries, confirmed_at = rows[0]
            right = confirmed_at is not None if mac is None else hmac.compare_digest(expected, mac)
            if right:
                return "right", 0, Proved(channel=channel, address=address, spend=spend)
            if mac is None:
                return "pending", 0, None
            await tx.execute(QUERIES["count_try"], digest)
            left = MAX_TRIES - tries - 1
            if left > 0:
                return "wrong", left, None
            await tx.fetch(QUERIES["end_flow"], digest, now)
            owner = await self._owner(tx, channel, address)
            await self._audit.write(
                tx,
                Entry(
                    action="sign_in.code_exhausted",
                    actor="system",
                    target=channel,
                    request=request,
                    personal={"address": address}
                    if owner is not None
                    else {"address_hash": self._audit.pseudonym(address)},
                ),
            )
            return "gone", 0, None

        verdict, left, proved = await self._database.write(work)
        if proved is not None:
            return proved
        if verdict == "pending":
            raise SignInPending(retry_after=2)
        if verdict == "wrong":
            raise InvalidGrant("The code is wrong.", hint="Look at the latest message.", tries_left=left)
        raise _over()

    async def check(self, flow_id: str, code: str | None) -> str:
        """The address of a flow that can be finished: before anything dear is done.

        Raises what ``prove`` would for one that is over, or waits.
        """
        digest, now = _digest(flow_id), self._clock.now()
        rows = await self._database.read(lambda tx: tx.fetch(QUERIES["find_flow"], digest, now))
        if not rows:
            raise _over()
        if code is None and rows[0][0] is None:
            raise SignInPending(retry_after=2)
        return str(rows[0][1])

    async def look(self, link: str) -> Asked | None:
        """What to show to whoever opened the link; None for one that is used, expired or none."""
        rows = await self._database.read(
            lambda tx: tx.fetch(QUERIES["find_link"], _digest(link), self._clock.now())
        )
        if not rows:
            return None
        address, number, device, ip, asked_at = rows[0]
        return Asked(address=address, device=device, ip=ip, asked_at=asked_at, numbers=_choices(link, number))

    async def confirm(self, link: str, number: int) -> bool:
        """Let the device that shows ``number`` go on. A wrong number, or a link that is none, ends it all.

        A repeat with the right number is answered like the first.
        """

        async def work(tx: Tx) -> bool:
            now = self._clock.now()
            if await tx.fetch(QUERIES["confirm_link"], _digest(link), number, now):
                return True
            await tx.execute(QUERIES["end_link"], _digest(link), now)
            return False

        return await self._database.write(work)

    async def _owner(self, tx: Tx, channel: Channel, address: str) -> User | None:
        """Who has proved that ``address`` is theirs."""
        if channel == "sms":
            return await self._users.by_identity(tx, "phone", address)
        user = await self._users.by_email(tx, address)
        return user if user is not None and user.email_verified else None

    async def _place(self, tx: Tx, channel: Channel, address: str, installation: str) -> str:
        if not installation:
            return ""
        user = await self._owner(tx, channel, address)
        return "" if user is None else await self._known.place(tx, user.id, installation=installation)

    async def purge(self) -> None:
        """Forget flows whose time is over."""
        await purge(self._database, QUERIES["purge_flows"], self._clock.now())


def _over() -> InvalidGrant:
    return InvalidGrant("The code has expired or was used, or tried too often.", tries_left=0)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret[:MAX_SECRET].encode("utf-8", "surrogatepass")).hexdigest()


def _mac(flow_id: str, code: str) -> str:
    key = flow_id[:MAX_SECRET].encode("utf-8", "surrogatepass")
    return hmac.digest(key, code.encode("utf-8", "surrogatepass"), "sha256").hex()


def _bare(code: str) -> str:
    """A code as people type it, without what they put between the digits."""
    return "".join(code[:MAX_SECRET].replace("-", " ").split())


def _choices(link: str, number: int) -> Sequence[int]:
    """``number`` among two others, the same each time that the page is loaded."""
    chosen, seed = {number}, hashlib.sha256(f"numbers {link}".encode()).digest()
    for byte in seed:
        chosen.add(10 + byte % 90)
        if len(chosen) == 3:
            break
    return sorted(chosen)
